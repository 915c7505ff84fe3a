"""Empty Latte Latent: the start of a video of a given size."""

from __future__ import annotations

from typing import Any

import torch

from ...latte_core.checks import check_integer
from ...latte_core.errors import InvalidInputError
from ...latte_core.types import VideoShape
from ..widgets import MAX_FRAMES

MAX_BYTES = 2**34


class LatteEmptyLatent:
    """Makes the start of a video of a given size."""

    DISPLAY_NAME = "Empty Latte Latent"
    CATEGORY = "Latte/latents"
    DESCRIPTION = (
        "Start of a video: width and height in pixels, multiples of 16, and the number of "
        "frames. All Lattes were trained on 16 frames: Latte-1 on 512 x 512, class-conditional and "
        "unconditional models on 256 x 256, the starters on 64 x 64."
    )
    SEARCH_ALIASES = ["empty latent", "empty video", "video size", "frames", "latent video"]
    FUNCTION = "make"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("An empty video; each frame is one entry of the batch.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        side = {"default": 512, "min": 16, "max": 8192, "step": 16}
        return {
            "required": {
                "width": (
                    "INT",
                    {
                        **side,
                        "tooltip": "Width in pixels, a multiple of 16 (of 32 or 64 for models "
                        "with patches of 4 or 8).",
                    },
                ),
                "height": ("INT", {**side, "tooltip": "Height in pixels, as width."}),
                "frames": (
                    "INT",
                    {
                        "default": 16,
                        "min": 1,
                        "max": MAX_FRAMES,
                        "tooltip": "Number of frames; 1 makes a picture. Above 16, add Context "
                        "Windows (Manual) to the model.",
                    },
                ),
            }
        }

    def make(self, width: int, height: int, frames: int) -> tuple[dict[str, Any]]:
        """Return zeros of shape (F, 4, h, w)."""
        check_integer("frames", frames, 1, MAX_FRAMES)
        shape = VideoShape(num_frames=frames, height=height, width=width)
        _, channels, _, rows, columns = shape.latent_size()
        size = 4 * frames * channels * rows * columns
        if size > MAX_BYTES:
            raise InvalidInputError(
                f"{frames} frames of {width} x {height} pixels need {size / 2**30:.0f} GiB for the "
                f"empty latent alone; the limit is {MAX_BYTES / 2**30:.0f} GiB. Ask for fewer "
                "frames or a smaller size."
            )
        return ({"samples": torch.zeros(frames, channels, rows, columns)},)
