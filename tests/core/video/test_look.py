"""Pictures and videos as a person sees them, however their files say it."""

from __future__ import annotations

import io
import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from latte_core.data.decoding import stream_frames
from latte_core.data.layouts import Clip
from latte_core.errors import InvalidInputError, UnreadableMediaError
from latte_core.video import look, read_video
from latte_core.video.ffmpeg import ffmpeg_path
from latte_core.video.pictures import read_picture
from latte_core.video.stream import VideoSource, find_videos

RED, BLUE = (255, 0, 0), (0, 0, 255)
GREY = "color=0x{code}:s=32x16:r=8:d=0.5"
SHAPES = "testsrc2=s=64x48:r=8:d=1"


def make(path: Path, source: str, *options: str) -> Path:
    """Write a video of a source of ffmpeg's own."""
    command = [ffmpeg_path(), "-v", "error", "-y", "-f", "lavfi", "-i", source, *options]
    subprocess.run([*command, str(path)], check=True, capture_output=True)
    return path


def frames_of(path: Path) -> list[Tensor]:
    """Return all frames, which every reader gives alike."""
    found = list(VideoSource(name=path.name, path=path).frames())
    clip = Clip(name=path.name, path=path)
    assert all(map(torch.equal, found, stream_frames(clip, 99, 10**6)))
    whole = (read_video(path).frames * 255).round().to(torch.uint8)
    assert torch.equal(whole, torch.stack(found))
    picked = VideoSource(name=path.name, path=path).pick([0, len(found) - 1])
    assert all(map(torch.equal, picked, (found[0], found[-1])))
    return found


def hdr(path: Path, transfer: str, code: int) -> Path:
    """Write a grey HDR video, whose luma is a code of 10 bits."""
    tags = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc")
    x265 = f"log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    grey = f"format=yuv420p10le,geq=lum={code}:cb=512:cr=512"
    options = ("-vf", grey, "-c:v", "libx265", "-x265-params", x265, *tags)
    return make(path, GREY.format(code="808080"), *options)


@pytest.mark.parametrize(
    ("name", "transfer", "code", "expected"),
    [
        # by BT.2100 and BT.2408: nits / 203 up to 0.6 of white, then sRGB
        ("pq.mp4", "smpte2084", 504, 181),  # 93 nits
        ("hlg.mkv", "arib-std-b67", 502, 137),  # 50 nits on a screen of 1000
        ("pq.ts", "smpte2084", 940, 255),  # brighter than any screen
        ("hlg.mov", "arib-std-b67", 64, 0),
    ],
)
def test_hdr_is_brought_to_ordinary_screens_and_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    transfer: str,
    code: int,
    expected: int,
) -> None:
    path = hdr(tmp_path / name, transfer, code)
    with caplog.at_level(logging.WARNING, "latte"):
        (frame, *_) = VideoSource(name=name, path=path).frames()
    assert frame.float().mean() == pytest.approx(expected, abs=3)
    assert [record.getMessage()[:10] for record in caplog.records] == ["HDR video "]


def test_hdr_without_the_filters_is_told_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hdr(tmp_path / "a.mp4", "smpte2084", 504)
    monkeypatch.setattr(look, "has_filter", lambda _: False)
    with caplog.at_level(logging.WARNING, "latte"):
        (frame, *_) = VideoSource(name="a", path=path).frames()
    assert frame.float().mean() == pytest.approx(128, abs=3)
    assert "look pale" in caplog.text


@pytest.mark.parametrize(
    ("aspect", "width"), [("8/9", 57), ("16/11", 93), ("2/1", 128), ("1/1", 64), ("20/1", 64)]
)
def test_pixels_become_square(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, aspect: str, width: int
) -> None:
    path = make(tmp_path / "a.mp4", SHAPES, "-vf", f"setsar={aspect}:max=1000", "-frames:v", "2")
    with caplog.at_level(logging.WARNING, "latte"):
        assert {tuple(frame.shape) for frame in frames_of(path)} == {(48, width, 3)}
    assert ("not square" in caplog.text) is (aspect != "1/1")
    assert ("taken as square" in caplog.text) is (aspect == "20/1")


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_orientation_in_the_container_is_followed(tmp_path: Path, degrees: int) -> None:
    plain = make(tmp_path / "plain.mp4", SHAPES, "-frames:v", "2")
    turned = tmp_path / "turned.mp4"
    command = [ffmpeg_path(), "-v", "error", "-display_rotation", str(degrees), "-i", str(plain)]
    subprocess.run([*command, "-c", "copy", str(turned)], check=True)
    expected = torch.rot90(frames_of(plain)[0], degrees // 90)
    found = frames_of(turned)[0]
    assert found.shape == expected.shape
    assert (found.float() - expected.float()).abs().mean() < 3  # colours are turned as planes


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libvpx-vp9"), ("a.mov", "png"), ("a.mkv", "ffv1")]
)
def test_colours_under_transparency_are_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, codec: str
) -> None:
    left = "format=yuva420p,geq=lum='p(X,Y)':cb='p(X,Y)':cr='p(X,Y)':a='if(lt(X,32),0,255)'"
    path = make(tmp_path / name, SHAPES, "-vf", left, "-c:v", codec, "-frames:v", "2")
    opaque = make(tmp_path / "opaque.mkv", SHAPES, "-c:v", "ffv1", "-frames:v", "2")
    with caplog.at_level(logging.WARNING, "latte"):
        found, plain = frames_of(path)[0], frames_of(opaque)[0]
    assert found[:, :28].min() > 240
    assert (found[:, 36:].float() - plain[:, 36:].float()).abs().mean() < 12
    assert "Transparent video" in caplog.text


