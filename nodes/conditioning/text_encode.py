"""Latte Text Encode: what should and what should not be seen, in words."""

from __future__ import annotations

from typing import Any


class LatteTextEncode:
    """Encodes the positive and the negative prompt as the authors' pipeline does."""

    DISPLAY_NAME = "Latte Text Encode"
    CATEGORY = "Latte/conditioning"
    DESCRIPTION = (
        "Encode what should and what should not be seen, as the authors of Latte do: 120 "
        "tokens with their mask, both cut to the length of the positive prompt. Text is taken "
        "literally: (word:1.2) and embedding: have no effect here; CLIP Text Encode knows them."
    )
    SEARCH_ALIASES = ["latte prompt", "t5 encode", "prompt", "text encode", "negative prompt"]
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "STRING")
    RETURN_NAMES = ("positive", "negative", "report")
    OUTPUT_TOOLTIPS = (
        "What should be seen.",
        "What should not be seen; cut to the same length.",
        "Token count, and what was cut off a prompt of more than 120 tokens.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        return {
            "required": {
                "clip": (
                    "CLIP",
                    {
                        "tooltip": "The T5 text encoder that belongs to the model, from Latte "
                        "Text Encoder Loader or CLIPLoader (type pixart)."
                    },
                ),
                "prompt": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "What should be seen, in English. Capital letters make no "
                        "difference; 120 tokens are used.",
                    },
                ),
                "negative_prompt": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "What should not be seen; may stay empty. Acts only when the "
                        "sampler's cfg is above 1.",
                    },
                ),
                "clean_caption": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Clean both prompts as the authors do: web addresses, HTML, "
                        "file names and Chinese characters vanish. Off: lower case only.",
                    },
                ),
                "mask_feature": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Keep only the real tokens of the positive prompt, as the "
                        "authors do. Off: all 120 rows, padding included.",
                    },
                ),
            }
        }

    def encode(
        self, clip: Any, prompt: str, negative_prompt: str, clean_caption: bool, mask_feature: bool
    ) -> tuple[Any, Any, str]:
        """Encode the pair and report its length."""
        from ..host.text.encode import ClipTextEncoder, encode_conditioning

        encoder = ClipTextEncoder(clip)
        return encode_conditioning(encoder, prompt, negative_prompt, clean_caption, mask_feature)
