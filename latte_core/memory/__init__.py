"""Running on small cards: presets, the choice of one, and the moving of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import listing, names_from

if TYPE_CHECKING:
    from .estimate import Choice, PartSizes, all_bytes, choose_plan, free_bytes, stage_bytes
    from .groups import block_groups
    from .loans import BlockStream, WholeLoan
    from .plan import (
        AUTO,
        CPU,
        KEEP_ALL,
        MEMORY_CHOICES,
        PRESETS,
        RESIDENT,
        STREAMED,
        MemoryPlan,
        check_memory,
        smaller_than,
    )
    from .stages import Stages

__all__ = [
    "AUTO",
    "CPU",
    "KEEP_ALL",
    "MEMORY_CHOICES",
    "PRESETS",
    "RESIDENT",
    "STREAMED",
    "BlockStream",
    "Choice",
    "MemoryPlan",
    "PartSizes",
    "Stages",
    "WholeLoan",
    "all_bytes",
    "block_groups",
    "check_memory",
    "choose_plan",
    "free_bytes",
    "smaller_than",
    "stage_bytes",
]

__dir__ = listing(__name__, __all__)
__getattr__ = names_from(
    __name__,
    {
        "estimate": (
            "Choice",
            "PartSizes",
            "all_bytes",
            "choose_plan",
            "free_bytes",
            "stage_bytes",
        ),
        "groups": ("block_groups",),
        "loans": ("BlockStream", "WholeLoan"),
        "plan": (
            "AUTO",
            "CPU",
            "KEEP_ALL",
            "MEMORY_CHOICES",
            "PRESETS",
            "RESIDENT",
            "STREAMED",
            "MemoryPlan",
            "check_memory",
            "smaller_than",
        ),
        "stages": ("Stages",),
    },
)
