"""Calibrate the step cache of a MODEL inside ComfyUI, as one run of a guider.

The steps of an uncached DDIM run, and those behind every gap, are made by one sampler function. So
ComfyUI's memory management, LoRA patches, guidance and cancel hold for all of them, and every model
call carries the hooks of latte_core's calibration in its `transformer_options`.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor, nn

from ....latte_core.acceleration.body import body_of
from ....latte_core.acceleration.calibrate import (
    CalibrationPlan,
    Example,
    HooksFor,
    mean_edges,
    measure_edges,
    schedules_for,
)
from ....latte_core.acceleration.schedule_file import CalibratedSchedule, ScheduleFile
from ....latte_core.acceleration.settings import DIAL, CacheSettings
from ....latte_core.checkpoint.recognition.titles import title_of
from ....latte_core.devices import is_out_of_memory
from ....latte_core.errors import CorruptCheckpointError, IncompatibleInputsError, InvalidInputError
from ....latte_core.model.attention import BlockFn, BlockHooks
from ..base.progress import check_cancelled, progress_bar
from ..base.sockets import config_of
from ..model.hooks import RUN_CACHE
from .acceleration import STOCK_CACHES, accelerate, ids_of
from .sampler_functions import alpha_of, check_finite, levels_of, model_dtype, with_options
from .sampling import RunSettings, latte_sigmas, latte_timesteps, noise_of_run

SAMPLER = "ddim"  # its steps depend on nothing but their arguments
Edges = dict[tuple[int, int], float]
"""Steps computed on both sides of a gap -> error of the gap."""

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSettings:
    """What the widgets of Latte Calibrate say.

    Args:
        seed, steps, cfg, max_skip, forecast: the widgets.
        path: of the file to write.
    """

    seed: int
    steps: int
    cfg: float
    max_skip: int
    forecast: int
    path: Path


def calibrate(
    model: Any, positive: Any, negative: Any, samples: Tensor, settings: CalibrationSettings
) -> tuple[Any, str]:
    """Measure, choose and write; return the model that follows the schedules, and a report.

    Args:
        model: a MODEL.
        positive, negative: CONDITIONING.
        samples: latents of the size to measure on; their values are not used.
        settings: see `CalibrationSettings`.

    Raises:
        InvalidInputError: if the file is another model's, or no schedule can be chosen.
        IncompatibleInputsError: for a model that another node caches.
    """
    refuse_stock_caches(model)
    config, digest = config_of(model), fingerprint_of(model.model.diffusion_model)
    refuse_other_file(settings, title_of(config), digest)
    plan = CalibrationPlan(max_skip=settings.max_skip, forecast=settings.forecast)
    edges = measure(model, positive, negative, samples, settings, plan)
    found = schedules_for(mean_edges([edges]), settings.steps, settings.max_skip)
    if not found:
        raise InvalidInputError(
            f"With max_skip {settings.max_skip}, no list for {settings.steps} steps is worth "
            "writing. Raise max_skip."
        )
    made = ScheduleFile(
        model=title_of(config),
        digest=digest,
        sampler=SAMPLER,
        num_steps=settings.steps,
        guidance_scale=settings.cfg,
        forecast=settings.forecast,
        prompts=samples.shape[0] if samples.ndim == 5 else 1,
        schedules=tuple(CalibratedSchedule(full_steps=one.full_steps) for one in found),
    )
    refuse_other_file(settings, title_of(config), digest)  # one may have come meanwhile
    settings.path.parent.mkdir(parents=True, exist_ok=True)
    made.write(settings.path)
    report = describe(made, edges, settings.path)
    logger.info("Latte Calibrate: %s", report)
    follows = CacheSettings(speed_up=DIAL["balanced"], schedules=made)
    return accelerate(model, follows), report


def measure(
    model: Any,
    positive: Any,
    negative: Any,
    samples: Tensor,
    settings: CalibrationSettings,
    plan: CalibrationPlan,
) -> Edges:
    """Return the error of every gap, from one run of ComfyUI's guider."""
    config = config_of(model)
    plain = accelerate(model, None)  # a cache that is on the model would be measured, too
    samples = torch.zeros_like(comfy.sample.fix_empty_latent_channels(plain, samples))
    run = RunSettings(seed=settings.seed, steps=settings.steps, cfg=settings.cfg, denoise=1.0)
    noise, _ = noise_of_run(config, {"samples": samples}, run)
    visits = latte_timesteps(config, settings.steps, 1.0)
    bar = progress_bar(plan.calls(settings.steps))
    measurement = Measurement(visits, plain.model.diffusion_model, plan, bar.update)
    try:
        comfy.sample.sample_custom(
            plain,
            noise,
            run.guidance(config) or 1.0,  # parity: guidance is off at 1 and below
            comfy.samplers.KSAMPLER(measurement.sample),
            latte_sigmas(plain, settings.steps, 1.0),
            positive,
            negative,
            samples,
            disable_pbar=True,
            seed=settings.seed,
        )
    except RuntimeError as error:
        if is_out_of_memory(error):
            logger.error("Latte: out of memory while calibrating on %s.", tuple(samples.shape))
        raise
    return measurement.edges


