"""Latte VAE Loader: VAE from a listed file, a Latte folder or the starter."""

from __future__ import annotations

from typing import Any

from ..host.base import paths
from ..host.base.sockets import check_choice

VAE_KINDS = ["auto", "temporal", "image"]


class LatteVAELoader:
    """Opens the image VAE or the temporal decoder."""

    DISPLAY_NAME = "Latte VAE Loader"
    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Open a VAE for Latte. The temporal decoder sees neighbouring frames and flickers less; "
        "the image VAE decodes each frame alone and also encodes pictures well. Files in "
        "diffusers' or Stable Video Diffusion's layout both open."
    )
    SEARCH_ALIASES = ["latte vae", "temporal vae", "temporal decoder", "svd vae", "load vae"]
    FUNCTION = "load"
    RETURN_TYPES = ("VAE",)
    RETURN_NAMES = ("vae",)
    OUTPUT_TOOLTIPS = ("The VAE, for Latte VAE Decode, VAE Decode and VAE Encode.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "vae_name": (
                    paths.options("vae"),
                    {
                        "default": paths.STARTER,
                        "tooltip": "starter for both starter models; for Latte-1 its folder, or a "
                        "Stable Diffusion 1.x or Stable Video Diffusion VAE in models/vae, which "
                        "serves class-conditional and unconditional models too.",
                    },
                ),
                "kind": (
                    VAE_KINDS,
                    {
                        "default": "auto",
                        "tooltip": "Folders and the starter hold two VAEs. auto takes the "
                        "temporal decoder where there is one; a file is what it is.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, vae_name: str, kind: str) -> str:
        """Load again when the file was replaced."""
        return paths.fingerprint(vae_name, "vae", "vae_name")

    def load(self, vae_name: str, kind: str) -> tuple[Any]:
        """Open the chosen VAE."""
        check_choice("kind", kind, VAE_KINDS)
        path = paths.locate(vae_name, "vae", "vae_name")
        from ..host.vae.vae import load_vae

        return (load_vae(path, kind),)
