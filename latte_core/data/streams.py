"""Reading several clips at the same time while one of them is being encoded.

Videos are decoded in processes of ffmpeg's own, so threads that wait for them are enough.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from queue import Empty, Full, Queue

from .decoding import Piece
from .layouts import Clip

PIECES_AHEAD = 2  # of each clip that is being read
LOOK_EVERY = 0.1  # seconds between looks at whether the other side has gone

ReadFunction = Callable[[Clip], Generator[Piece]]


class ClipStream:
    """One clip, and its pieces as a thread reads them.

    Args:
        clip: which.
        read: reads it.
        stop: set when nobody wants the pieces any more.
    """

    def __init__(self, clip: Clip, read: ReadFunction, stop: threading.Event) -> None:
        self.clip = clip
        self.is_left = False
        self._read = read
        self._stop = stop
        self._queue: Queue[Piece | None] = Queue(PIECES_AHEAD)
        self._future: Future[None] = Future()

    def start(self, pool: ThreadPoolExecutor) -> ClipStream:
        """Begin to read, and return self."""
        self._future = pool.submit(self._fill)
        return self

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces in order; what went wrong in the thread is raised here."""
        while True:
            try:
                piece = self._queue.get(timeout=LOOK_EVERY)  # a timeout lets Ctrl-C through
            except Empty:
                continue
            if piece is None:
                break
            yield piece
        self._future.result()

    def _fill(self) -> None:
        try:
            with closing(self._read(self.clip)) as pieces:
                for piece in pieces:
                    if not self._put(piece):
                        return
        finally:
            self._put(None)

    def _put(self, piece: Piece | None) -> bool:
        """Wait for a free place; return False once nobody takes pieces."""
        while not (self._stop.is_set() or self.is_left):
            try:
                self._queue.put(piece, timeout=LOOK_EVERY)
            except Full:
                continue
            return True
        return False


@contextmanager
def reading_clips(
    clips: Sequence[Clip], read: ReadFunction, num_workers: int
) -> Generator[Iterator[ClipStream]]:
    """Give all clips in order, while threads read the next ones.

    What is read ahead is two pieces of `num_workers` clips. Threads and programs have ended when
    the block has.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="latte-read") as pool:
        try:
            yield _in_order(clips, read, num_workers, pool, stop)
        finally:
            stop.set()


def _in_order(
    clips: Sequence[Clip],
    read: ReadFunction,
    num_workers: int,
    pool: ThreadPoolExecutor,
    stop: threading.Event,
) -> Iterator[ClipStream]:
    started: deque[ClipStream] = deque()
    for clip in clips:
        started.append(ClipStream(clip, read, stop).start(pool))
        if len(started) == num_workers:
            yield from _first(started)
    while started:
        yield from _first(started)


def _first(started: deque[ClipStream]) -> Iterator[ClipStream]:
    stream = started.popleft()
    yield stream
    stream.is_left = True  # its thread is free for the next clip, whatever was taken of it
