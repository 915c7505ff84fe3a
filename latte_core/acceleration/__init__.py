"""Running faster: compiled blocks, CUDA graphs, and computing less of a run with caches."""

from __future__ import annotations

from .body import Body, body_of
from .compilation import CompileReport, RegionalCompiler, compile_model, uncompile_model
from .graphs import GraphedDenoiser, GraphReport
from .guidance_cache import GuidanceCache, GuidancePlan
from .pab import AttentionBroadcast, Broadcast
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
