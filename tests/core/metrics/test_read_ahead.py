"""Reading samples in a thread: their order, how many wait, errors, and the thread's end."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from threading import Semaphore

import pytest
from latte_test_support.clip_files import write_frames

from latte_core.metrics import find_protocol
from latte_core.metrics.clips import REAL, FolderClips
from latte_core.metrics.read_ahead import read_ahead
from latte_core.video.stream import VideoSource


def threads() -> int:
    return sum(one.name.startswith("latte-read") for one in threading.enumerate())


def test_samples_come_in_order_and_the_thread_ends_with_them() -> None:
    assert list(read_ahead((number for number in range(20)), 2)) == list(range(20))
    assert threads() == 0


def test_next_samples_are_read_while_one_is_worked_on_but_no_more_than_may_wait() -> None:
    begun, read = Semaphore(0), list[int]()

    def endless() -> Generator[int]:
        number = 0
        while True:
            read.append(number)
            begun.release()
            yield number
            number += 1

    with closing(read_ahead(endless(), 2)) as samples:
        assert next(samples) == 0
        for _ in range(4):  # the one in hand, two that wait, and one that finds no place
            assert begun.acquire(timeout=30)
        assert read == [0, 1, 2, 3]


def test_error_of_the_thread_is_raised_after_the_samples_before_it() -> None:
    def broken() -> Generator[int]:
        yield 1
        raise OSError("gone")

    samples = read_ahead(broken(), 2)
    assert next(samples) == 1
    with pytest.raises(OSError, match="gone"):
        next(samples)
    assert threads() == 0


def test_leaving_half_way_closes_what_is_read() -> None:
    closed: list[bool] = []

    def endless() -> Generator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt), closing(read_ahead(endless(), 2)) as samples:
        next(samples)
        raise KeyboardInterrupt
    assert closed == [True]
    assert threads() == 0


@pytest.mark.parametrize("name", ["fvd", "fid"])
def test_leaving_waits_for_one_video_that_gives_nothing_not_for_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = find_protocol(name).changed(num=5)
    for folder in "abcde":
        write_frames(tmp_path / folder, 1)
    begun, left, looked = threading.Event(), threading.Event(), list[str]()

    def count(video: VideoSource) -> int:
        looked.append(video.name)
        begun.set()
        assert left.wait(timeout=30)
        return 1

    def empty(_: object) -> None:  # called when the thread has been told; nothing waits
        left.set()

    def stop(_: object) -> None:
        assert begun.wait(timeout=30)
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoSource, "count_listed", count)
    monkeypatch.setattr(VideoSource, "count", count)
    monkeypatch.setattr("latte_core.metrics.read_ahead._empty", empty)
    monkeypatch.setattr("latte_core.metrics.read_ahead._until_the_end", stop)
    with pytest.raises(KeyboardInterrupt):
        list(FolderClips(tmp_path, protocol, REAL))
    assert len(set(looked)) == 1
    assert threads() == 0
