"""Videos written and read back by a real ffmpeg."""

from __future__ import annotations

import stat
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latte_core.errors import InvalidInputError, MissingDependencyError, NonFiniteError
from latte_core.video import check_target, load_formats, read_video, write_image, write_video

COLOURS = [(0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.1, 0.2, 0.9), (0.95, 0.9, 0.1), (1.0, 1.0, 1.0)]


def moving_square(num_frames: int = 6, height: int = 48, width: int = 64) -> Tensor:
    frames = torch.full((num_frames, height, width, 3), 0.08)
    for index in range(num_frames):
        colour = torch.tensor(COLOURS[index % len(COLOURS)])
        frames[index, 12:36, 4 + 4 * index : 28 + 4 * index] = colour
    return frames


@pytest.mark.parametrize("extension", ["mp4", "webm", "gif"])
@pytest.mark.parametrize("num_frames", [1, 2, 6])
def test_video_reads_back_with_its_frames_size_and_colours(
    tmp_path: Path, extension: str, num_frames: int
) -> None:
    frames = moving_square(num_frames)
    back = read_video(write_video(tmp_path / f"clip.{extension}", frames)).frames
    assert back.shape == frames.shape
    # flat areas inside the square: chroma is stored at half resolution, edges bleed
    for index in range(num_frames):
        inside = (index, slice(16, 32), slice(8 + 4 * index, 24 + 4 * index))
        assert (back[inside] - frames[inside]).abs().max() < 0.04


@pytest.mark.parametrize("extension", ["mp4", "webm"])
@pytest.mark.parametrize(
    ("fps", "stored"),
    [(8, Fraction(8)), (7.5, Fraction(15, 2)), (23.976, Fraction("23.976")), (Fraction(25), 25)],
)
def test_rate_is_stored_exactly(
    tmp_path: Path, extension: str, fps: float, stored: Fraction
) -> None:
    path = write_video(tmp_path / f"clip.{extension}", moving_square(), fps)
    assert read_video(path).fps == stored


def test_gif_rate_is_kept_to_a_hundredth_of_a_second(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.gif", moving_square(16), 8)
    assert float(read_video(path).fps) == pytest.approx(8, rel=0.05)


def test_png_keeps_every_byte(tmp_path: Path) -> None:
    frame = torch.rand((33, 47, 3), generator=torch.Generator().manual_seed(1))
    back = read_video(write_image(tmp_path / "frame.png", frame)).frames[0]
    assert (back - frame).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("extension", ["mp4", "webm", "gif", "png"])
def test_same_frames_give_the_same_file(tmp_path: Path, extension: str) -> None:
    frames = moving_square(1 if extension == "png" else 6)
    first = write_video(tmp_path / f"a.{extension}", frames).read_bytes()
    assert write_video(tmp_path / f"b.{extension}", frames).read_bytes() == first


@pytest.mark.parametrize("extension", ["mp4", "webm"])
@pytest.mark.parametrize("side", range(1, 9))
def test_r52_size_works_or_names_the_nearest(tmp_path: Path, extension: str, side: int) -> None:
    frames = moving_square(2)[:, :side, :16]
    if side % 2 == 0:
        path = write_video(tmp_path / f"clip.{extension}", frames)
        assert read_video(path).frames.shape == frames.shape
        return
    with pytest.raises(InvalidInputError, match=rf"{side - 1} and {side + 1}"):
        write_video(tmp_path / f"clip.{extension}", frames)


@pytest.mark.parametrize("side", [1, 3, 8])
def test_r52_gif_takes_odd_sizes(tmp_path: Path, side: int) -> None:
    frames = moving_square(2)[:, :side, :5]
    assert read_video(write_video(tmp_path / "clip.gif", frames)).frames.shape == frames.shape


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1001, True])
@pytest.mark.parametrize("extension", ["mp4", "gif"])
def test_r52_rate_that_cannot_be_stored_is_refused(
    tmp_path: Path, extension: str, fps: float
) -> None:
    with pytest.raises(InvalidInputError, match="fps"):
        write_video(tmp_path / f"clip.{extension}", moving_square(), fps)


def test_r52_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        write_video(tmp_path / "clip.mp4", torch.zeros(0, 16, 16, 3))


def test_several_frames_as_png_are_refused_with_the_formats_that_hold_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"holds 1 frame.*\.mp4"):
        write_video(tmp_path / "clip.png", moving_square(2))


@pytest.mark.parametrize("name", ["clip", "clip.avi", "clip.mp4.txt"])
def test_unknown_extension_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"\.mp4, \.webm, \.gif, \.png"):
        write_video(tmp_path / name, moving_square())


def test_r32_frames_with_nan_leave_no_file(tmp_path: Path) -> None:
    frames = moving_square()
    frames[3] = float("nan")
    with pytest.raises(NonFiniteError, match="Frame 4 of 6"):
        write_video(tmp_path / "clip.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = write_video(tmp_path / "new" / "deep" / "clip.mp4", moving_square())
    assert [entry.name for entry in path.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    "name", ["a b.mp4", "50%d.png", "-y.gif", "concat:a|b.mp4", "a'\"$(b).mp4"]
)
def test_odd_file_names_are_only_names(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, moving_square(1))
    assert read_video(path).frames.shape == (1, 48, 64, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("text", ["a red ball", "x=1;y#2\nz\\", "emoji \U0001f600", "\u05d0\u0628"])
@pytest.mark.parametrize("extension", ["mp4", "webm"])
def test_comment_is_stored(tmp_path: Path, extension: str, text: str) -> None:
    path = write_video(tmp_path / f"clip.{extension}", moving_square(), metadata=text)
    assert text.encode() in path.read_bytes()


def test_r29_comment_with_a_lone_surrogate_is_stored_escaped(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(), metadata="a\ud800b\0c")
    assert rb"a\ud800bc" in path.read_bytes()


@pytest.mark.parametrize(("name", "size"), [("clip.mp4", 5_000_000), ("clip.gif", 5)])
def test_r53_comment_that_cannot_be_stored_is_left_out_with_a_notice(
    tmp_path: Path, name: str, size: int
) -> None:
    with pytest.warns(UserWarning, match="saved without its metadata"):
        path = write_video(tmp_path / name, moving_square(), metadata="x" * size)
    assert read_video(path).frames.shape == (6, 48, 64, 3)


def test_r51_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    path = write_video(tmp_path / "clip.mp4", moving_square())
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_target_can_be_checked_before_the_work_begins(tmp_path: Path) -> None:
    chosen, rate = check_target(tmp_path / "out" / "clip.webm", 16, 64, 64, 12.5)
    assert (chosen.encoder, rate) == ("libvpx-vp9", Fraction(25, 2))
    assert list((tmp_path / "out").iterdir()) == []


def test_every_format_says_what_it_is() -> None:
    formats = load_formats()
    assert list(formats) == ["mp4", "webm", "gif", "png"]
    assert all(entry.description for entry in formats.values())


def test_r58_missing_package_is_named_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingDependencyError, match="pip install imageio-ffmpeg"):
        write_video(tmp_path / "clip.mp4", moving_square())
    assert list(tmp_path.iterdir()) == []


def test_reading_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no such file"):
        read_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("content", [b"", b"not a video", b"#EXTM3U\nhttp://127.0.0.1/a.ts\n"])
def test_reading_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"clip\.mp4 cannot be read as a video"):
        read_video(path)


def test_reading_a_truncated_video_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square())
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InvalidInputError, match=r"clip\.mp4"):
        read_video(path)
