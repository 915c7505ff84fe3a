"""Latte Compile: the same steps, faster, after a start that takes longer."""

from __future__ import annotations

from typing import Any

from ..host.base.sockets import check_choice, check_model

OFF, DEFAULT, AUTOTUNE = "off", "default", "autotune"
MODES = [DEFAULT, AUTOTUNE, OFF]


class LatteCompile:
    """torch.compile for the blocks of a Latte."""

    DISPLAY_NAME = "Latte Compile"
    CATEGORY = "Latte/acceleration"
    DESCRIPTION = (
        "Make every step faster without changing the video: the model's blocks are compiled with "
        "torch.compile in the first step of a size, which takes seconds to a minute. Prompts of "
        "any length, seeds and LoRAs use the same compiled blocks."
    )
    SEARCH_ALIASES = ["latte compile", "torch compile", "inductor", "faster", "speed up"]
    FUNCTION = "patch"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The same model, compiled when it first runs.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        mode = {
            "default": DEFAULT,
            "tooltip": "default compiles in seconds to a minute. autotune tries more kernels: that "
            "takes minutes, and can pay for many videos of one size on a GPU. off: not compiled.",
        }
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Latte model, with or without LoRAs."}),
                "mode": (MODES, mode),
            }
        }

    def patch(self, model: Any, mode: str) -> tuple[Any]:
        """Check everything at the border, then patch a copy of the model."""
        check_model(model, "Latte Compile")
        check_choice("mode", mode, MODES)
        from ..host.run.compile import compile_blocks

        is_on = mode != OFF
        return (compile_blocks(model, autotune=mode == AUTOTUNE, is_on=is_on),)
