"""C3D finetuned on UCF101, the network behind the Inception Score of videos.

Tran et al. (2015); as a score Saito et al. (2017, 2020). The names are those of the published file
`conv3d_deepnetA_ucf.npz` with `/W` and `/b` read as `.weight` and `.bias`, and `mean`: the mean
clip that is subtracted, (3, 16, 112, 112) in the order blue, green, red.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InvalidInputError
from .layers import planes_from_frames

EDGE = 112  # pixels the network is trained on
NUM_FRAMES = 16
NUM_CLASSES = 101
HIDDEN = 4096
CHANNELS = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
POOLED_AFTER = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")


class C3D(nn.Module):
    """Clips of 16 frames to probabilities of the 101 classes of UCF101.

    `forward` takes bytes (N, 16, H, W, 3) and gives the 4096 features before the last layer;
    `probabilities` gives (N, 101) float32.
    """

    num_features = HIDDEN

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs) in CHANNELS.items():
            self.add_module(name, nn.Conv3d(inputs, outputs, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, HIDDEN)
        self.fc7 = nn.Linear(HIDDEN, HIDDEN)
        self.fc8 = nn.Linear(HIDDEN, NUM_CLASSES)
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(3, NUM_FRAMES, EDGE, EDGE))

    def forward(self, frames: Tensor) -> Tensor:
        """Return the features of clips."""
        values = self.prepare(frames)  # N 3 16 112 112
        for name in CHANNELS:
            values = functional.relu(self.get_submodule(name)(values))
            if name in POOLED_AFTER:
                window = (1, 2, 2) if name == "conv1a" else (2, 2, 2)
                # parity: a border of 7 cells is pooled to 4, as the original's framework does
                values = functional.max_pool3d(values, window, ceil_mode=True)
        values = functional.relu(self.fc6(values.flatten(1)))
        return functional.relu(self.fc7(values))  # N 4096

    def probabilities(self, frames: Tensor) -> Tensor:
        """Return (N, 101) that add up to 1."""
        return self.fc8(self(frames)).softmax(dim=1)

    def prepare(self, frames: Tensor) -> Tensor:
        """Return clips as the network wants them: blue first, 112 x 112, less the mean clip."""
        count, length = frames.shape[:2]
        if length != NUM_FRAMES:
            raise InvalidInputError(
                f"These clips have {length} frames, but C3D needs {NUM_FRAMES}. Give clips of "
                f"{NUM_FRAMES} frames."
            )
        planes = functional.interpolate(
            planes_from_frames(frames.flip(-1)),
            size=(EDGE, EDGE),
            mode="bilinear",
            align_corners=True,
        )  # (N F) 3 H W
        return rearrange(planes, "(n f) c h w -> n c f h w", n=count) - self.mean
