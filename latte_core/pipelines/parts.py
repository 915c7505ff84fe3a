"""The parts of a pipeline that both kinds have, and where they are while they work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from ..memory import MemoryPlan, PartSizes, Stages, choose_plan
from ..model.layers import set_feed_forward_rows


class CommonParts(Protocol):
    """What any pipeline runs."""

    @property
    def transformer(self) -> nn.Module:
        """A LatteT2V or Latte."""
        ...

    @property
    def stages(self) -> Stages:
        """What moves the parts in and out of the device during a run."""
        ...

    def begin_sampling(self) -> None:
        """Have the transformer where it works, for as long as `stages.run` lasts."""
        ...


def open_stages(
    transformer: nn.Module,
    memory: str | MemoryPlan,
    device: torch.device,
    sizes: Callable[[], PartSizes],
) -> Stages:
    """Choose where the parts are while they work, and have the transformer where it waits.

    Args:
        transformer: just loaded.
        memory: `auto`, the name of a preset, or a plan.
        device: to work on.
        sizes: tells the sizes of the parts, if they decide.
    """
    stages = Stages(choose_plan(memory, device, sizes), device)
    set_feed_forward_rows(transformer, stages.plan.feed_forward_rows)
    transformer.to(stages.home(stages.plan.transformer))
    return stages
