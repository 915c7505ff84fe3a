"""Embedders, the feed-forward layer and the final layer of LatteT2V (docs/model.md 5.3-5.7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.choice import LINEAR_GELU, KernelSet
from ..kernels.rows import Rows
from .base import LayerMaker
from .eight_bit import Tokens, Update, gelu_rows, update_of

TIMESTEP_FEATURES = 256


def timestep_features(timesteps: Tensor) -> Tensor:
    """Encode timesteps (B,), fractions too: (B, 256) float32, cosines first (docs/model.md 2.4)."""
    half = TIMESTEP_FEATURES // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) / half * index)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def normalize(hidden: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis, without weights."""
    return F.layer_norm(hidden, (hidden.shape[-1],), eps=eps)


def modulate(hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return hidden * (1 + scale) + shift; shift and scale are (B, 1, D)."""
    return torch.addcmul(shift, hidden, 1 + scale)


def modulation_rows(table: Tensor, modulation: Tensor) -> Tensor:
    """Return what blocks modulate with: shift, factor, gate of attention, then of feed-forward.

    Args:
        table: (..., 6, D) of a block, or of several.
        modulation: (B, 6, D) of the timesteps.

    Returns:
        (..., B, 6, D), the scales with one added.
    """
    rows = table.to(device=modulation.device, dtype=modulation.dtype).unsqueeze(-3) + modulation
    rows[..., 1::3, :].add_(1)
    return rows


def modulated_norm(hidden: Tensor, shift: Tensor, factor: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(hidden) * factor + shift; shift and factor are (B, 1..., D).

    A single row for all tokens is the affine part of a LayerNorm: one kernel, rounded once.
    """
    if shift.numel() == hidden.shape[-1]:
        return F.layer_norm(hidden, hidden.shape[-1:], factor.flatten(), shift.flatten(), eps)
    return torch.addcmul(shift, normalize(hidden, eps), factor)


class PatchEmbed(nn.Module):
    """Cut frames (N, C, H, W) into patches and project each: (N, S, D), row-major."""

    def __init__(self, channels: int, width: int, patch: int, make: LayerMaker) -> None:
        super().__init__()
        self.proj = make.patches(channels, width, (patch, patch))

    def forward(self, frames: Tensor) -> Tensor:
        return self.proj(frames).flatten(2).transpose(1, 2)  # (B F) S D


class TwoLinear(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, width_in: int, width: int, act: nn.Module, make: LayerMaker) -> None:
        super().__init__()
        self.linear_1 = make.linear(width_in, width)
        self.act = act
        self.linear_2 = make.linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


class TimestepEmbedding(nn.Module):
    """Holds the timestep network under its released name `emb.timestep_embedder`."""

    def __init__(self, width: int, make: LayerMaker) -> None:
        super().__init__()
        self.timestep_embedder = TwoLinear(TIMESTEP_FEATURES, width, nn.SiLU(), make)


class AdaLayerNormSingle(nn.Module):
    """One embedding of the timestep and one modulation that every block adds its own table to."""

    def __init__(self, width: int, make: LayerMaker) -> None:
        super().__init__()
        self.emb = TimestepEmbedding(width, make)
        self.linear = make.linear(width, 6 * width)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the embedding (B, D) and the modulation (B, 6, D)."""
        features = timestep_features(timesteps).to(dtype)
        embedding = self.emb.timestep_embedder(features)  # B D
        return embedding, self.linear(F.silu(embedding)).unflatten(1, (6, -1))


def linear_gelu(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return GELU(tokens @ weight.T + bias), GELU in its tanh form."""
    return F.gelu(F.linear(tokens, weight, bias), approximate="tanh")


def project_gelu(
    layer: nn.Module,
    tokens: Tokens,
    kernels: KernelSet | None,
    reader: nn.Module | None = None,
) -> Tokens:
    """Apply a linear layer, then GELU in its tanh form; both at once where a kernel can.

    Args:
        layer: the linear layer.
        tokens: that it reads.
        kernels: of the model.
        reader: the layer that reads the result; one in eight bits is given those.
    """
    if kernels is not None:
        rows = gelu_rows(layer, tokens, kernels, reader)
        if rows is not None:
            return rows
    if isinstance(tokens, Rows):
        return F.gelu(layer(tokens), approximate="tanh")
    if kernels is not None and kernels.is_active(tokens):
        with kernels.weights_of(layer, tokens) as lent:
            if lent is not None:
                return kernels.run(LINEAR_GELU, linear_gelu, tokens, *lent)
    return F.gelu(layer(tokens), approximate="tanh")


class GeluProjection(nn.Module):
    """The first half of the feed-forward layer: Linear, then GELU in its tanh form."""

    def __init__(self, width: int, inner: int, make: LayerMaker) -> None:
        super().__init__()
        self.proj = make.linear(width, inner)

    def forward(
        self, hidden: Tokens, kernels: KernelSet | None = None, reader: nn.Module | None = None
    ) -> Tokens:
        return project_gelu(self.proj, hidden, kernels, reader)


class FeedForward(nn.Module):
    """Linear D -> 4D, GELU(tanh), Linear 4D -> D, under the released names net.0.proj and net.2."""

    works_in_parts = True

    def __init__(self, width: int, make: LayerMaker) -> None:
        super().__init__()
        inner = 4 * width
        self.net = nn.ModuleList(
            [
                GeluProjection(width, inner, make),
                nn.Identity(),  # the place of the released model's dropout
                make.linear(inner, width),
            ]
        )

        self.rows: int | None = None  # of tokens at a time, see `set_feed_forward_rows`

    @property
    def reader(self) -> nn.Module | None:
        """The layer that reads the tokens; None where they are cut into parts before."""
        first: Any = self.net[0]
        return first.proj if self.rows is None else None

    def forward(self, hidden: Tokens, kernels: KernelSet | None = None) -> Update:
        def apply(part: Tokens) -> Tensor:
            return self.net[2](self.net[0](part, kernels, self.net[2]))

        if self.rows is None and kernels is not None:
            return update_of(self.net[2], self.net[0](hidden, kernels, self.net[2]), kernels)
        if isinstance(hidden, Rows):
            return apply(hidden)
        return in_parts(apply, hidden, self.rows)


def in_parts(apply: Callable[[Tensor], Tensor], hidden: Tensor, rows: int | None) -> Tensor:
    """Apply a function of single tokens (..., D) -> (..., D) to some of them at a time.

    Args:
        apply: what to do.
        hidden: the tokens.
        rows: how many at a time; None, or as many as there are, is all at once. So is any number
            while gradients are recorded, because those keep everything anyway.
    """
    tokens = hidden.numel() // hidden.shape[-1]
    if rows is None or rows >= tokens or torch.is_grad_enabled():
        return apply(hidden)
    flat = hidden.reshape(tokens, -1)
    made = torch.empty_like(flat)
    for start in range(0, tokens, rows):
        made[start : start + rows] = apply(flat[start : start + rows])
    return made.view(hidden.shape)


def set_feed_forward_rows(model: nn.Module, rows: int | None) -> None:
    """Let the feed-forward layers of a model work on `rows` tokens at a time; None is on all.

    Their inner width is four times the token's, so that this is where most memory is needed.
    """
    layers: list[Any] = [one for one in model.modules() if getattr(one, "works_in_parts", False)]
    for layer in layers:
        layer.rows = rows
