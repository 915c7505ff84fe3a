"""What stands for a recorder of CUDA graphs where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Tape:
    """Keeps to the contract of `acceleration.graphs.Recorder`.

    A replay runs on the buffers of the recorded call, and writes to the output returned then.
    """

    def __init__(self) -> None:
        self.calls: list[Callable[[], Tensor]] = []

    def record(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Record a call by keeping it."""
        self.calls.append(call)
        output = call()

        def replay() -> None:
            output.copy_(call())

        return output, replay