class Measurement:
    """A sampler that measures gaps on its way; what it returns is noise, and of no use.

    Args:
        visits: training-time steps of the run, highest first.
        module: the transformer.
        plan: how much is measured.
        report: told the number of full model calls made since the last time.
    """

    def __init__(
        self,
        visits: Sequence[int],
        module: nn.Module,
        plan: CalibrationPlan,
        report: Callable[[int], None],
    ) -> None:
        self.edges: Edges = {}
        self._visits = [float(visit) for visit in visits]
        self._body = body_of(module)
        self._plan = plan
        self._report = report

    def sample(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: Any = None,
    ) -> Tensor:
        """Have the shape of a k-diffusion sampler function, for `KSAMPLER`."""
        levels = levels_of(sigmas)
        unit = x.new_ones([x.shape[0]])

        def predict(scaled: Tensor, timestep: float, hooks_for: HooksFor) -> Tensor:
            check_cancelled()
            step = self._visits.index(timestep)
            given = with_options(extra_args, {RUN_CACHE: CallHooks(hooks_for)})
            denoised = model(scaled.to(x), unit * levels[step], **given)
            check_finite(denoised, step, levels[step], model_dtype(model))
            return denoised

        example = Example(
            predict=predict,
            start=model.noise.to("cpu", torch.float32),
            sampler=DdimSteps(self._visits, levels),
            denoise=lambda _, denoised, __: denoised,
        )
        self.edges = measure_edges(example, self._body, self._plan, report=self._report)
        return x


class DdimSteps:
    """DDIM between ComfyUI's noise levels, where the prediction is the clean latents.

    The state is z = x / sqrt(1 + sigma^2), as in `sampler_functions.py`.

    Args:
        timesteps: training-time index of every model call.
        levels: sigmas of the calls, and the one that the run ends at.
    """

    def __init__(self, timesteps: list[float], levels: Sequence[float]) -> None:
        self._timesteps = timesteps
        self._levels = levels

    @property
    def timesteps(self) -> list[float]:
        """Training-time index of every model call, in order."""
        return self._timesteps

    def scale(self, latents: Tensor, call: int) -> Tensor:
        """Return the model input of a call."""
        return latents * math.sqrt(1 + self._levels[call] ** 2)

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        """Return the next latents from the predicted clean ones."""
        noise_pred = (self.scale(latents, call) - prediction) / self._levels[call]
        alpha = alpha_of(self._levels[call + 1])
        return math.sqrt(alpha) * prediction + math.sqrt(1 - alpha) * noise_pred


