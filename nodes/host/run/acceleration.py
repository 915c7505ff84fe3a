"""Latte's step caches inside ComfyUI: what a run remembers, from its beginning to its end.

The state is made in an OUTER_SAMPLE wrapper and lives in that run's copy of `transformer_options`,
never on the module (docs/comfyui.md 10). The cache is put around the run's other block patches:
blocks that run, run through `patches_replace`; in a skipped step no patch is called, because its
blocks are not. What patches did in the last full step is part of the residual that is used again.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
from torch import Tensor, nn

from ....latte_core.acceleration.run import CacheReport
from ....latte_core.acceleration.settings import CacheSettings
from ....latte_core.acceleration.step_cache import BlockCache, Tally
from ....latte_core.model.attention import BlockHooks
from ....latte_core.types import LATENT_CHANNELS
from ..model.hooks import RUN_CACHE
from ..model.origin import ORIGIN
from .guidance import GuidanceOfRun, cache_guidance
from .memory import make_room
from .precision import compute_dtype
from .shipped_schedules import settle_schedules
from .step_of_call import ONE_CALL_A_STEP, Place, PlacedPolicy, surroundings

KEY = "latte_accelerate"
GUIDED = 2  # conditions of a call
POSITIVE = 0  # in `cond_or_uncond`; the negative is 1
STOCK_CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}

logger = logging.getLogger("latte")


class CacheOfRun:
    """The cache of the blocks of one run of a sampler, and its guidance cache.

    Args:
        settings: what is cached.
        model: the transformer; nothing in it is changed.
        sigmas: noise levels of the run, high to low, with the one it ends at.
        sampler: its name, which calibrated lists of steps are made for.
        times: training-time indices of the noise levels.
        is_counted: whether the sampler calls the model once in a step, and `count_step` after it.

    Raises:
        IncompatibleInputsError: if the settings do not fit the run or the model.
    """

    def __init__(
        self,
        settings: CacheSettings,
        model: nn.Module,
        sigmas: Sequence[float],
        sampler: str,
        times: Sequence[float] = (),
        is_counted: bool = False,
    ) -> None:
        self._place = Place(sigmas=list(sigmas[:-1]), is_counted=is_counted)
        self._times = list(times)
        num_steps = len(self._place.sigmas)
        policy = settings.make_policy(num_steps, sampler)
        placed: Any = None if policy is None else PlacedPolicy(policy, self._place)
        self._cache: BlockCache | None = settings.make_cache(placed, model, num_steps)
        self.guidance: GuidanceOfRun | None = None
        if settings.guidance is not None:
            self.guidance = GuidanceOfRun(settings.guidance, self._place, policy)
        self._calls = 0

    def hooks(
        self, inner: BlockHooks, *, timestep: Tensor, videos: int, options: dict[str, Any]
    ) -> BlockHooks:
        """Return the hooks of one model call.

        Args:
            inner: the run's own patches and attention.
            timestep: (rows,) training-time index, the same for all.
            videos: rows of the transformer's batch.
            options: `transformer_options` of the call.
        """
        self._calls += 1
        if self._cache is None:
            return inner
        ids, watched = ids_of(options), watched_of(options)
        if videos % len(ids):
            ids, watched = (tuple(ids),), 0
        sigma = options.get("sigmas")
        is_known = sigma is not None and self._place.find(sigma, ids)
        time = self._times[self._place.index] if is_known else float(timestep.flatten()[0])
        others = () if self.guidance is None else self.guidance.asked(options)
        missing = [name for name in others if name not in ids]
        return self._cache.hooks(inner, timestep=time, ids=ids, watched=watched, others=missing)

    def count_step(self, step: int) -> None:
        """Hear from the sampler that a step is done."""
        self._place.steps_done = step + 1

    def close(self) -> CacheReport:
        """Forget everything; return and log what was computed."""
        guidance = self.guidance
        steps = 0 if guidance is None else guidance.steps
        tally = Tally(full_steps=steps) if self._cache is None else self._cache.tally
        report = CacheReport(
            num_steps=tally.full_steps + tally.skipped_steps,
            full_steps=tally.full_steps,
            skipped_steps=tally.skipped_steps,
            half_steps=0 if guidance is None else guidance.half_steps,
            forced_calls=tally.forced_calls,
            work=(tally.work / tally.whole if tally.whole else 1.0)
            * (1.0 if guidance is None else guidance.share),
        )
        if guidance is not None and self._calls and not steps:
            guidance.warn()  # another node answers in the place of calc_cond_batch
        self._cache = self.guidance = None
        logger.info("Latte Accelerate: %s", report.sentence())
        return report


def ids_of(options: dict[str, Any]) -> tuple[Hashable, ...]:
    """Name the equal parts of a call's batch: conditioning, and what surrounds the call."""
    conds = list(options.get("cond_or_uncond") or [0])
    names = list(options.get("uuids") or conds)
    if len(names) != len(conds) or len(set(names)) != len(names):
        names = list(enumerate(conds))
    return tuple((name, *surroundings(options)) for name in names)


