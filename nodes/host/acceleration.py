"""Latte's step caches inside ComfyUI: what a run remembers, from its beginning to its end.

The state is made in an OUTER_SAMPLE wrapper and lives in that run's copy of `transformer_options`,
never on the module (comfyui.md 7.4). The cache is put around the run's other block patches: blocks
that run, run through `patches_replace`; in a skipped step no patch is called, because its blocks
are not. What patches did in the last full step is part of the residual that is used again.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
from torch import Tensor, nn

from ...latte_core.acceleration.body import body_of
from ...latte_core.acceleration.pab import AttentionBroadcast
from ...latte_core.acceleration.policies import Policy, Step, Verdict, Watch
from ...latte_core.acceleration.run import CacheReport
from ...latte_core.acceleration.settings import PAB, CacheSettings
from ...latte_core.acceleration.step_cache import StepCache
from ...latte_core.errors import IncompatibleInputsError
from ...latte_core.model.attention import BlockHooks
from .hooks import RUN_CACHE

KEY = "latte_accelerate"
STOCK_CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}
SAME_SIGMA = 1e-4  # relative; samplers compute with noise levels in float32

logger = logging.getLogger("latte")


@dataclass(slots=True)
class Place:
    """Where in the run's list of noise levels the model call under way is.

    Args:
        sigmas: noise levels of the run, high to low, without the last, which is the result's.
        index: of the step that the call belongs to.
    """

    sigmas: Sequence[float]
    index: int = 0

    def move_to(self, sigma: float) -> None:
        """Find the step whose noise level was reached last; between two levels, the higher."""
        reached = sum(level >= sigma * (1 - SAME_SIGMA) for level in self.sigmas)
        self.index = max(reached - 1, 0)


class PlacedPolicy:
    """A policy asked about a step's place among the noise levels, not about the number of the call.

    So samplers that call the model several times in a step (heun, dpmpp_sde) follow a list of
    steps: each call is decided as the step that its noise level belongs to.

    Args:
        policy: decides.
        place: kept up to date by the run.
    """

    def __init__(self, policy: Policy, place: Place) -> None:
        self._policy = policy
        self._place = place

    @property
    def watches(self) -> Watch:  # type: ignore[override]  # a constant of the policy inside
        """What the policy wants to be told."""
        return self._policy.watches

    def decide(self, step: Step, change: float | None, carried: float) -> Verdict:
        """Ask about the place; the first call of a run is always computed."""
        return self._policy.decide(self._placed(), change, carried)

    def planned(self, step: Step) -> bool | None:
        """Ask about the place."""
        return self._policy.planned(self._placed())

    def check(self, num_steps: int) -> None:
        """Refuse a run that the policy does not fit."""
        self._policy.check(num_steps)

    def _placed(self) -> Step:
        return Step(index=self._place.index, num_steps=len(self._place.sigmas))


class CacheOfRun:
    """The step cache or attention broadcast of one run of a sampler.

    Args:
        settings: what is cached.
        model: the transformer; nothing in it is changed.
        sigmas: noise levels of the run, high to low, with the one it ends at.
        sampler: its name, which calibrated lists of steps are made for.

    Raises:
        IncompatibleInputsError: if the settings do not fit the run or the model.
    """

    def __init__(
        self, settings: CacheSettings, model: nn.Module, sigmas: Sequence[float], sampler: str
    ) -> None:
        self._place = Place(sigmas=list(sigmas[:-1]))
        num_steps = len(self._place.sigmas)
        policy = settings.make_policy(num_steps, sampler)
        self._cache: StepCache | AttentionBroadcast
        if policy is not None:
            placed: Any = PlacedPolicy(policy, self._place)
            self._cache = StepCache(
                placed, body_of(model), num_steps=num_steps, forecast=settings.order
            )
        elif settings.policy == PAB:
            self._cache = AttentionBroadcast(settings.broadcast, num_steps=num_steps)
        else:
            raise IncompatibleInputsError(
                f"The cache {settings.policy} skips nothing inside ComfyUI. Choose another policy, "
                "or mode off."
            )

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
        time = float(timestep.flatten()[0])
        sigma = options.get("sigmas")
        if sigma is not None:
            self._place.move_to(float(sigma.flatten()[0]))
        ids = ids_of(options)
        if videos % len(ids):
            ids = (tuple(ids),)
        return self._cache.hooks(inner, timestep=time, ids=ids)

    def close(self) -> CacheReport:
        """Forget everything; return and log what was computed."""
        tally = self._cache.tally
        report = CacheReport(
            num_steps=tally.full_steps + tally.skipped_steps,
            full_steps=tally.full_steps,
            skipped_steps=tally.skipped_steps,
            half_steps=0,
            forced_calls=tally.forced_calls,
            work=tally.work / tally.whole if tally.whole else 1.0,
        )
        self._cache.reset()
        logger.info("Latte Accelerate: %s", report.sentence())
        return report


def ids_of(options: dict[str, Any]) -> tuple[Hashable, ...]:
    """Name the equal parts of a call's batch: conditioning, context window, replaced blocks.

    The last tells a skip-layer guidance call, which has the same conditioning, from a plain one.
    """
    conds = list(options.get("cond_or_uncond") or [0])
    names = list(options.get("uuids") or conds)
    if len(names) != len(conds) or len(set(names)) != len(names):
        names = list(enumerate(conds))
    window = getattr(options.get("context_window"), "index_list", ())
    replaced = options.get("patches_replace", {}).get("dit", {})
    about = (tuple(window), tuple(sorted(map(str, replaced))))
    return tuple((name, *about) for name in names)


def accelerate(model: Any, settings: CacheSettings | None) -> Any:
    """Return a copy of a MODEL whose runs are cached; None takes an earlier cache off.

    A second Latte Accelerate behind a first one replaces it.
    """
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    patched = model.clone()
    patched.remove_wrappers_with_key(kind, KEY)
    if settings is not None:
        patched.add_wrapper_with_key(kind, KEY, RunWrapper(settings))
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
        module = guider.model_patcher.model.diffusion_model
        cache = CacheOfRun(self._settings, module, levels, sampler_name(sampler))
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
