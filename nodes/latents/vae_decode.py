"""Latte VAE Decode: latents in, frames out."""

from __future__ import annotations

from typing import Any

import torch

from ...latte_core.checks import check_integer
from ..host.base.sockets import check_latent, check_vae
from ..widgets import MAX_FRAMES


class LatteVAEDecode:
    """Turns latents into frames, in pieces that do not depend on free memory."""

    DISPLAY_NAME = "Latte VAE Decode"
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