def watched_of(options: dict[str, Any]) -> int:
    """Return the part of a call's batch by which a step is judged: the first positive one.

    ComfyUI stacks the negative on top, but calls the positive first where memory parts them.
    """
    conds = list(options.get("cond_or_uncond") or [0])
    return conds.index(POSITIVE) if POSITIVE in conds else 0


def accelerate(model: Any, settings: CacheSettings | None) -> Any:
    """Return a copy of a MODEL whose runs are cached; None takes an earlier cache off.

    A second Latte Accelerate behind a first one replaces it.
    """
    kinds = comfy.patcher_extension.WrappersMP
    patched = model.clone()
    for kind in (kinds.OUTER_SAMPLE, kinds.CALC_COND_BATCH):
        patched.remove_wrappers_with_key(kind, KEY)
    if settings is not None:
        patched.add_wrapper_with_key(kinds.OUTER_SAMPLE, KEY, RunWrapper(settings))
    if settings is not None and settings.guidance is not None:
        patched.add_wrapper_with_key(kinds.CALC_COND_BATCH, KEY, cache_guidance)
    return patched


class RunWrapper:
    """Gives each run of a guider a cache of its own; holds settings, no state.

    Args:
        settings: what is cached.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings

    def __call__(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *given: Any,
        **named: Any,
    ) -> Any:
        """Run the sampler with a cache in the run's `transformer_options`."""
        guider = executor.class_obj
        before = guider.model_options
        levels = [float(sigma) for sigma in sigmas]
        if len(levels) < 2:
            return executor(noise, latent_image, sampler, sigmas, *given, **named)
        warn_about_stock_caches(before)
        patcher = guider.model_patcher
        module = patcher.model.diffusion_model
        settings, name = settle_schedules(
            self._settings,
            patcher.get_attachment(ORIGIN),
            sampler=sampler_name(sampler),
            sigmas=levels[:-1],
            config=module.config,
        )
        kept, num_bytes = settings.kind.kept, kept_bytes(settings, patcher, noise)
        if kept is not None and num_bytes:
            make_room(patcher, num_bytes, noise.shape, kept.by)
        cache = CacheOfRun(
            settings,
            module,
            levels,
            name,
            times=patcher.model.model_sampling.timestep(sigmas[:-1].cpu()).tolist(),
            is_counted=calls_once_a_step(sampler),
        )
        given, named = with_step_counter(cache, given, named)
        options = comfy.model_patcher.create_model_options_clone(before)
        options["transformer_options"] = {
            **options.get("transformer_options", {}),
            RUN_CACHE: cache,
        }
        guider.model_options = options
        try:
            return executor(noise, latent_image, sampler, sigmas, *given, **named)
        finally:  # also when the run was cancelled
            guider.model_options = before
            cache.close()


def kept_bytes(settings: CacheSettings, patcher: Any, noise: Tensor) -> int:
    """Return the bytes that a cache keeps of both conditions of a run, where that is much."""
    module = patcher.model.diffusion_model
    cells = GUIDED * noise.numel() // LATENT_CHANNELS
    itemsize = compute_dtype(patcher).itemsize
    return settings.kept_bytes(module, cells // module.config.patch_size**2, itemsize)


def with_step_counter(
    cache: CacheOfRun, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let a cache hear of each step before the callback that `outer_sample` was given.

    Args:
        cache: of the run.
        given: arguments of `outer_sample` from the fifth on: a mask, the callback, more.
        named: those given by name.
    """
    before = given[1] if len(given) > 1 else named.get("callback")

    def callback(step: int, *told: Any) -> None:
        cache.count_step(step)
        if before is not None:
            before(step, *told)

    if len(given) > 1:
        return (given[0], callback, *given[2:]), named
    return given, {**named, "callback": callback}


def calls_once_a_step(sampler: Any) -> bool:
    """Whether a SAMPLER is known to call the model once in a step, at the step's noise level."""
    is_churned = getattr(sampler, "extra_options", {}).get("s_churn")
    return sampler_name(sampler) in ONE_CALL_A_STEP and not is_churned


def sampler_name(sampler: Any) -> str:
    """Return the name of a SAMPLER as schedule files have it: `ddim`, `euler`."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    return name.removeprefix("sample_") or type(sampler).__name__


def warn_about_stock_caches(model_options: dict[str, Any]) -> None:
    """Say once per run that another node skips steps too."""
    options = model_options.get("transformer_options", {})
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    found = options.get("wrappers", {}).get(kind, {})
    for key, name in STOCK_CACHES.items():
        if found.get(key):
            logger.warning(
                "%s and Latte Accelerate are both on this model. Both skip steps, so their errors "
                "add up and the video may fall apart. Remove one of them.",
                name,
            )
