"""InceptionV3 as FID uses it: the network of TensorFlow's inception-2015-12-05 with its quirks.

Szegedy et al. (2016); Heusel et al. (2017). The names are torchvision's, as in the PyTorch
conversion `pt_inception-2015-12-05-6726825d.pth`: 94 units `<unit>.conv.weight` with `<unit>.bn.*`
and `fc.weight`, `fc.bias` for 1008 classes. FID's features are the 2048 after the last pooling.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import FrozenNorm, planes_from_frames, resize_as_tensorflow

EDGE = 299  # pixels the network is trained on
NUM_FEATURES = 2048
NUM_CLASSES = 1008
Pair = tuple[int, int]


class Unit(nn.Module):
    """A convolution without bias, normalised, then clipped at 0."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Pair = 1,
        stride: int = 1,
        padding: int | Pair = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = FrozenNorm(out_channels)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return functional.relu(self.bn(self.conv(values)))


def average(values: Tensor) -> Tensor:
    """Average over 3 x 3 cells; cells outside the picture do not count, as in TensorFlow."""
    return functional.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)


def largest(values: Tensor) -> Tensor:
    """Take the largest of 3 x 3 cells."""
    return functional.max_pool2d(values, 3, stride=1, padding=1)


class BlockA(nn.Module):
    """35 x 35 cells: 1x1, 5x5, two 3x3, pooling."""

    def __init__(self, in_channels: int, pool_channels: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(in_channels, 64)
        self.branch5x5_1 = Unit(in_channels, 48)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(in_channels, 64)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(in_channels, pool_channels)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, 35, 35) -> (N, 224 + pool_channels, 35, 35)."""
        branches = (
            self.branch1x1(values),
            self.branch5x5_2(self.branch5x5_1(values)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(values))),
            self.branch_pool(average(values)),
        )
        return torch.cat(branches, dim=1)


class BlockB(nn.Module):
    """35 x 35 cells to 17 x 17."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(in_channels, 64)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, 35, 35) -> (N, 480 + C, 17, 17)."""
        branches = (
            self.branch3x3(values),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(values))),
            functional.max_pool2d(values, 3, stride=2),
        )
        return torch.cat(branches, dim=1)


class BlockC(nn.Module):
    """17 x 17 cells: 1x1, 7x7 in two strips, 7x7 in four strips, pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        row: Pair = (1, 7)
        column: Pair = (7, 1)
        self.branch1x1 = Unit(768, 192)
        self.branch7x7_1 = Unit(768, width)
        self.branch7x7_2 = Unit(width, width, row, padding=(0, 3))
        self.branch7x7_3 = Unit(width, 192, column, padding=(3, 0))
        self.branch7x7dbl_1 = Unit(768, width)
        self.branch7x7dbl_2 = Unit(width, width, column, padding=(3, 0))
        self.branch7x7dbl_3 = Unit(width, width, row, padding=(0, 3))
        self.branch7x7dbl_4 = Unit(width, width, column, padding=(3, 0))
        self.branch7x7dbl_5 = Unit(width, 192, row, padding=(0, 3))
        self.branch_pool = Unit(768, 192)

    def forward(self, values: Tensor) -> Tensor:
        """(N, 768, 17, 17) -> the same shape."""
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(values)))
        branches = (
            self.branch1x1(values),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(values))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(average(values)),
        )
        return torch.cat(branches, dim=1)


class BlockD(nn.Module):
    """17 x 17 cells to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(768, 192)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(768, 192)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, values: Tensor) -> Tensor:
        """(N, 768, 17, 17) -> (N, 1280, 8, 8)."""
        strips = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(values)))
        branches = (
            self.branch3x3_2(self.branch3x3_1(values)),
            self.branch7x7x3_4(strips),
            functional.max_pool2d(values, 3, stride=2),
        )
        return torch.cat(branches, dim=1)


class BlockE(nn.Module):
    """8 x 8 cells: 1x1, 3x3 and twice 3x3 split into strips, pooling.

    Args:
        in_channels: of the input.
        pool: `average`, or `largest` in the last block of the network that FID uses.
    """

    def __init__(self, in_channels: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Unit(in_channels, 320)
        self.branch3x3_1 = Unit(in_channels, 384)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(in_channels, 448)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(in_channels, 192)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, 8, 8) -> (N, 2048, 8, 8)."""
        single = self.branch3x3_1(values)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(values))
        branches = (
            self.branch1x1(values),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(values)),
        )
        return torch.cat(branches, dim=1)


class InceptionV3(nn.Module):
    """Pictures to 2048 features, or to probabilities of 1008 classes.

    `forward` takes bytes (N, 1, H, W, 3) and gives (N, 2048) float32. Pictures are resized to
    299 x 299 as TensorFlow does and scaled by (x - 128) / 128.
    """

    num_features = NUM_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(128)
        self.Mixed_6c = BlockC(160)
        self.Mixed_6d = BlockC(160)
        self.Mixed_6e = BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b = BlockE(1280, average)
        self.Mixed_7c = BlockE(2048, largest)
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the features of pictures."""
        planes = resize_as_tensorflow(planes_from_frames(frames), EDGE)  # N 3 299 299
        return self.trunk((planes - 128) / 128)

    def probabilities(self, frames: Tensor) -> Tensor:
        """Return (N, 1008) that add up to 1, without the bias of the last layer.

        parity: the first Inception Score left the bias out, and everybody has done so since.
        """
        return (self(frames) @ self.fc.weight.T).softmax(dim=1)

    def trunk(self, planes: Tensor) -> Tensor:
        """Return (N, 2048) of pictures (N, 3, 299, 299) in [-1, 1]."""
        values = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(planes)))
        values = functional.max_pool2d(values, 3, stride=2)  # N 64 73 73
        values = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(values))
        values = functional.max_pool2d(values, 3, stride=2)  # N 192 35 35
        values = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(values)))
        values = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(values)))  # N 768 17 17
        values = self.Mixed_6e(self.Mixed_6d(values))
        values = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(values)))  # N 2048 8 8
        return values.mean(dim=(2, 3))