class CallHooks:
    """Stands where a run has its cache, and gives one model call the hooks of the calibration.

    Args:
        hooks_for: names of the equal parts of the batch -> hooks.
    """

    def __init__(self, hooks_for: Callable[[Any], BlockHooks]) -> None:
        self._hooks_for = hooks_for

    def hooks(
        self, inner: BlockHooks, *, timestep: Tensor, videos: int, options: dict[str, Any]
    ) -> BlockHooks:
        """Return the hooks of one model call; arguments as `CacheOfRun.hooks` has them."""
        ids: tuple[Hashable, ...] = ids_of(options)
        if videos % len(ids):
            ids = (ids,)
        return around(self._hooks_for(ids), inner)


def around(outer: BlockHooks, inner: BlockHooks) -> BlockHooks:
    """Return hooks that skip blocks as `outer` does, and run them as `inner` does."""
    skip, patch = outer.run_block, inner.run_block
    if skip is None:
        return inner
    if patch is None:
        return replace(inner, run_block=skip)

    def run_block(index: int, fn: BlockFn, hidden: Tensor, context: Tensor, vec: Tensor) -> Tensor:
        def patched(hidden: Tensor, context: Tensor, vec: Tensor) -> Tensor:
            return patch(index, fn, hidden, context, vec)

        return skip(index, patched, hidden, context, vec)

    return replace(inner, run_block=run_block)


def refuse_stock_caches(model: Any) -> None:
    """Refuse a model whose steps another node skips: its skips would be measured as none.

    Raises:
        IncompatibleInputsError: naming the node.
    """
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    found = [name for key, name in STOCK_CACHES.items() if model.get_wrappers(kind, key)]
    if found:
        raise IncompatibleInputsError(
            f'The "model" input of Latte Calibrate comes from {found[0]}, which skips steps by '
            "itself, but uncached runs have to be measured. Connect the model from before it."
        )


def fingerprint_of(module: nn.Module) -> str:
    """Return a SHA-256 over the biases and other vectors, which our LoRAs leave alone."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        if weight.ndim == 1:
            digest.update(name.encode())
            digest.update(weight.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def refuse_other_file(settings: CalibrationSettings, title: str, digest: str) -> None:
    """Refuse to overwrite anything but an earlier calibration of the same model and steps.

    Raises:
        InvalidInputError: saying what is there.
    """
    path = settings.path
    if not path.exists():
        return
    advice = "Choose another file_name, or remove that file."
    try:
        there = ScheduleFile.read(path)
    except (InvalidInputError, CorruptCheckpointError) as error:
        raise InvalidInputError(
            f"models/{path.parent.name} already has {path.name}, which holds no cache schedules "
            f"that can be read. {advice}"
        ) from error
    if (there.digest, there.sampler, there.num_steps) == (digest, SAMPLER, settings.steps):
        return
    weights = "" if there.digest == digest else ", with other weights than this one"
    raise InvalidInputError(
        f"models/{path.parent.name} already has {path.name}, made for {there.num_steps} steps of "
        f"{there.sampler} with {there.model}{weights}. This calibration is for {settings.steps} "
        f"steps of {SAMPLER} with {title}. {advice}"
    )


def describe(made: ScheduleFile, edges: Edges, path: Path) -> str:
    """Say what was written, and what each list costs."""
    lines = [f"Wrote {path.name} into models/{path.parent.name}, for {made.model}:"]
    for schedule in made.schedules:
        steps = schedule.full_steps
        cost = sum(edges[gap] for gap in zip(steps, steps[1:], strict=False))
        fewer = made.num_steps / len(steps)
        lines.append(f"- {len(steps)} of {made.num_steps} steps in full ({fewer:.2f} times fewer)")
        lines[-1] += f": error {cost:.3g}"
    lines.append(
        f"It fits Latte Sampler with method {made.sampler} and {made.num_steps} steps. Choose it "
        "as schedule of Latte Accelerate (press R to have it listed)."
    )
    return "\n".join(lines)
