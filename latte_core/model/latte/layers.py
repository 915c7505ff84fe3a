"""Embedders and the final layer of Latte, under their released names (docs/model.md 2.2-2.6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...config.latte import LatteConfig
from ...kernels.choice import KernelSet
from ..base import LayerMaker
from ..layers import TIMESTEP_FEATURES, timestep_features
from ..residual import Stream
from .blocks import Modulation, settled_and_normed


class TimestepEmbedder(nn.Module):
    """Sinusoid, Linear, SiLU, Linear under the released names mlp.0 and mlp.2."""

    def __init__(self, width: int, make: LayerMaker) -> None:
        super().__init__()
        first, second = make.linear(TIMESTEP_FEATURES, width), make.linear(width, width)
        self.mlp = nn.ModuleList([first, nn.SiLU(), second])

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """(B,) -> (B, D)."""
        hidden = self.mlp[0](timestep_features(timesteps).to(dtype))
        return self.mlp[2](F.silu(hidden))


class LabelEmbedder(nn.Module):
    """A table with one row for each label; the null class, where there is one, is the last."""

    def __init__(self, num_labels: int, width: int, make: LayerMaker) -> None:
        super().__init__()
        self.embedding_table = make.embedding(num_labels, width)

    def forward(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """(...) whole numbers -> (..., D)."""
        return self.embedding_table(labels).to(dtype)


class PatchEmbedder(nn.Module):
    """Cut clips into patches, or into tubelets of several frames, and project each."""

    def __init__(self, config: LatteConfig, make: LayerMaker) -> None:
        super().__init__()
        patch, self.tubelet = config.patch_size, config.tubelet_size
        edges = (patch, patch) if self.tubelet == 1 else (self.tubelet, patch, patch)
        self.proj = make.patches(config.in_channels, config.hidden_size, edges)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, F / tubelet, S, D), places row-major."""
        if self.tubelet > 1:
            return rearrange(self.proj(latents), "b d f h w -> b f (h w) d")
        frames = self.proj(rearrange(latents, "b c f h w -> (b f) c h w"))
        return rearrange(frames, "(b f) d h w -> b f (h w) d", b=latents.shape[0])


class FinalLayer(nn.Module):
    """Modulated LayerNorm and the projection of each token to its patch."""

    def __init__(self, config: LatteConfig, make: LayerMaker) -> None:
        super().__init__()
        width, channels = config.hidden_size, config.out_channels
        values = config.patch_size**2 * channels
        self.tubelet, self.channels = config.tubelet_size, channels
        self.linear = make.linear(width, values)
        self.is_modulated = config.injection == "adaln"
        if self.is_modulated:
            self.adaLN_modulation = Modulation(width, 2, make)
        if self.tubelet > 1:
            # A transposed convolution with kernel and stride (tubelet, 1, 1) is this product; its
            # bias here has one value for each frame of the tubelet.
            self.temporal_up = make.linear(channels, self.tubelet * channels)

    def forward(
        self, stream: Stream, condition: Tensor, num_frames: int, kernels: KernelSet
    ) -> Tensor:
        """Turn tokens into the values of their patches.

        Args:
            stream: (B, f, S, D), f frames or tubelets.
            condition: (B, 1, D), or (B, 1 + I, D) where I images have conditions of their own.
            num_frames: frames or tubelets of the clip.
            kernels: may take the place of torch's operators.

        Returns:
            (B, F, S, P*P*C_out), F = f * tubelet; the channel is the fastest index.
        """
        shift = factor = None
        if self.is_modulated:
            shift, factor = self.adaLN_modulation.rows(condition, num_frames)
        patches = self.linear(settled_and_normed(stream, shift, factor, kernels)[1])
        if self.tubelet == 1:
            return patches
        cells = self.temporal_up(patches.unflatten(3, (-1, self.channels)))
        return rearrange(cells, "b f s k (t c) -> b (f t) s (k c)", t=self.tubelet)


def fixed_table(rows: int, width: int, device: Any) -> nn.Parameter:
    """Return the place of a position table (1, rows, D): saved with the model, never trained."""
    empty = torch.zeros(1, rows, width, dtype=torch.float32, device=device)
    return nn.Parameter(empty, requires_grad=False)
