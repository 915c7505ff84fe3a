"""The moving average of the weights, which samples are made with (docs/model.md 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .sharding import cut, like, part_of, whole_of


class Average:
    """An exponential moving average of a model's trained weights, in float32.

    Of weights that are spread over processes each averages its own part.

    Args:
        parameters: what is averaged, by name; the average starts as a copy.
        decay: share of the average that each update keeps.
        warm_up: use min(decay, (1 + n) / (10 + n)) at update n, so that the start is forgotten
            sooner in short runs.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], decay: float, *, warm_up: bool = False
    ) -> None:
        self.decay = decay
        self.warm_up = warm_up
        self.values = {
            name: part_of(value.detach()).clone().float() for name, value in parameters.items()
        }

    def decay_at(self, step: int) -> float:
        """Return the share that update number `step`, from 0, keeps."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Move towards the weights: average <- d average + (1 - d) weights."""
        share = 1 - self.decay_at(step)
        names = list(self.values)
        lerp: Any = getattr(torch, "_foreach_lerp_")  # noqa: B009 - one call for all tensors
        lerp(
            [self.values[name] for name in names],
            [part_of(parameters[name].detach()).float() for name in names],
            share,
        )

    @torch.no_grad()
    def swap(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Exchange weights and average; a second call brings both back, bit for bit."""
        for name, value in parameters.items():
            part = part_of(value.detach())
            kept = part.clone()
            part.copy_(self.values[name])
            self.values[name] = kept.float()

    def state_dict(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return whole averages by name; every process has to ask."""
        named = self.values.items()
        return {name: whole_of(like(value, parameters[name].detach())) for name, value in named}

    def load_state_dict(
        self, state: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
    ) -> None:
        """Take up saved averages, on the device they are on here."""
        for name, value in self.values.items():
            value.copy_(cut(state[name], parameters[name].detach()))
