"""Latte Class Label: what should be seen, as a class."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer
from ...latte_core.config.latte import INTEGER_RANGES
from ..host.base import paths
from ..host.base.conditions import ANY_CLASS, class_conditioning

MAX_CLASS = INTEGER_RANGES["num_classes"][1]
BY_NAME = -1


class LatteClassLabel:
    """Says which class a class-conditional model shows, by name or number."""

    DISPLAY_NAME = "Latte Class Label"
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
