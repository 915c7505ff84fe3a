"""Latents in and frames out: Empty Latte Latent and Latte VAE Decode."""

from __future__ import annotations

from typing import Any

import torch

from ...latte_core.checks import check_integer
from ...latte_core.errors import InvalidInputError
from ...latte_core.types import VideoShape
from ..host.base.sockets import check_latent, check_vae

MAX_FRAMES = 4096
MAX_BYTES = 2**34


class LatteEmptyLatent:
    """Makes the start of a video of a given size."""

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


class LatteVAEDecode:
    """Turns latents into frames, in pieces that do not depend on free memory."""

    CATEGORY = "Latte/latents"
    DESCRIPTION = (
        "Turn latents into frames. With a temporal VAE frames are decoded together, as many as the "
        "size of the clip says; free memory changes nothing as long as it suffices. Takes latents "
        "as a batch of frames or as whole videos."
    )
    SEARCH_ALIASES = ["latte decode", "vae decode", "latent to video", "frames", "decode video"]
    FUNCTION = "decode"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("The frames as a batch of images, for Create Video or Video Combine.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "Latents from a sampler."}),
                "vae": ("VAE", {"tooltip": "From Latte VAE Loader or Load VAE."}),
                "chunk_frames": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MAX_FRAMES,
                        "tooltip": "Frames decoded together. 0: up to 16 frames at once, longer "
                        "clips 14 at a time with 4 more on each side to look at. 14 is the "
                        "authors' way; the length of the clip or more decodes it whole; fewer need "
                        "less memory.",
                    },
                ),
            }
        }

    def decode(self, samples: dict[str, Any], vae: Any, chunk_frames: int) -> tuple[torch.Tensor]:
        """Return (F, H, W, 3) in [0, 1]; several videos follow each other."""
        check_integer("chunk_frames", chunk_frames, 0, MAX_FRAMES)
        check_vae(vae, "Latte VAE Decode")
        latents = check_latent(samples, "samples", "Latte VAE Decode", strict=True)
        from ..host.vae.decode import decode_clips

        videos = latents if latents.ndim == 5 else latents.movedim(0, 1).unsqueeze(0)
        return (decode_clips(vae, videos, chunk_frames),)
