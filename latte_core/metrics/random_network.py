"""A small network with fixed random weights, to compare models when no trained one is at hand.

Its distances order models that differ plainly, and need no file; they are on a scale of their own
and must not be compared with published FVD or FID.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Generator, Tensor, nn
from torch.nn import functional

from .layers import planes_from_frames

SEED = 0
WIDTHS = (8, 8, 16)
SCALE = 100.0  # puts distances between different videos at 1 and above
SMALLEST = 8  # pixels a side after which a picture is no longer halved


class RandomNetwork(nn.Module):
    """Clips of any length and size to 64 numbers: mean and spread of each channel at three scales.

    `forward` takes bytes (N, F, H, W, 3) and gives (N, 64) float32. The weights come from a
    generator with a fixed seed and are the same everywhere.
    """

    num_features = 2 * sum(WIDTHS)

    def __init__(self) -> None:
        super().__init__()
        generator = Generator("cpu").manual_seed(SEED)
        channels = 3
        for index, width in enumerate(WIDTHS):
            weight = torch.randn((width, channels, 3, 3, 3), generator=generator, device="cpu")
            scaled = weight / (channels * 27) ** 0.5
            self.register_buffer(f"weight_{index}", scaled, persistent=False)
            channels = width

    def forward(self, frames: Tensor) -> Tensor:
        """Return the features of clips."""
        planes = planes_from_frames(frames) / 255 * 2 - 1
        values = rearrange(planes, "(n f) c h w -> n c f h w", n=len(frames))
        found: list[Tensor] = []
        for index in range(len(WIDTHS)):
            weight = self.get_buffer(f"weight_{index}")
            values = functional.leaky_relu(functional.conv3d(values, weight, padding=1), 0.2)
            found += [values.mean(dim=(2, 3, 4)), values.std(dim=(2, 3, 4), correction=0)]
            if min(values.shape[3:]) > SMALLEST:
                values = functional.avg_pool3d(values, (1, 2, 2))
        return SCALE * torch.cat(found, dim=1)