def test_variable_rate_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uneven = "select='lt(n,8)+not(mod(n,4))'"
    source = "testsrc2=s=32x32:r=24:d=2"
    path = make(tmp_path / "a.mp4", source, "-vf", uneven, "-fps_mode", "vfr")
    even = make(tmp_path / "b.webm", source)
    with caplog.at_level(logging.WARNING, "latte"):
        assert len(frames_of(even)) == 48
        assert caplog.text == ""
        assert len(frames_of(path)) == 18
    assert "Variable frame rate" in caplog.text


@pytest.mark.parametrize("name", ["a.h264", "a.hevc", "a.ivf", "a.y4m", "a.m2v", "a.mjpeg"])
def test_streams_without_a_container_are_videos(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    quiet = ("-x265-params", "log-level=error") if name == "a.hevc" else ()
    make(tmp_path / "in" / name, "testsrc2=s=32x32:r=25:d=0.2", *quiet)
    (video,) = find_videos(tmp_path / "in")
    assert len(frames_of(video.path)) == video.count() == 5


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_sound_alone_is_said_to_be_sound(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, "sine=d=0.2")
    with pytest.raises(UnreadableMediaError, match=f"{name} .* holds sound, but no picture"):
        next(VideoSource(name=name, path=path).frames())
    with pytest.raises(UnreadableMediaError, match="holds sound"):
        read_video(path)


def test_frames_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.gif", "color=black:s=8208x8192:r=8", "-frames:v", "1")
    with pytest.raises(UnreadableMediaError, match="larger than 8192 x 8192"):
        next(VideoSource(name="a", path=path).frames())


def lying(size: tuple[int, int], orientation: Any, format_: str) -> bytes:
    """Return a picture, red at the left and blue at the right, with an orientation in EXIF."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, format_, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "size", "corners"),
    [
        (1, (24, 16), (RED, BLUE, RED)),
        (2, (24, 16), (BLUE, RED, BLUE)),
        (3, (24, 16), (BLUE, RED, BLUE)),
        (4, (24, 16), (RED, BLUE, RED)),
        (5, (16, 24), (RED, RED, BLUE)),
        (6, (16, 24), (RED, RED, BLUE)),
        (7, (16, 24), (BLUE, BLUE, RED)),
        (8, (16, 24), (BLUE, BLUE, RED)),
        (99, (24, 16), (RED, BLUE, RED)),
    ],
)
def test_pictures_are_upright(
    tmp_path: Path, format_: str, orientation: int, size: Any, corners: Any
) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(lying((24, 16), orientation, format_))
    found = read_picture(path)
    assert (found.shape[1], found.shape[0]) == size
    for place, expected in zip((found[1, 1], found[1, -2], found[-2, 1]), corners, strict=True):
        assert (place.int() - torch.tensor(expected)).abs().max() < 40


def test_damaged_exif_leaves_the_picture_as_it_lies(tmp_path: Path) -> None:
    whole = lying((24, 16), 6, "JPEG")
    (tmp_path / "a.jpg").write_bytes(whole.replace(b"Exif\0\0MM", b"Exif\0\0??"))
    assert read_picture(tmp_path / "a.jpg").shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (0, 0, 0, 102), (153, 153, 153)),
        ("LA", (10, 0), (255, 255, 255)),
    ],
)
def test_transparent_pictures_are_shown_on_white(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    pixel: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    Image.new(mode, (3, 2), pixel).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING, "latte"):
        assert read_picture(tmp_path / "a.png")[0, 0].tolist() == list(expected)
    assert ("alpha" in caplog.text) is (pixel[-1] < 255)


def test_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 2), 1)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    picture.save(tmp_path / "a.png", transparency=1)
    assert read_picture(tmp_path / "a.png")[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (65535, 255), (32896, 128), (300, 1)])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_keep_their_range(
    tmp_path: Path, name: str, value: int, expected: int
) -> None:
    Image.new("I;16", (3, 2), value).save(tmp_path / name)
    assert read_picture(tmp_path / name).unique().tolist() == [expected]


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "TGA", "JPEG2000"])
def test_pictures_cut_short_anywhere_are_errors_of_ours(tmp_path: Path, format_: str) -> None:
    file = io.BytesIO()
    noise = torch.arange(24 * 16 * 3, dtype=torch.uint8).numpy().tobytes()
    Image.frombytes("RGB", (24, 16), noise).save(file, format_)
    whole, path = file.getvalue(), tmp_path / "a.img"
    refused = 0
    for length in range(0, len(whole) // 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableMediaError):
            read_picture(path)
        refused += 1
    assert refused >= 10


def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    header = b"P6\n40000 40000\n255\n"
    (tmp_path / "a.ppm").write_bytes(header)
    with pytest.raises(InvalidInputError, match=r"a\.ppm in .* cannot be read|40000 x 40000"):
        read_picture(tmp_path / "a.ppm")
    (tmp_path / "b.ppm").write_bytes(b"P6\n9500 9500\n255\n")
    with pytest.raises(InvalidInputError, match="9500 x 9500"):
        read_picture(tmp_path / "b.ppm")
