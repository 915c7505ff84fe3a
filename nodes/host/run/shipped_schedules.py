"""Calibrated lists of steps that a model came with, and whether a run of ComfyUI is one they fit.

As in latte_core's pipeline, a list lies beside the weights and is named after a sampler and a
number of steps. ComfyUI's runs have noise levels of any scheduler, so those are compared as well.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ....latte_core.acceleration.schedule_file import ScheduleFile
from ....latte_core.acceleration.settings import STATIC, CacheSettings
from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.diffusion import space_timesteps
from ....latte_core.errors import InvalidInputError
from ....latte_core.files import read_json
from ....latte_core.sampling.settings import TRAIN_STEPS, ScheduleSettings
from ..base.detection import Config
from ..model.origin import Origin

SCHEDULER_CONFIG = Path("scheduler") / "scheduler_config.json"
CALIBRATED = ("ddim", "ddpm")  # samplers whose noise levels are Latte's own
SAME_STEPS = {"euler": "ddim"}  # in ComfyUI's variables, DDIM without noise is Euler's method
TOLERANCE = 1e-3  # relative; float32 tables differ by 1e-4, neighbouring timesteps by 1e-2

logger = logging.getLogger("latte")


def settle_schedules(
    settings: CacheSettings,
    origin: Origin | None,
    *,
    sampler: str,
    sigmas: Sequence[float],
    config: Config,
) -> tuple[CacheSettings, str]:
    """Give a run the model's own lists of steps, where it has some that fit and none were chosen.

    Args:
        settings: of the cache.
        origin: of the model, if it came with a folder.
        sampler: name of ComfyUI's function, without `sample_`.
        sigmas: noise levels of the run's steps, without the last, which is the result's.
        config: of the transformer.

    Returns:
        settings, and the name that lists have for the sampler.

    Raises:
        CorruptCheckpointError: if there is a list for the run, and it cannot be read.
    """
    name = SAME_STEPS.get(sampler, sampler)
    if settings.wants_schedules:
        found = None if origin is None else lists_for(origin, name, sigmas, config)
        if found is None:
            return settings, sampler
        logger.info("Latte Accelerate: this run follows %s, which came with the model.", found[0])
        return replace(settings, schedules=found[1]), name
    if settings.policy != STATIC or name == sampler:
        return settings, sampler
    return settings, name if fits(sigmas, own_levels(config, len(sigmas))) else sampler


def lists_for(
    origin: Origin, name: str, sigmas: Sequence[float], config: Config
) -> tuple[str, ScheduleFile] | None:
    """Return the lists beside a model that fit a run, with the name of their file, or None."""
    if name not in CALIBRATED:
        return None
    found = ScheduleFile.beside(origin.folder, name, len(sigmas))
    if found is None or not fits(sigmas, own_levels(config, len(sigmas), origin.folder)):
        return None
    file = f"{name}-{len(sigmas)}.json"
    if found.digest and origin.digest and found.digest != origin.digest:
        logger.info("Latte Accelerate: %s is not used: it names other weights.", file)
        return None
    return file, found


def own_levels(config: Config, num_steps: int, folder: Path | None = None) -> list[float]:
    """Return the noise levels that Latte's own samplers visit, high to low, without the result's.

    Args:
        config: of the transformer.
        num_steps: model calls of a run.
        folder: of the model; its scheduler config counts, as in latte_core's pipeline.

    Returns:
        sigmas; none for a number of steps that no run has.
    """
    if not 1 <= num_steps <= TRAIN_STEPS:
        return []
    settings = ScheduleSettings()
    if isinstance(config, LatteT2VConfig):
        file = None if folder is None else folder / SCHEDULER_CONFIG
        if file is not None and file.is_file():
            settings = ScheduleSettings.from_dict(read_json(file))
        try:
            visits = settings.timesteps(num_steps)
        except InvalidInputError:  # an offset at a stride of one leads beyond the last timestep
            return []
    else:
        visits = list(space_timesteps(num_steps)[::-1])
    alphas = settings.alphas_cumprod()[visits].tolist()
    return [math.sqrt((1 - alpha) / alpha) for alpha in alphas]


def fits(sigmas: Sequence[float], levels: Sequence[float]) -> bool:
    """Whether two lists of noise levels are the same, but for rounding."""
    return len(sigmas) == len(levels) and all(
        math.isclose(one, other, rel_tol=TOLERANCE)
        for one, other in zip(sigmas, levels, strict=True)
    )
