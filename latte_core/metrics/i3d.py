"""I3D, the network behind FVD: Inception-v1 inflated to three dimensions, trained on Kinetics-400.

Carreira and Zisserman (2017). The names are those of the PyTorch conversions in use
(`i3d_pretrained_400.pt`): 57 units `<unit>.conv3d.weight` with `<unit>.bn.*`, and
`logits.conv3d.weight`, `logits.conv3d.bias`. The features of FVD are the 400 logits.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InvalidInputError
from .layers import FrozenNorm, pad_same, planes_from_frames

EDGE = 224  # pixels the network is trained on
NUM_CLASSES = 400
MIN_FRAMES = 9  # two cells of time must reach the last pooling
Triple = tuple[int, int, int]
CUBE: Triple = (3, 3, 3)
# Channels of the branches: 1x1, 3x3 (narrow, wide), second 3x3 (narrow, wide), pooling.
MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Poolings before a layer: kernel and stride.
POOLS: dict[str, tuple[Triple, Triple]] = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": (CUBE, (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


class Unit(nn.Module):
    """A convolution that keeps its size up to the stride, normalised, then clipped at 0."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = FrozenNorm(out_channels)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, F, H, W) -> (N, C', F', H', W')."""
        padded = pad_same(values, self.kernel, self.stride)
        return functional.relu(self.bn(self.conv3d(padded)))


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one: Triple = (1, 1, 1)
        self.b0 = Unit(in_channels, widths[0], one)
        self.b1a = Unit(in_channels, widths[1], one)
        self.b1b = Unit(widths[1], widths[2], CUBE)
        self.b2a = Unit(in_channels, widths[3], one)
        self.b2b = Unit(widths[3], widths[4], CUBE)
        self.b3b = Unit(in_channels, widths[5], one)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, F, H, W) -> (N, C', F, H, W)."""
        pooled = functional.max_pool3d(pad_same(values, CUBE, (1, 1, 1)), CUBE, stride=1)
        branches = (
            self.b0(values),
            self.b1b(self.b1a(values)),
            self.b2b(self.b2a(values)),
            self.b3b(pooled),
        )
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The last layer, a convolution of one cell with a bias."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, NUM_CLASSES, 1)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, F, 1, 1) -> (N, 400, F, 1, 1)."""
        return self.conv3d(values)


class I3D(nn.Module):
    """Clips to 400 logits.

    Frames are resized to `edge` bilinearly and scaled to [-1, 1]; logits of several places in time
    are averaged. `forward` takes bytes (N, F, H, W, 3), F >= 9, and gives (N, 400) float32.

    Args:
        edge: height and width that frames are resized to; other values than 224 are for tests.
    """

    num_features = NUM_CLASSES

    def __init__(self, edge: int = EDGE) -> None:
        super().__init__()
        self.edge = edge
        self.Conv3d_1a_7x7 = Unit(3, 64, (7, 7, 7), (2, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64, (1, 1, 1))
        self.Conv3d_2c_3x3 = Unit(64, 192, CUBE)
        channels = 192
        for name, widths in MIXED.items():
            self.add_module(name, Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Logits(channels)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits of clips."""
        count, length = frames.shape[:2]
        if length < MIN_FRAMES:
            raise InvalidInputError(
                f"These clips have {length} frames, but I3D needs at least {MIN_FRAMES}. "
                "FVD is measured on clips of 16 frames."
            )
        planes = functional.interpolate(
            planes_from_frames(frames), size=(self.edge, self.edge), mode="bilinear"
        )  # (N F) 3 H W
        values = rearrange(planes, "(n f) c h w -> n c f h w", n=count)
        values = self.trunk(values / 255 * 2 - 1)  # N 1024 F/8 H/32 W/32
        values = functional.avg_pool3d(values, (2, *values.shape[3:]), stride=1)
        return self.logits(values).mean(dim=(2, 3, 4))  # N 400

    def trunk(self, values: Tensor) -> Tensor:
        """Apply every layer before the logits: (N, 3, F, H, W) -> (N, 1024, F/8, H/32, W/32)."""
        for name, layer in self.named_children():
            if name == "logits":
                break
            if name in POOLS:
                kernel, stride = POOLS[name]
                padded = pad_same(values, kernel, stride)
                values = functional.max_pool3d(padded, kernel, stride)
            values = cast("Tensor", layer(values))
        return values
