"""Embedders and the final layer of Latte, under their released names (latte.md 2.2-2.6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..latte_config import LatteConfig
from .latte_blocks import modulation_layer, norm
from .layers import TIMESTEP_FEATURES, timestep_features


class TimestepEmbedder(nn.Module):
    """Sinusoid, Linear, SiLU, Linear under the released names mlp.0 and mlp.2."""

    def __init__(self, width: int, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        first = operations.Linear(TIMESTEP_FEATURES, width, dtype=dtype, device=device)
        second = operations.Linear(width, width, dtype=dtype, device=device)
        self.mlp = nn.ModuleList([first, nn.SiLU(), second])

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """(B,) -> (B, D)."""
        hidden = self.mlp[0](timestep_features(timesteps).to(dtype))
        return self.mlp[2](F.silu(hidden))


class LabelEmbedder(nn.Module):
    """A table with one row for each class and one, the last, for no class."""

    def __init__(
        self, num_classes: int, width: int, *, operations: Any, dtype: Any, device: Any
    ) -> None:
        super().__init__()
        self.embedding_table = operations.Embedding(
            num_classes + 1, width, dtype=dtype, device=device
        )

    def forward(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """(...) whole numbers -> (..., D)."""
        return self.embedding_table(labels).to(dtype)


class PatchEmbedder(nn.Module):
    """Cut clips into patches, or into tubelets of several frames, and project each."""

    def __init__(self, config: LatteConfig, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        patch, self.tubelet = config.patch_size, config.tubelet_size
        if self.tubelet == 1:
            layer, edge = operations.Conv2d, (patch, patch)
        else:
            layer, edge = operations.Conv3d, (self.tubelet, patch, patch)
        self.proj = layer(
            config.in_channels, config.hidden_size, edge, stride=edge, dtype=dtype, device=device
        )

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, F / tubelet, S, D), places row-major."""
        if self.tubelet > 1:
            return rearrange(self.proj(latents), "b d f h w -> b f (h w) d")
        frames = self.proj(rearrange(latents, "b c f h w -> (b f) c h w"))
        return rearrange(frames, "(b f) d h w -> b f (h w) d", b=latents.shape[0])


class FinalLayer(nn.Module):
    """Modulated LayerNorm and the projection of each token to its patch."""

    def __init__(self, config: LatteConfig, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        made_by: dict[str, Any] = {"operations": operations, "dtype": dtype, "device": device}
        width, channels = config.hidden_size, config.out_channels
        values = config.patch_size**2 * channels
        self.tubelet, self.channels = config.tubelet_size, channels
        self.linear = operations.Linear(width, values, dtype=dtype, device=device)
        if config.injection == "adaln":
            self.adaLN_modulation = modulation_layer(width, 2, **made_by)
        if self.tubelet > 1:
            # a transposed convolution whose kernel and stride are (tubelet, 1, 1) is this product
            self.temporal_up = operations.Linear(
                channels, self.tubelet * channels, dtype=dtype, device=device
            )

    def forward(self, hidden: Tensor, condition: Tensor | None) -> Tensor:
        """(B, f, S, D) -> (B, F, S, p*p*C_out); `condition` is (B, 1 or f, D) or None."""
        shift = scale = None
        if condition is not None:
            rows = self.adaLN_modulation[1](F.silu(condition)).unsqueeze(2)
            shift, scale = rows.chunk(2, dim=3)
        patches = self.linear(norm(hidden, shift, scale))
        if self.tubelet == 1:
            return patches
        cells = self.temporal_up(patches.unflatten(3, (-1, self.channels)))
        return rearrange(cells, "b f s k (t c) -> b (f t) s (k c)", t=self.tubelet)


def fixed_table(rows: int, width: int, device: Any) -> nn.Parameter:
    """Return the place of a position table (1, rows, D): saved with the model, never trained."""
    empty = torch.zeros(1, rows, width, dtype=torch.float32, device=device)
    return nn.Parameter(empty, requires_grad=False)
