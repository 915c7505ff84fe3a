"""FasterCache's guidance cache inside ComfyUI: steps in which the negative half is not computed.

ComfyUI hands the conditionings of a step to `calc_cond_batch` in a list, positive first, negative
second; only behind that does it stack them in one batch, or part them by free memory. The wrapper
stands in front, so no order of rows can be mistaken: in a half step it passes the positive on
alone, and puts the negative's result, rebuilt, in its place. Context windows call once for each
window, and each window has a cache of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from ....latte_core.acceleration.clock import StepClock
from ....latte_core.acceleration.guidance_cache import GuidanceCache
from ....latte_core.acceleration.plans import GuidancePlan
from ....latte_core.acceleration.policies import Policy
from ..model.hooks import RUN_CACHE
from .step_of_call import Place, surroundings

Conds = Sequence[Any]
"""For each part of guidance its list of conditionings, or None where the part is not computed."""

Compute = Callable[[Conds], list[Tensor]]
"""Conditionings -> predicted clean latents of each part."""

# What makes a part of guidance more than one whole video under one prompt in every step.
PARTED = ("area", "mask", "default", "timestep_start", "timestep_end")

NO_PAIR = (
    "Latte Accelerate: guidance_cache needs one positive and one negative prompt for the whole "
    "video and run. This run combines several, or gives them areas, masks or times, or another "
    "node computes guidance in its own way; so all of it is computed. Use one prompt of each and "
    "no such node, or switch guidance_cache off."
)

logger = logging.getLogger("latte")


def cache_guidance(executor: Any, model: Any, conds: Conds, x: Tensor, *given: Any) -> list[Tensor]:
    """Compute the parts of guidance, by half where the run's cache says so.

    A CALC_COND_BATCH wrapper; without a run's guidance cache it changes nothing.
    """
    timestep, model_options = given
    run = model_options.get("transformer_options", {}).get(RUN_CACHE)
    guidance: GuidanceOfRun | None = getattr(run, "guidance", None)

    def compute(parts: Conds) -> list[Tensor]:
        return executor(model, parts, x, timestep, model_options)

    if guidance is None:
        return compute(conds)
    options = model_options.get("transformer_options", {})
    return guidance.predict(compute, conds, x, timestep, options)


class GuidanceOfRun:
    """The guidance caches of one run of a sampler, one for each context window.

    Args:
        plan: when a half is left out, and how it is rebuilt.
        place: among the noise levels; moved by every call.
        policy: of the run's step cache, if it has one; a half that runs no blocks needs no other.
    """

    def __init__(self, plan: GuidancePlan, place: Place, policy: Policy | None) -> None:
        self._plan, self._place, self._policy = plan, place, policy
        self._clock = StepClock(len(place.sigmas))
        self._caches: dict[Hashable, tuple[int, GuidanceCache]] = {}  # step of the last use
        self._asked = self._computed = 0
        self._has_warned = False
        self._names: tuple[Hashable, ...] = ()
        self.steps = self.half_steps = 0

    @property
    def share(self) -> float:
        """How much of what was asked for was left to the model, 0 .. 1."""
        return self._computed / self._asked if self._asked else 1.0

    def predict(
        self, compute: Compute, conds: Conds, x: Tensor, level: Tensor, options: dict[str, Any]
    ) -> list[Tensor]:
        """Return the predicted clean latents of each part of guidance.

        Args:
            compute: calls the model for the parts it is given.
            conds: see `Conds`; the positive is the first of two.
            x: (T, 4, h, w) or (B, 4, T, h, w), what the model is called with.
            level: (rows,) noise level of `x`, above 0, the same for all.
            options: `transformer_options` of the call.
        """
        name = (names_of(conds), surroundings(options), tuple(x.shape))
        is_counted = self._place.find(level, name)
        sigma = self._place.sigmas[self._place.index] if is_counted else float(level.flatten()[0])
        is_new = self._clock.enter(sigma, (name,))
        is_half, made = self._computed_by_half(name, compute, conds, x, sigma)
        self._clock.answer((name,))
        self.steps += is_new
        self.half_steps += is_new and is_half
        asked = sum(part is not None for part in conds)
        self._asked += asked
        self._computed += 1 if is_half else asked
        return made

    def asked(self, options: dict[str, Any]) -> tuple[Hashable, ...]:
        """Return the names, as `ids_of` makes them, of both parts where a step computes both."""
        return tuple((name, *surroundings(options)) for name in self._names)

    def _computed_by_half(
        self, name: Hashable, compute: Compute, conds: Conds, x: Tensor, sigma: float
    ) -> tuple[bool, list[Tensor]]:
        """Return whether the negative was left out, and the results."""
        if not self._is_pair(conds):
            return False, compute(conds)
        index = self._place.index
        cache = self._cache_of(name, index)
        planned = None if self._policy is None else self._policy.planned(self._place.step)
        if not cache.is_half(index, is_skipped=planned is False):
            self._names = tuple(part[0].get("uuid") for part in conds if part is not None)
            made = compute(conds)
            cache.keep(index, noise_in(x, made[0], sigma), noise_in(x, made[1], sigma))
            return False, made
        self._names = ()  # one is asked for, in one call
        positive = compute([conds[0], None])[0]
        negative = cache.rebuild(index, noise_in(x, positive, sigma))
        return True, [positive, (x - negative * sigma).to(positive)]

    def _cache_of(self, name: Hashable, index: int) -> GuidanceCache:
        """Return the cache of a window; those that no call comes back to are dropped."""
        gone = [key for key, (used, _) in self._caches.items() if index - used > self._plan.period]
        for key in gone:
            del self._caches[key]
        cache = self._caches.get(name, (0, None))[1]
        cache = cache or GuidanceCache(len(self._place.sigmas), self._plan)
        self._caches[name] = (index, cache)
        return cache

    def _is_pair(self, conds: Conds) -> bool:
        """Whether these are one positive and one negative; warn where guidance is another."""
        parts = [part for part in conds if part is not None]
        if len(conds) == len(parts) == 2 and all(map(is_whole, parts)):
            return True
        if len(parts) > 1 or (len(conds) > 1 and conds[0] is None):
            self.warn()
        return False

    def warn(self) -> None:
        """Say once per run why every part of guidance is computed."""
        if not self._has_warned:
            logger.warning(NO_PAIR)
        self._has_warned = True


def is_whole(part: Sequence[dict[str, Any]]) -> bool:
    """Whether a part of guidance is a single conditioning for whole videos in every step."""
    return len(part) == 1 and not any(part[0].get(key) is not None for key in PARTED)


def names_of(conds: Conds) -> tuple[Hashable, ...]:
    """Name the conditionings of a call; ComfyUI gives each an id that lasts for the run."""
    return tuple(
        None if part is None else tuple(str(one.get("uuid")) for one in part) for part in conds
    )


def noise_in(x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
    """Return the noise that is left out of `x` in predicted clean latents."""
    return (x - denoised) / sigma
