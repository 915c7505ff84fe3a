"""Latte Text Encoder Loader: CLIP from a listed file, a Latte folder or the starter."""

from __future__ import annotations

from typing import Any

from ..host.base import paths
from ..host.base.sockets import check_choice

DEVICES = ["default", "cpu"]


class LatteTextEncoderLoader:
    """Opens the T5 text encoder."""

    DISPLAY_NAME = "Latte Text Encoder Loader"
    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Open the T5 text encoder that turns prompts into what Latte reads: the starter's, the "
        "one in a Latte-1 folder, or a t5xxl file that other models use too. Gives a CLIP that "
        "CLIP Text Encode accepts as well."
    )
    SEARCH_ALIASES = ["latte t5", "t5xxl", "load text encoder", "clip loader", "latte clip"]
    FUNCTION = "load"
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("The text encoder, for Latte Text Encode or CLIP Text Encode.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "encoder_name": (
                    paths.options("text_encoders"),
                    {
                        "default": paths.STARTER,
                        "tooltip": "Must belong to the model: starter for the starter; for "
                        "Latte-1 its folder or a t5xxl file (fp16, fp8 or scaled fp8) in "
                        "models/text_encoders.",
                    },
                ),
                "device": (
                    DEVICES,
                    {
                        "default": "default",
                        "tooltip": "cpu keeps the text encoder out of video memory; encoding "
                        "takes longer.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, encoder_name: str, device: str) -> str:
        """Load again when the file was replaced."""
        return paths.fingerprint(encoder_name, "text_encoders", "encoder_name")

    def load(self, encoder_name: str, device: str) -> tuple[Any]:
        """Open the chosen encoder."""
        check_choice("device", device, DEVICES)
        path = paths.locate(encoder_name, "text_encoders", "encoder_name")
        from ..host.text.clip import load_clip

        return (load_clip(path, device),)
