"""Latte LoRA Loader: a LoRA on a model, with a report of what matched."""

from __future__ import annotations

from typing import Any

from ..host.base import paths
from ..host.base.sockets import check_model, check_number


class LatteLoraLoader:
    """Puts a LoRA onto a Latte model."""

    DISPLAY_NAME = "Latte LoRA Loader"
    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Put a LoRA onto a Latte model: diffusers (PEFT), kohya and ComfyUI names, also files "
        "made for the spatial layers only. Says how much of the file matched and stops when "
        "nothing did."
    )
    SEARCH_ALIASES = ["latte lora", "load lora", "peft", "kohya", "lora loader model only"]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "report")
    OUTPUT_TOOLTIPS = (
        "The model with the LoRA on it; the input model is untouched.",
        "How many of the file's layers matched.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Latte model."}),
                "lora_name": (
                    paths.listed_files("loras"),
                    {"tooltip": "A file in models/loras that was trained for Latte."},
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -20.0,
                        "max": 20.0,
                        "step": 0.01,
                        "tooltip": "How strongly the LoRA acts; 0 leaves the model as it is, "
                        "negative values reverse it.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, lora_name: str, **_: Any) -> str:
        """Load again when the file or its settings were replaced."""
        from ...latte_core.checkpoint.lora.settings import settings_file

        settings = settings_file(paths.locate(lora_name, "loras", "lora_name"))
        text = paths.fingerprint(lora_name, "loras", "lora_name")
        return text if settings is None else f"{text};{settings.stat().st_mtime_ns}"

    def load(self, model: Any, lora_name: str, strength: float) -> tuple[Any, str]:
        """Return a patched clone and the report."""
        check_model(model, "Latte LoRA Loader")
        strength = check_number("strength", strength, -20.0, 20.0)
        path = paths.locate(lora_name, "loras", "lora_name")
        from ..host.model.lora import apply_lora

        return apply_lora(model, path, strength)
