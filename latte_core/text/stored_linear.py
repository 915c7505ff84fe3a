"""What linear layers have in common whose weight is stored as small numbers with scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class StoredLinear(nn.Module):
    """Takes the place of a linear layer; the bias stays as it is.

    Args:
        values: numbers of the weight.
        scales: what they are multiplied by.
        size: columns K and rows N of the weight.
        bias: (N,), or None.
        name: of the number format.
        is_saved: put numbers and scales into the state dict.
    """

    # By this name callers ask linear layers for the type they work in. Where a layer has one, it
    # is an empty tensor, which is cast with the model as the weight would be.
    weight: Tensor | None
    values: Tensor
    scales: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        values: Tensor,
        scales: Tensor,
        *,
        size: tuple[int, int],
        bias: nn.Parameter | None,
        name: str,
        is_saved: bool,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = size
        self.register_buffer("values", values, persistent=is_saved)
        self.register_buffer("scales", scales, persistent=is_saved)
        self.bias = bias
        self.quantised_as = name
        self.weight = None

    def work_in(self, dtype: torch.dtype) -> None:
        """Tell callers that ask for the weight's type this one, until the model is cast."""
        del self.weight
        marker = torch.empty(0, dtype=dtype, device=self.values.device)
        self.register_buffer("weight", marker, persistent=False)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) that the stored numbers mean."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Say what `print(model)` shows."""
        return f"{self.in_features}, {self.out_features}, {self.quantised_as}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the stored numbers with the model, but never change their type.

        A model that is cast to another type casts its parameters; a cast of the numbers alone,
        without their scales, would change the weight.
        """
        before = {"values": self.values, "scales": self.scales}
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        for name, buffer in before.items():
            moved: Tensor = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self
