"""What a person says of the cache: one word on a dial, or a policy with its number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..errors import InvalidInputError
from .plans import Broadcast, GuidancePlan
from .policies import FirstBlock, Policy, TeaCache, hand_schedule
from .schedule_file import ScheduleFile

STATIC, TEACACHE, FIRST_BLOCK, PAB, NONE = "static", "teacache", "first-block", "pab", "none"
POLICIES = (STATIC, TEACACHE, FIRST_BLOCK, PAB, NONE)
DIAL = {"quality": 1.6, "balanced": 2.0, "fast": 3.3}
"""Words of the dial, and how many times fewer steps they compute."""
FORECAST = 1

SPELLINGS = (
    "quality, balanced, fast, static:1.6, teacache:0.15, first-block:0.1, pab, pab:2/3/6, none, or "
    "a file made by 'python -m latte_core calibrate', as in schedules.json or schedules.json:2"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    """How a run is made faster by computing less of it.

    Args:
        policy: `static` (a list of steps), `teacache`, `first-block`, `pab` (attention broadcast),
            or `none`, to cache guidance alone.
        speed_up: of `static`: how many times fewer steps are computed, >= 1.
        threshold: of `teacache` and `first-block`; None for their own.
        broadcast: of `pab`.
        schedules: calibrated lists for `static`; the one nearest to `speed_up` is used. None takes
            those that the model came with for the run, or else spreads steps by rule.
        forecast: 0 repeats the last residual in skipped steps, 1 or 2 continues the last two or
            three; None is the calibration's, or 1.
        guidance: also leave out the unfollowed half of guidance in some steps; None does not.

    Raises:
        InvalidInputError: for a value that cannot be used.
    """

    policy: str = STATIC
    speed_up: float = DIAL["balanced"]
    threshold: float | None = None
    broadcast: Broadcast = Broadcast()
    schedules: ScheduleFile | None = None
    forecast: int | None = None
    guidance: GuidancePlan | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InvalidInputError(
                f"There is no cache called {self.policy!r}. Choose one of {', '.join(POLICIES)}."
            )
        if self.schedules is not None and self.policy != STATIC:
            raise InvalidInputError(
                f"Calibrated schedules belong to the cache static, but {self.policy} was chosen."
            )
        if self.schedules is None:
            self.make_policy(1, "")  # refuses a number that cannot be used

    def make_policy(self, num_steps: int, sampler: str) -> Policy | None:
        """Return what decides in a run, or None where no blocks are skipped.

        Args:
            num_steps: model calls of the run.
            sampler: its name, which calibrated schedules are made for.

        Raises:
            IncompatibleInputsError: for a run that the schedules were not calibrated for.
        """
        if self.policy == TEACACHE:
            return TeaCache() if self.threshold is None else TeaCache(threshold=self.threshold)
        if self.policy == FIRST_BLOCK:
            return FirstBlock() if self.threshold is None else FirstBlock(threshold=self.threshold)
        if self.policy != STATIC:
            return None
        if self.schedules is None:
            return hand_schedule(num_steps, self.speed_up)
        self.schedules.check(sampler, num_steps)
        return self.schedules.nearest(self.speed_up)

    def describe(self) -> str:
        """Say in a few words what decides how videos look."""
        words = [self.policy]
        if self.policy == STATIC:
            words = [f"static:{self.speed_up:g}"]
            if self.schedules is not None:
                schedule = self.schedules.nearest(self.speed_up)
                words = ["steps " + ",".join(map(str, schedule.full_steps))]
        elif self.threshold is not None:
            words = [f"{self.policy}:{self.threshold:g}"]
        elif self.policy == PAB:
            plan = self.broadcast
            words = [f"pab:{plan.spatial}/{plan.temporal}/{plan.cross}"]
        if self.policy in (STATIC, TEACACHE, FIRST_BLOCK):
            words.append(f"forecast {self.order}")
        if self.guidance is not None:
            words.append("guidance")
        return ", ".join(words)

    def kept_bytes(self, model: nn.Module, tokens: int, itemsize: int) -> int:
        """Return the bytes that a run keeps, where that is much; see `Broadcast.kept_bytes`."""
        return self.broadcast.kept_bytes(model, tokens, itemsize) if self.policy == PAB else 0

    @property
    def wants_schedules(self) -> bool:
        """Whether calibrated schedules, where the model came with some, take the place of rules."""
        return self.policy == STATIC and self.schedules is None and self.speed_up > 1

    @property
    def order(self) -> int:
        """The order of the forecast that is used."""
        if self.forecast is not None:
            return self.forecast
        return FORECAST if self.schedules is None else self.schedules.forecast


def parse_cache(text: str) -> CacheSettings:
    """Read a cache as it is written on the command line.

    Args:
        text: see `SPELLINGS`.

    Raises:
        InvalidInputError: for anything else.
        CorruptCheckpointError: for a file that holds no schedules.
    """
    text = text.strip()
    if text in DIAL:
        return CacheSettings(speed_up=DIAL[text])
    name, _, value = text.partition(":")
    if name == PAB and value:
        return CacheSettings(policy=PAB, broadcast=_broadcast(value))
    if name in (PAB, NONE) and not value:
        return CacheSettings(policy=name)
    if name in (TEACACHE, FIRST_BLOCK):
        return CacheSettings(policy=name, threshold=_number(value) if value else None)
    if name == STATIC:
        return CacheSettings(speed_up=_number(value)) if value else CacheSettings()
    path, _, speed_up = text.rpartition(":")
    if path.endswith(".json"):
        return CacheSettings(schedules=ScheduleFile.read(Path(path)), speed_up=_number(speed_up))
    if text.endswith(".json"):
        return CacheSettings(schedules=ScheduleFile.read(Path(text)))
    raise InvalidInputError(f"There is no cache {text!r}. Write {SPELLINGS}.")


def with_options(settings: CacheSettings, *, forecast: int | None, guidance: bool) -> CacheSettings:
    """Return settings with what was given beside the policy."""
    if forecast is not None:
        settings = replace(settings, forecast=forecast)
    return replace(settings, guidance=GuidancePlan()) if guidance else settings


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{text!r} is not the number that the cache needs. Write {SPELLINGS}."
        ) from error


def _broadcast(text: str) -> Broadcast:
    """Read ranges of attention: spatial/temporal/cross."""
    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InvalidInputError(
            f"pab:{text} cannot be read. Write every how many steps spatial, temporal and cross "
            "attention are computed, as in pab:2/3/6."
        )
    spatial, temporal, cross = map(int, parts)
    return Broadcast(spatial=spatial, temporal=temporal, cross=cross)
