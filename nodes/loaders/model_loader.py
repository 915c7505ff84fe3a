"""Latte Model Loader: MODEL from a listed file, a Latte folder or a starter."""

from __future__ import annotations

from typing import Any

from ..host.base import paths
from ..host.base.sockets import check_choice

WEIGHT_DTYPES = ["default", "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2"]


class LatteModelLoader:
    """Opens a Latte transformer of any kind."""

    DISPLAY_NAME = "Latte Model Loader"
    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Open a Latte model: a starter that comes with this pack, a Latte-1 folder in "
        "models/diffusers, or a single file in models/diffusion_models, be it text-to-video, "
        "class-conditional (ucf101) or unconditional (ffs, skytimelapse, taichi-hd). The MODEL "
        "works with every stock sampler."
    )
    SEARCH_ALIASES = [
        *("latte", "load latte", "text to video", "video model", "starter"),
        *("ucf101", "class starter", "unconditional", "dit"),
    ]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The Latte model, for Latte Sampler, KSampler and model patches.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "model_name": (
                    paths.options("diffusion_models"),
                    {
                        "default": paths.STARTER,
                        "tooltip": "starter and class-starter: the small models inside this pack, "
                        "one for prompts, one for classes. A name that ends in / is a Latte folder "
                        "in models/diffusers; the others are files in models/diffusion_models.",
                    },
                ),
                "weight_dtype": (
                    WEIGHT_DTYPES,
                    {
                        "default": "default",
                        "tooltip": "How weights are kept in memory. default lets ComfyUI choose; "
                        "fp8 halves the memory of fp16 and costs a little quality.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model_name: str, weight_dtype: str) -> str:
        """Load again when the file was replaced."""
        return paths.fingerprint(model_name, "diffusion_models", "model_name")

    def load(self, model_name: str, weight_dtype: str) -> tuple[Any]:
        """Open the chosen model."""
        check_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
        path = paths.locate(model_name, "diffusion_models", "model_name")
        from ..host.model.loading import open_model

        return (open_model(str(path), weight_dtype),)
