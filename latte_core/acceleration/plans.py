"""What attention broadcast and the guidance cache are told for a run, in records without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checks import check_integer
from ..errors import InvalidInputError
from .policies import MAX_STEPS

if TYPE_CHECKING:
    from torch import nn

SPATIAL, TEMPORAL, CROSS = "spatial", "temporal", "cross"


@dataclass(frozen=True, kw_only=True, slots=True)
class Broadcast:
    """How often each kind of attention is computed; the defaults are VideoSys's for Latte.

    Args:
        spatial, temporal, cross: every how many steps; 1 keeps nothing of that kind.
        window: timesteps, lowest and highest, strictly between which results are used again.

    Raises:
        InvalidInputError: for a range below 1, or an empty window.
    """

    spatial: int = 2
    temporal: int = 3
    cross: int = 6
    window: tuple[float, float] = (100, 800)

    def __post_init__(self) -> None:
        for name in ("spatial", "temporal", "cross"):
            check_integer(name, getattr(self, name), 1, MAX_STEPS)
        if not self.window[0] < self.window[1]:
            raise InvalidInputError(
                f"The window of attention broadcast is {self.window}, but its first timestep must "
                "be the lower one, as in (100, 800)."
            )

    @classmethod
    def read(cls, text: str) -> Broadcast:
        """Read spatial/temporal/cross, as in 2/3/6.

        Raises:
            InvalidInputError: for anything else.
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise InvalidInputError(
                f"pab:{text} cannot be read. Write every how many steps spatial, temporal and "
                "cross attention are computed, as in pab:2/3/6."
            )
        spatial, temporal, cross = map(int, parts)
        return cls(spatial=spatial, temporal=temporal, cross=cross)

    def computes(self, kind: str, index: int, timestep: float) -> bool:
        """Whether a kind of attention is computed at a step of the run, counted from 0."""
        every: int = getattr(self, kind)
        return index % every == 0 or not self.window[0] < timestep < self.window[1]

    def keeps(self, kind: str) -> bool:
        """Whether results of a kind of attention may be used again."""
        every: int = getattr(self, kind)
        return every > 1

    def kept_bytes(self, model: nn.Module, tokens: int, itemsize: int) -> int:
        """Return the bytes of the results that a run keeps.

        Args:
            model: a LatteT2V or Latte.
            tokens: of the whole batch of one call.
            itemsize: bytes of a number.
        """
        from ..model.latte.attention import FusedAttention  # imports torch, as the next does
        from ..model.t2v.transformer import LatteT2V

        if isinstance(model, LatteT2V):
            kinds = [self.keeps(kind) for kind in (SPATIAL, TEMPORAL, CROSS)]
            width = model.config.num_layers * model.config.hidden_size * sum(kinds)
        else:  # of all attentions, one half looks within frames and the other along time
            kinds = [self.keeps(kind) for kind in (SPATIAL, TEMPORAL)]
            found = [one for one in model.modules() if isinstance(one, FusedAttention)]
            width = sum(one.proj.in_features for one in found) * sum(kinds) // len(kinds)
        return width * tokens * itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidancePlan:
    """When a half is left out, and how its difference is weighted; the defaults are for Latte.

    Args:
        start: share of the steps after which halves may be left out.
        period: steps from one that computes both halves to the next.
        low_gain: weight of low frequencies until `switch`.
        high_gain: weight of high frequencies from `switch` on.
        switch: share of the steps at which the weight goes from low to high frequencies.

    Raises:
        InvalidInputError: for a share outside 0 .. 1, or a period below 1.
    """

    start: float = 0.34
    period: int = 5
    low_gain: float = 1.2
    high_gain: float = 1.2
    switch: float = 0.9

    def __post_init__(self) -> None:
        check_integer("period", self.period, 1, MAX_STEPS)
        for name in ("start", "switch"):
            share: float = getattr(self, name)
            if not 0 <= share <= 1:
                raise InvalidInputError(
                    f"{name} of the guidance cache is {share!r}, but it is a share of the steps "
                    "and must lie between 0 and 1."
                )
