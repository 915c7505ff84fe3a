"""Computing less of a run: step caching, guidance caching, attention broadcast, calibration."""

from __future__ import annotations

from .body import Body, body_of
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
    "FirstBlock",
    "GuidanceCache",
    "GuidancePlan",
    "RunCache",
    "ScheduleFile",
    "StaticSchedule",
    "Step",
    "StepCache",
    "TeaCache",
    "body_of",
    "hand_schedule",
    "parse_cache",
]
