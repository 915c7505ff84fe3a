"""Clips read piece by piece, by several threads, and given up when they are of no use."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.clip_files import bar_frames, write_clip, write_frames, write_large_video

from latte_core.data.decoding import Piece, Reading, read_clip, stream_frames
from latte_core.data.layouts import Clip, find_clips
from latte_core.data.streams import reading_clips
from latte_core.data.transforms import Transform
from latte_core.errors import InvalidInputError

MANY = 10**9


def reading(**changes: Any) -> Reading:
    transform = Transform(kind="none", height=32, width=48)
    return Reading(**{"transform": transform, "num_needed": 1, "at_once": 4, **changes})


def only_clip(folder: Path) -> Clip:
    (clip,) = find_clips(folder).clips
    return clip


def test_pictures_come_byte_for_byte(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip", 12)
    found = list(stream_frames(only_clip(tmp_path), 100, MANY))
    assert torch.equal(torch.stack(found), bar_frames(12))


@pytest.mark.parametrize("extension", ["mp4", "webm", "gif"])
def test_video_gives_every_frame(tmp_path: Path, extension: str) -> None:
    write_clip(tmp_path / f"a.{extension}", 9)
    found = torch.stack(list(stream_frames(only_clip(tmp_path), 100, MANY)))
    assert found.shape == (9, 24, 32, 3)
    assert found.dtype == torch.uint8
    # chroma is stored at half resolution, and a gif has 256 colours: grey levels survive
    assert (found.float().mean(-1) - bar_frames(9).float().mean(-1)).abs().mean() < 12


def test_still_video_keeps_its_number_of_frames(tmp_path: Path) -> None:
    frames = bar_frames(1).expand(7, -1, -1, -1).float() / 255
    from latte_core.video import write_video

    write_video(tmp_path / "a.gif", frames)
    assert len(list(stream_frames(only_clip(tmp_path), 100, MANY))) == 7


def test_animated_webp_is_a_video(tmp_path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame.numpy()) for frame in bar_frames(5)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], lossless=True, duration=125
    )
    found = torch.stack(list(stream_frames(only_clip(tmp_path), 100, MANY)))
    assert torch.equal(found, bar_frames(5))
    assert len(list(stream_frames(only_clip(tmp_path), 3, MANY))) == 3


@pytest.mark.parametrize("kind", ["video", "pictures"])
@pytest.mark.parametrize("most", [1, 5, 9, 50])
def test_no_more_frames_are_read_than_asked_for(tmp_path: Path, kind: str, most: int) -> None:
    if kind == "video":
        write_clip(tmp_path / "a.mp4", 9)
    else:
        write_frames(tmp_path / "a", 9)
    assert len(list(stream_frames(only_clip(tmp_path), most, MANY))) == min(9, most)


def test_pieces_hold_the_transformed_frames_and_their_mirror_images(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip", 10, height=40, width=70)
    transform = Transform(kind="smooth", height=32, width=48)
    pieces = list(read_clip(only_clip(tmp_path), reading(transform=transform, has_flips=True)))
    assert [len(piece.frames) for piece in pieces] == [4, 4, 2]
    frames = bar_frames(10, 40, 70)
    assert torch.equal(torch.cat([piece.frames for piece in pieces]), transform(frames))
    flipped = [piece.flipped for piece in pieces if piece.flipped is not None]
    assert torch.equal(torch.cat(flipped), transform(frames, flipped=True))


def test_clip_is_as_long_as_needed_or_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", 6, height=32, width=48)
    assert len(list(read_clip(only_clip(tmp_path), reading(num_needed=6)))) == 2
    with pytest.raises(InvalidInputError, match="a has 6 frames, but 7 are needed"):
        list(read_clip(only_clip(tmp_path), reading(num_needed=7)))
    write_clip(tmp_path / "b" / "b.mp4", 6, height=32, width=48)
    with pytest.raises(InvalidInputError, match=r"b\.mp4 has 6 frames, but 7 are needed"):
        list(read_clip(only_clip(tmp_path / "b"), reading(num_needed=7)))


@pytest.mark.parametrize("size", [(7680, 4320), (4097, 2304)])
def test_huge_frames_are_refused_after_the_first(tmp_path: Path, size: tuple[int, int]) -> None:
    write_large_video(tmp_path / "a.avi", *size, num_frames=3)
    with pytest.raises(InvalidInputError, match=rf"{size[0]} x {size[1]} pixels"):
        next(read_clip(only_clip(tmp_path), reading()))


def test_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "clip").mkdir()
    Image.new("RGB", (9000, 9000)).save(tmp_path / "clip" / "1.png")
    with pytest.raises(InvalidInputError, match="9000 x 9000 pixels"):
        next(read_clip(only_clip(tmp_path), reading()))


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip", 3)
    write_frames(tmp_path / "other" / "more", 1, height=48, width=64)
    (tmp_path / "other" / "more" / "000000.png").rename(tmp_path / "clip" / "000009.png")
    (tmp_path / "other" / "more").rmdir()
    (tmp_path / "other").rmdir()
    with pytest.raises(InvalidInputError, match="changes its size from 32 x 24 to 64 x 48"):
        list(stream_frames(only_clip(tmp_path), 100, MANY))


def test_clips_come_in_order_from_any_number_of_threads(tmp_path: Path) -> None:
    for index in range(7):
        write_frames(tmp_path / f"{index}", 3 + index, height=32, width=48, seed=index)
    clips = find_clips(tmp_path).clips
    for num_workers in (1, 2, 5, 20):
        with reading_clips(clips, lambda clip: read_clip(clip, reading()), num_workers) as streams:
            found = {
                stream.clip.name: torch.cat([piece.frames for piece in stream.pieces()])
                for stream in streams
            }
        assert list(found) == [clip.name for clip in clips]
        for index, frames in enumerate(found.values()):
            assert torch.equal(frames, bar_frames(3 + index, 32, 48, seed=index).float() / 255)


def endless(clip: Clip) -> Generator[Piece]:
    """Yield pieces for ever; a clip called "bad" fails after two."""
    count = 0
    while True:
        if clip.name == "bad" and count == 2:
            raise InvalidInputError("bad cannot be read.")
        count += 1
        yield Piece(frames=torch.full((1, 2, 2, 3), float(count)), flipped=None)


def clips_named(*names: str) -> list[Clip]:
    return [Clip(name=name, path=Path(name)) for name in names]


def test_what_goes_wrong_in_a_thread_is_raised_where_its_pieces_are_taken() -> None:
    with reading_clips(clips_named("a", "bad", "b"), endless, 2) as streams:
        for stream in streams:
            pieces = stream.pieces()
            assert float(next(pieces).frames[0, 0, 0, 0]) == 1
            if stream.clip.name == "bad":
                next(pieces)
                with pytest.raises(InvalidInputError, match="bad cannot be read"):
                    next(pieces)


def test_no_thread_is_left_when_reading_ends_early() -> None:
    before = threading.active_count()
    stop = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        with reading_clips(clips_named(*"abcdefgh"), endless, 3) as streams:
            for stream in streams:
                next(stream.pieces())
                if stream.clip.name == "c":
                    raise stop
    assert caught.value is stop
    assert threading.active_count() == before


def test_little_is_read_ahead() -> None:
    made: list[str] = []

    def counting(clip: Clip) -> Generator[Piece]:
        for piece in endless(clip):
            made.append(clip.name)
            yield piece

    with reading_clips(clips_named(*"abcdefgh"), counting, 3) as streams:
        stream = next(streams)
        next(stream.pieces())
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline and len(made) < 20:
            threading.Event().wait(0.05)
    # three clips: two pieces waiting, one in hand, and the one that was taken
    assert set(made) == {"a", "b", "c"}
    assert len(made) <= 10
