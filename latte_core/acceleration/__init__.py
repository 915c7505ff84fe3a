"""Running faster: compiled blocks, CUDA graphs, and computing less of a run with caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import listing, names_from

if TYPE_CHECKING:
    from .body import Body, body_of
    from .compilation import CompileReport, RegionalCompiler, compile_model, uncompile_model
    from .graphs import GraphedDenoiser, GraphReport
    from .guidance_cache import GuidanceCache
    from .pab import AttentionBroadcast
    from .plans import Broadcast, GuidancePlan
    from .policies import FirstBlock, StaticSchedule, Step, TeaCache, hand_schedule
    from .run import CachedLatte, CacheReport, RunCache
    from .schedule_file import CalibratedSchedule, ScheduleFile
    from .settings import DIAL, CacheSettings, parse_cache
    from .step_cache import StepCache

__all__ = [
    "DIAL",
    "AttentionBroadcast",
    "Body",
    "Broadcast",
    "CacheReport",
    "CacheSettings",
    "CachedLatte",
    "CalibratedSchedule",
    "CompileReport",
    "FirstBlock",
    "GraphReport",
    "GraphedDenoiser",
    "GuidanceCache",
    "GuidancePlan",
    "RegionalCompiler",
    "RunCache",
    "ScheduleFile",
    "StaticSchedule",
    "Step",
    "StepCache",
    "TeaCache",
    "body_of",
    "compile_model",
    "hand_schedule",
    "parse_cache",
    "uncompile_model",
]

__dir__ = listing(__name__, __all__)
__getattr__ = names_from(
    __name__,
    {
        "body": ("Body", "body_of"),
        "compilation": ("CompileReport", "RegionalCompiler", "compile_model", "uncompile_model"),
        "graphs": ("GraphedDenoiser", "GraphReport"),
        "guidance_cache": ("GuidanceCache",),
        "pab": ("AttentionBroadcast",),
        "plans": ("Broadcast", "GuidancePlan"),
        "policies": ("FirstBlock", "StaticSchedule", "Step", "TeaCache", "hand_schedule"),
        "run": ("CachedLatte", "CacheReport", "RunCache"),
        "schedule_file": ("CalibratedSchedule", "ScheduleFile"),
        "settings": ("DIAL", "CacheSettings", "parse_cache"),
        "step_cache": ("StepCache",),
    },
)
