"""Samples that a thread reads while those before them are worked on."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from queue import Empty, Queue
from typing import TypeVar

LOOK_EVERY = 0.1  # seconds; a wait without end would not let Ctrl-C through on Windows
T = TypeVar("T")


def read_ahead(samples: Generator[T | None], depth: int) -> Generator[T]:
    """Yield what a generator yields, which runs in a thread.

    Close it, also half-way: then the thread has ended, and the generator is closed.

    Args:
        samples: yields None where it has none to give for a while, so that it can be closed there.
        depth: how many may wait, >= 2.

    Raises:
        Exception: what the generator raises, after the samples before it.
    """
    waiting: Queue[T | None] = Queue(depth)
    is_left = threading.Event()

    def fill() -> None:
        try:
            with closing(samples):
                for sample in samples:
                    if sample is not None:
                        waiting.put(sample)
                    if is_left.is_set():
                        return
        finally:
            waiting.put(None)

    with ThreadPoolExecutor(1, thread_name_prefix="latte-read") as pool:
        future = pool.submit(fill)
        try:
            yield from _until_the_end(waiting)
        finally:
            is_left.set()
            _empty(waiting)  # the thread puts a sample and the end at most: there is room for both
        future.result()


def _until_the_end(waiting: Queue[T | None]) -> Generator[T]:
    while True:
        try:
            sample = waiting.get(timeout=LOOK_EVERY)
        except Empty:
            continue
        if sample is None:
            return
        yield sample


def _empty(waiting: Queue[T | None]) -> None:
    while True:
        try:
            waiting.get_nowait()
        except Empty:
            return
