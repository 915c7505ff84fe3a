"""What a video is to show: Latte Text Encode, Latte Class Label and Latte Unconditional."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer
from ...latte_core.config.latte import INTEGER_RANGES
from ..host.base import paths
from ..host.base.conditions import ANY_CLASS, class_conditioning, no_conditioning

MAX_CLASS = INTEGER_RANGES["num_classes"][1]
BY_NAME = -1


class LatteTextEncode:
    """Encodes the positive and the negative prompt as the authors' pipeline does."""

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


class LatteClassLabel:
    """Says which class a class-conditional model shows, by name or number."""

    CATEGORY = "Latte/conditioning"
    DESCRIPTION = (
        "Choose what a class-conditional Latte shows: one of UCF101's 101 actions, a class of the "
        "class starter, or the number of a class of any other model. Replaces the text encoder "
        "and its prompts."
    )
    SEARCH_ALIASES = ["latte class", "class label", "ucf101", "action", "class conditional", "dit"]
    FUNCTION = "make"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = (
        "The class, for the positive input of Latte Sampler or KSampler.",
        "Any class, which guidance leads away from, for the negative input.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List the names that are known."""
        return {
            "required": {
                "class_name": (
                    paths.class_names(),
                    {
                        "default": paths.first_class(),
                        "tooltip": "The class; click and type to search. First the 101 of UCF101 "
                        "in the order of their numbers (0 to 100), then those of the class starter "
                        "and of folders with a classes.json.",
                    },
                ),
                "class_number": (
                    "INT",
                    {
                        "default": BY_NAME,
                        "min": BY_NAME,
                        "max": MAX_CLASS,
                        "tooltip": "-1 takes class_name. From 0: the class of this number, for "
                        "models whose classes have no names here; one more than the last is any "
                        "class.",
                    },
                ),
            }
        }

    def make(self, class_name: str, class_number: int) -> tuple[Any, Any]:
        """Return the class and any class; only the model knows whether it has it."""
        check_integer("class_number", class_number, BY_NAME, MAX_CLASS)
        label = class_name if class_number == BY_NAME else class_number
        return class_conditioning(label), class_conditioning(ANY_CLASS)


class LatteUnconditional:
    """Fills the conditioning inputs of samplers for models that read neither text nor classes."""

    CATEGORY = "Latte/conditioning"
    DESCRIPTION = (
        "For unconditional Lattes, such as those of faces (ffs), skies (skytimelapse) and tai chi "
        "(taichi-hd): fills the positive and negative inputs of a sampler. Seed and size alone "
        "decide what is seen. A class-conditional model makes a video of any class."
    )
    SEARCH_ALIASES = ["latte unconditional", "no prompt", "ffs", "skytimelapse", "taichi"]
    FUNCTION = "make"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = (
        "For the positive input of Latte Sampler or KSampler.",
        "For the negative input; guidance has no effect without a condition.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Say that there are none."""
        return {"required": {}}

    def make(self) -> tuple[Any, Any]:
        """Return two conditionings without content."""
        return no_conditioning(), no_conditioning()
