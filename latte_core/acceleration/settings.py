"""Every cache that can be chosen, and what a person says of one: a word on a dial, or its name.

`CACHES` lists them. Runs, `sample --help`, the node and the checks of the documentation read what
they need to know of a cache from its entry. Torch is imported when a run begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..errors import InvalidInputError
from .plans import Broadcast, GuidancePlan
from .policies import FirstBlock, Policy, TeaCache, Watch, hand_schedule
from .schedule_file import ScheduleFile

if TYPE_CHECKING:
    from torch import nn

    from .step_cache import BlockCache

STATIC, NONE = "static", "none"
DIAL = {"quality": 1.6, "balanced": 2.0, "fast": 3.3}
"""Words of the dial, and how many times fewer steps they compute."""
FORECAST = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    """How a run is made faster by computing less of it.

    Args:
        policy: name of one of `CACHES`; `none` caches guidance alone.
        speed_up: of `static`: how many times fewer steps are computed, >= 1.
        threshold: number of a cache that decides at each step; None for its own.
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
        names = [kind.name for kind in CACHES]
        if self.policy not in names:
            raise InvalidInputError(
                f"There is no cache called {self.policy!r}. Choose one of {', '.join(names)}."
            )
        if self.schedules is not None and self.policy != STATIC:
            raise InvalidInputError(
                f"Calibrated schedules belong to the cache static, but {self.policy} was chosen."
            )
        if self.schedules is None:
            self.make_policy(1, "")  # refuses a number that cannot be used

    @property
    def kind(self) -> CacheKind:
        """The entry of the policy."""
        return next(kind for kind in CACHES if kind.name == self.policy)

    def make_policy(self, num_steps: int, sampler: str) -> Policy | None:
        """Return what decides in a run, or None where no blocks are skipped.

        Args:
            num_steps: model calls of the run.
            sampler: its name, which calibrated schedules are made for.

        Raises:
            IncompatibleInputsError: for a run that the schedules were not calibrated for.
        """
        return self.kind.make_policy(self, num_steps, sampler)

    def make_cache(
        self, policy: Policy | None, model: nn.Module, num_steps: int
    ) -> BlockCache | None:
        """Return what goes around the blocks in a run, or None where all of them run.

        Args:
            policy: from `make_policy`, or one that asks it.
            model: a LatteT2V or Latte; nothing in it is changed.
            num_steps: model calls of the run.

        Raises:
            IncompatibleInputsError: if the policy does not fit the run or the model.
        """
        return self.kind.make_cache(self, policy, model, num_steps)

    def describe(self) -> str:
        """Say in a few words what decides how videos look."""
        words = [self.kind.describe(self)]
        if self.kind.skips_steps:
            words.append(f"forecast {self.order}")
        if self.guidance is not None:
            words.append("guidance")
        return ", ".join(words)

    def kept_bytes(self, model: nn.Module, tokens: int, itemsize: int) -> int:
        """Return the bytes that a run keeps, where that is much; see `Broadcast.kept_bytes`."""
        return self.kind.kept_bytes(self, model, tokens, itemsize)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """How messages speak of what a cache keeps of a run, where that is much.

    Args:
        by, what: the cache, and what it keeps.
        less: what to do to keep less.
    """

    by: str
    what: str
    less: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKind:
    """A cache without a number that runs all blocks. Other kinds say what they do otherwise.

    Args:
        name: as it is written and as settings have it.
        spellings: as help writes it; the last one shows its number, if it has one.
        help: what it does, in words that can follow its name, for docs/speed.md and the node.
        kept: what it keeps, where that is much.
    """

    skips_steps: ClassVar[bool] = False  # so that a forecast is used in them
    is_offered: ClassVar[bool] = False  # by the node, in the place of the dial
    name: str
    spellings: tuple[str, ...]
    help: str
    kept: Kept | None = None

    @property
    def measures(self) -> bool:
        """Whether it decides by a change that it measures in the videos of a call."""
        return False

    def read(self, value: str) -> CacheSettings:
        """Return the settings for what stands behind the colon, "" for nothing."""
        if value:
            raise no_cache(f"{self.name}:{value}")
        return CacheSettings(policy=self.name)

    def describe(self, settings: CacheSettings) -> str:
        """Return the name, with what else decides how videos look."""
        return self.name

    def make_policy(self, settings: CacheSettings, num_steps: int, sampler: str) -> Policy | None:
        """See `CacheSettings.make_policy`."""
        return None

    def make_cache(
        self, settings: CacheSettings, policy: Policy | None, model: nn.Module, num_steps: int
    ) -> BlockCache | None:
        """See `CacheSettings.make_cache`."""
        if policy is None:
            return None
        from .body import body_of  # imports torch, as the next does
        from .step_cache import StepCache

        return StepCache(policy, body_of(model), num_steps=num_steps, forecast=settings.order)

    def kept_bytes(
        self, settings: CacheSettings, model: nn.Module, tokens: int, itemsize: int
    ) -> int:
        """See `CacheSettings.kept_bytes`; not 0 where `kept` is given."""
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepList(CacheKind):
    """A list of the steps to compute, made before the run: by rule, or by calibration."""

    skips_steps: ClassVar[bool] = True

    def read(self, value: str) -> CacheSettings:
        """Read how many times fewer steps are computed."""
        return CacheSettings(speed_up=_number(value)) if value else CacheSettings()

    def describe(self, settings: CacheSettings) -> str:
        """Name the steps, or how many times fewer they are."""
        if settings.schedules is None:
            return f"{self.name}:{settings.speed_up:g}"
        schedule = settings.schedules.nearest(settings.speed_up)
        return "steps " + ",".join(map(str, schedule.full_steps))

    def make_policy(self, settings: CacheSettings, num_steps: int, sampler: str) -> Policy:
        """Take the list from the calibration, or make it."""
        if settings.schedules is None:
            return hand_schedule(num_steps, settings.speed_up)
        settings.schedules.check(sampler, num_steps)
        return settings.schedules.nearest(settings.speed_up)


