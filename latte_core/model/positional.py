"""Sine-cosine tables for token positions (docs/model.md 2.3 and 5.3).

The one-dimensional tables are computed in float64 on the CPU and rounded to float32; only then are
they moved, because some devices have no float64. A two-dimensional table is two of them side by
side, so a picture of 32 x 32 tokens costs 64 rows, and nothing needs to be kept between calls.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..transfers import send

CPU = torch.device("cpu")


def sincos_table(width: int, positions: Tensor) -> Tensor:
    """Encode positions: all sines first, then all cosines.

    Args:
        width: columns D of the table, even.
        positions: (N,) coordinates on the CPU.

    Returns:
        (N, D) float32 on the CPU; column k < D/2 is sin(x w_k), column D/2 + k is cos(x w_k) with
        w_k = 10000^(-2k/D).
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float64, device=CPU) / half
    angles = positions.to(torch.float64)[:, None] / 10000.0**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(torch.float32)


def temporal_table(width: int, num_frames: int, device: torch.device) -> Tensor:
    """Return (F, D) float32 for frames 0 .. F-1."""
    return send(sincos_table(width, torch.arange(num_frames, device=CPU)), device)


def axis_coordinates(length: int, base: float, scale: float) -> Tensor:
    """Return (N,) float32 coordinates that stretch `length` tokens over [0, base), over `scale`."""
    return torch.arange(length, dtype=torch.float32, device=CPU) / (length / base) / scale


def spatial_table(
    width: int, rows: int, columns: int, base: float, scale: float, device: torch.device
) -> Tensor:
    """Encode a grid of tokens: the first half of the width is the column, the second the row.

    Args:
        width: columns D of the table, a multiple of 4.
        rows, columns: tokens of one frame.
        base: side in tokens of the picture the model was trained on; both axes span [0, base).
        scale: divisor of all coordinates, 1 up to 512 pixels.

    Returns:
        (S, D) float32 on `device`, S = rows * columns in row-major order.
    """
    half = width // 2
    column = send(sincos_table(half, axis_coordinates(columns, base, scale)), device)
    row = send(sincos_table(half, axis_coordinates(rows, base, scale)), device)
    grid = [column[None].expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)]
    return torch.cat(grid, dim=2).view(rows * columns, width)


def integer_table(width: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Return the spatial table (S, D) at the coordinates 0 .. rows - 1 and 0 .. columns - 1."""
    # the coordinates of `spatial_table` span its base; rectangles need each axis at its own
    longest = max(rows, columns)
    square = spatial_table(width, longest, longest, longest, 1, device)
    return square.view(longest, longest, width)[:rows, :columns].reshape(rows * columns, width)


def rotary_table(width: int, num_frames: int, device: torch.device) -> Tensor:
    """Return cosines and sines (2, F, D/2) float32 of heads of width D (RoFormer, eq. 34)."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float64, device=CPU) / half
    frames = torch.arange(num_frames, dtype=torch.float64, device=CPU)
    angles = frames[:, None] / 10000.0**exponents
    return send(torch.stack([angles.cos(), angles.sin()]).to(torch.float32), device)


def rotate(tokens: Tensor, heads: int, table: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of a head by the angle of its frame.

    Args:
        tokens: (N, F, D) queries or keys, their heads side by side.
        heads: how many there are.
        table: (2, F, D/N/2) from `rotary_table`.

    Returns:
        (N, F, D) in the dtype of `tokens`; computed in float32.
    """
    pairs = rearrange(tokens.float(), "n f (a k c) -> c n f a k", a=heads, c=2)
    cos, sin = table[:, :, None]  # F 1 D/N/2
    turned = [pairs[0] * cos - pairs[1] * sin, pairs[0] * sin + pairs[1] * cos]
    return rearrange(turned, "c n f a k -> n f (a k c)").to(tokens.dtype)
