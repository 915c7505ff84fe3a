"""What the feature networks share: frozen normalisation, padding as in TensorFlow, resizing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

BN_EPS = 1e-3  # of the TensorFlow originals


class FrozenNorm(nn.Module):
    """Batch normalisation with fixed statistics, so that a sample never depends on its batch.

    Its state has the four names of torch's own layer that matter: `weight`, `bias`,
    `running_mean`, `running_var`.

    Args:
        num_channels: of the input (N, C, ...).
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each channel."""
        return functional.batch_norm(
            values, self.running_mean, self.running_var, self.weight, self.bias, eps=BN_EPS
        )


def pad_same(values: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad with zeros so that an output has ceil(size / stride) cells; the larger half behind.

    Args:
        values: (N, C, F, H, W).
        kernel, stride: for F, H and W.
    """
    padding: list[int] = []
    for size, edge, step in reversed(list(zip(values.shape[2:], kernel, stride, strict=True))):
        total = max(edge - (size % step or step), 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(values, padding)


def planes_from_frames(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (N F, 3, H, W) from frames (N, F, H, W, 3) of bytes, still from 0 to 255."""
    return frames.flatten(0, 1).permute(0, 3, 1, 2).to(dtype)


def resize_as_tensorflow(planes: Tensor, size: int) -> Tensor:
    """Resize bilinearly as TensorFlow 1 does: output cell i lies at i * old / new.

    Torch puts it at (i + 0.5) * old / new - 0.5, which moves the picture by half a cell.

    Args:
        planes: (N, C, H, W).
        size: new height and width.
    """
    for axis in (2, 3):
        planes = _interpolate(planes, axis, size)
    return planes


def _interpolate(planes: Tensor, axis: int, size: int) -> Tensor:
    old = planes.shape[axis]
    # Some devices have no float64: the places are computed on the CPU, and moved when rounded.
    places = torch.arange(size, dtype=torch.float64, device="cpu") * (old / size)
    low = places.floor().long().clamp(max=old - 1)
    shape = [1] * planes.ndim
    shape[axis] = size
    weight = (places - low).to(planes.dtype).view(shape).to(planes.device)
    low = low.to(planes.device)
    high = (low + 1).clamp(max=old - 1)
    first, second = planes.index_select(axis, low), planes.index_select(axis, high)
    return first + (second - first) * weight