class PolicyMaker(Protocol):
    """A class of policies, or a function, that takes one number or has its own."""

    def __call__(self, *, threshold: float = ...) -> Policy: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StepByStep(CacheKind):
    """A cache that decides at each step, by one number: higher skips more.

    The number is `threshold` of the settings and of the node.

    Args:
        policy: makes what decides; refuses a number that cannot be used.
        usual: numbers that are often used, in words.
        highest: number that the node offers.
    """

    skips_steps: ClassVar[bool] = True
    is_offered: ClassVar[bool] = True
    policy: PolicyMaker
    usual: str
    highest: float = 10.0

    @property
    def measures(self) -> bool:
        """Whether the policy wants to be told of changes."""
        return self.policy().watches is not Watch.NOTHING

    def read(self, value: str) -> CacheSettings:
        """Read the number."""
        return CacheSettings(policy=self.name, threshold=_number(value) if value else None)

    def describe(self, settings: CacheSettings) -> str:
        """Name the number, if it is not the policy's own."""
        return self.name if settings.threshold is None else f"{self.name}:{settings.threshold:g}"

    def make_policy(self, settings: CacheSettings, num_steps: int, sampler: str) -> Policy:
        """Hand the number on."""
        if settings.threshold is None:
            return self.policy()
        return self.policy(threshold=settings.threshold)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionRanges(CacheKind):
    """Attention broadcast: every how many steps each kind of attention is computed."""

    is_offered: ClassVar[bool] = True

    def read(self, value: str) -> CacheSettings:
        """Read ranges of attention: spatial/temporal/cross."""
        plan = Broadcast.read(value) if value else Broadcast()
        return CacheSettings(policy=self.name, broadcast=plan)

    def describe(self, settings: CacheSettings) -> str:
        """Name the ranges."""
        plan = settings.broadcast
        return f"{self.name}:{plan.spatial}/{plan.temporal}/{plan.cross}"

    def make_cache(
        self, settings: CacheSettings, policy: Policy | None, model: nn.Module, num_steps: int
    ) -> BlockCache:
        """Follow the ranges; no policy is asked."""
        from .pab import AttentionBroadcast  # imports torch

        return AttentionBroadcast(settings.broadcast, num_steps=num_steps)

    def kept_bytes(
        self, settings: CacheSettings, model: nn.Module, tokens: int, itemsize: int
    ) -> int:
        """Count the results of the kinds of attention that are repeated."""
        return settings.broadcast.kept_bytes(model, tokens, itemsize)


CACHES: tuple[CacheKind, ...] = (
    StepList(
        name=STATIC,
        spellings=("static:1.6",),
        help="computes a list of steps, calibrated or spread by rule, and skips the others; the "
        "number says how many times fewer are computed",
    ),
    StepByStep(
        name="teacache",
        spellings=("teacache:0.15",),
        help="skips steps until the estimated changes of the model's output, added up, reach the "
        "number",
        policy=TeaCache,
        usual="0.1 slow to 0.25 fast; made for 50 steps of ddim",
    ),
    StepByStep(
        name="first-block",
        spellings=("first-block:0.1",),
        help="runs the first pair of blocks in every step, and skips the others while what it adds "
        "has changed by less than the number",
        policy=FirstBlock,
        usual="0.05 to 0.2",
    ),
    AttentionRanges(
        name="pab",
        spellings=("pab", "pab:2/3/6"),
        help="repeats attention alone: it saves the least, and class models do not take it well",
        kept=Kept(
            by="attention broadcast",
            what="attention results",
            less="keep fewer kinds of attention (a range of 1 keeps nothing, as in pab:1/3/1)",
        ),
    ),
    CacheKind(
        name=NONE,
        spellings=(NONE,),
        help="skips nothing; it is for `--cache-guidance` alone",
    ),
)


def parse_cache(text: str) -> CacheSettings:
    """Read a cache as it is written on the command line.

    Args:
        text: see `spellings`.

    Raises:
        InvalidInputError: for anything else.
        CorruptCheckpointError: for a file that holds no schedules.
    """
    text = text.strip()
    if text in DIAL:
        return CacheSettings(speed_up=DIAL[text])
    name, _, value = text.partition(":")
    for kind in CACHES:
        if kind.name == name:
            return kind.read(value)
    path, _, speed_up = text.rpartition(":")
    if path.endswith(".json"):
        return CacheSettings(schedules=ScheduleFile.read(Path(path)), speed_up=_number(speed_up))
    if text.endswith(".json"):
        return CacheSettings(schedules=ScheduleFile.read(Path(text)))
    raise no_cache(text)


def with_options(settings: CacheSettings, *, forecast: int | None, guidance: bool) -> CacheSettings:
    """Return settings with what was given beside the policy."""
    if forecast is not None:
        settings = replace(settings, forecast=forecast)
    return replace(settings, guidance=GuidancePlan()) if guidance else settings


def spellings() -> str:
    """Return all that `parse_cache` reads."""
    words = [*DIAL, *(spelling for kind in CACHES for spelling in kind.spellings)]
    return (
        f"{', '.join(words)}, or a file made by 'python -m latte_core calibrate', as in "
        "schedules.json or schedules.json:2"
    )


def no_cache(text: str) -> InvalidInputError:
    """Return the error for a cache that there is not."""
    return InvalidInputError(f"There is no cache {text!r}. Write {spellings()}.")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{text!r} is not the number that the cache needs. Write {spellings()}."
        ) from error
