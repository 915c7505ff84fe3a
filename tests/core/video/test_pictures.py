"""Pictures, folders of them, and videos read frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.clip_files import cut_without_encoding
from latte_test_support.feature_weights import random_clips
from torch import Tensor

from latte_core.errors import InvalidInputError, MissingDependencyError, VideoWriteError
from latte_core.video import frames_from_bytes, pictures, read_video, write_video
from latte_core.video.frame_folder import remove_unfinished, write_frame_folder
from latte_core.video.pictures import read_picture, square_picture, write_picture
from latte_core.video.stream import VideoSource, find_videos


@pytest.fixture
def clip() -> Tensor:
    return random_clips(1, 7, 12, 18)[0]


@pytest.fixture
def file(tmp_path: Path, clip: Tensor) -> Path:
    return write_video(tmp_path / "clip.mp4", frames_from_bytes(clip))


def source(path: Path) -> VideoSource:
    return VideoSource(name=path.name, path=path)


def test_frame_folder_reads_back_as_it_was(tmp_path: Path, clip: Tensor) -> None:
    assert write_frame_folder(tmp_path / "clip", clip) == 7
    names = [path.name for path in sorted((tmp_path / "clip").iterdir())]
    assert names == [f"00000{index}.png" for index in range(7)]
    (found,) = find_videos(tmp_path)
    assert (found.name, found.count()) == ("clip", 7)
    assert torch.equal(torch.stack(list(found.frames())), clip)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_frame_folder_that_fails_leaves_nothing_and_keeps_what_is_there(
    tmp_path: Path, clip: Tensor
) -> None:
    def broken() -> Any:
        yield clip[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frame_folder(tmp_path / "clip", broken())
    assert list(tmp_path.iterdir()) == []
    write_frame_folder(tmp_path / "clip", clip[:1])
    with pytest.raises(VideoWriteError, match="exists already"):
        write_frame_folder(tmp_path / "clip", clip)
    assert len(list((tmp_path / "clip").iterdir())) == 1
    (tmp_path / ".clip.0123abcd.part").mkdir()
    remove_unfinished(tmp_path / "clip")
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_video_file_gives_the_frames_that_reading_it_whole_gives(file: Path) -> None:
    whole = read_video(file).frames
    streamed = list(source(file).frames())
    assert source(file).count() == len(streamed) == 7
    assert torch.equal(frames_from_bytes(torch.stack(streamed)), whole)
    picked = source(file).pick([5, 1, 2])
    assert torch.equal(torch.stack(picked), torch.stack([streamed[k] for k in (1, 2, 5)]))
    assert len(source(file).pick([6, 7, 8])) == 1
    assert source(file).pick([]) == []
    apart = source(file).pick([0, 3, 6])
    assert torch.equal(torch.stack(apart), torch.stack([streamed[k] for k in (0, 3, 6)]))
    assert source(file).pick([9, 11]) == []
    assert source(file).count_listed() == 7


def test_frames_that_a_cut_left_in_the_file_are_not_listed(file: Path, tmp_path: Path) -> None:
    cut = source(cut_without_encoding(file, tmp_path / "cut.mp4", 3 / 8))
    assert cut.count_listed() == cut.count() == 4
    assert cut_without_encoding(file, tmp_path / "whole.mp4", 0).is_file()
    assert source(tmp_path / "whole.mp4").count_listed() == 7


def test_video_that_is_cut_short_is_refused(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InvalidInputError, match="cut.mp4 cannot be read as a video"):
        source(cut).count()


def test_videos_are_found_at_any_depth_once_and_in_the_order_of_names(
    file: Path, clip: Tensor, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "b" / "deep").mkdir(parents=True)
    file.rename(root / "b" / "deep" / "a.mp4")
    write_frame_folder(root / "a", clip)
    (root / "notes.txt").touch()
    (root / ".000001.part.mp4").touch()
    (root / ".hidden").mkdir()
    (root / "loop").symlink_to(root, target_is_directory=True)
    assert [video.name for video in find_videos(root)] == ["a", "b/deep/a.mp4"]
    write_picture(root / "cover.png", clip[0], None)
    assert [video.name for video in find_videos(root)] == ["a", "b/deep/a.mp4", "root"]


def test_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no videos"):
        find_videos(tmp_path)
    with pytest.raises(InvalidInputError, match="no folder 'nowhere'"):
        find_videos(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("height", "width", "left", "top"), [(8, 8, 0, 0), (8, 14, 3, 0), (15, 8, 0, 3)]
)
def test_square_is_the_middle_as_large_as_the_short_side(
    height: int, width: int, left: int, top: int
) -> None:
    picture = random_clips(1, 1, height, width)[0, 0]
    assert torch.equal(square_picture(picture, 8), picture[top : top + 8, left : left + 8])


def test_square_is_resized_with_pillows_lanczos() -> None:
    from PIL import Image

    picture = random_clips(1, 1, 12, 20)[0, 0]
    cut = Image.fromarray(picture[:, 4:16].numpy().copy())
    expected = cut.resize((5, 5), Image.Resampling.LANCZOS)
    assert square_picture(picture, 5).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(("mode", "pixel"), [("L", 7), ("RGBA", (7, 7, 7, 0)), ("P", 7)])
def test_pictures_of_other_kinds_become_rgb(tmp_path: Path, mode: str, pixel: Any) -> None:
    from PIL import Image

    Image.new(mode, (3, 2), pixel).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").shape == (2, 3, 3)


def test_pictures_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    deep, bad = tmp_path / "deep.tif", tmp_path / "bad.jpg"
    Image.new("F", (3, 2)).save(deep)
    bad.write_bytes(b"<html>")
    with pytest.raises(InvalidInputError, match="more than 16 bits"):
        read_picture(deep)
    with pytest.raises(InvalidInputError, match=r"bad.jpg .* cannot be read as a picture"):
        read_picture(bad)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 5)
    Image.new("RGB", (3, 2)).save(tmp_path / "large.png")
    with pytest.raises(InvalidInputError, match="3 x 2 pixels"):
        read_picture(tmp_path / "large.png")


def test_missing_pillow_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(pictures.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        pictures.load_pillow()
