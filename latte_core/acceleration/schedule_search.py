"""The best list of full steps under measured errors (LeMiCa, arXiv 2511.00090, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

from ..checks import check_integer
from ..errors import InvalidInputError

Edges = Mapping[tuple[int, int], float]
"""(i, j) -> error of skipping the steps between the full steps i and j."""

_Path = tuple[tuple[float, ...], tuple[int, ...]]  # errors, largest first; steps


def best_schedule(edges: Edges, num_steps: int, num_full: int) -> tuple[int, ...]:
    """Return the `num_full` steps, first and last among them, whose worst errors are smallest.

    Lists are compared by their errors in order of size: by the largest, among equals by the second
    largest, and so on. Two lists of equally many errors keep their order when the same error is
    added to both, so the best list up to each step is all that has to be remembered.

    Args:
        edges: errors; a gap without one is not allowed.
        num_steps: steps of the run.
        num_full: how many are computed.

    Raises:
        InvalidInputError: if no allowed gaps lead from the first step to the last.
    """
    check_integer("num_full", num_full, min(2, num_steps), num_steps)
    if num_steps == 1:
        return (0,)
    best: dict[int, _Path] = {0: ((), (0,))}
    for _ in range(num_full - 1):
        best = _extend(best, edges, num_steps)
    if num_steps - 1 not in best:
        longest = max((j - i - 1 for i, j in edges), default=0)
        raise InvalidInputError(
            f"{num_full} of {num_steps} steps cannot be computed in full while no more than "
            f"{longest} in a row are skipped. Ask for a smaller speed-up, or allow longer skips."
        )
    return best[num_steps - 1][1]


def _extend(best: Mapping[int, _Path], edges: Edges, num_steps: int) -> dict[int, _Path]:
    """Return the best lists with one more full step, by their last step."""
    found: dict[int, _Path] = {}
    for last, (errors, steps) in best.items():
        for step in range(last + 1, num_steps):
            error = edges.get((last, step))
            if error is None:
                continue
            path = (tuple(sorted((*errors, error), reverse=True)), (*steps, step))
            if step not in found or path < found[step]:
                found[step] = path
    return found


def smallest_budget(num_steps: int, max_skip: int) -> int:
    """Return how few steps can be computed if at most `max_skip` in a row are skipped."""
    return -(-(num_steps - 1) // (max_skip + 1)) + 1
