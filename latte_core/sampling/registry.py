"""One run of a sampler, made by its name."""

from __future__ import annotations

from .ddim import DdimStepper
from .ddpm import DdpmStepper
from .names import SAMPLERS, resolve_sampler
from .noise import StepNoise
from .schedulers import DiffusersStepper
from .settings import ScheduleSettings
from .stepper import Stepper


def make_stepper(
    sampler: str,
    num_steps: int,
    *,
    noise: StepNoise,
    eta: float = 0.0,
    settings: ScheduleSettings | None = None,
) -> Stepper:
    """Prepare one run of a sampler.

    Args:
        sampler: a name that `resolve_sampler` knows.
        num_steps: steps of the run; heun, kdpm2_ancestral and pndm call the model more often.
        noise: per-step noise of the stochastic samplers.
        eta: DDIM's share of noise; the others have none to set, as in the reference.
        settings: noise schedule; Latte-1's by default.

    Raises:
        InvalidInputError: for an unknown name, step count or eta.
        MissingDependencyError: if the sampler is one of diffusers' and diffusers is missing.
    """
    chosen = resolve_sampler(sampler)
    settings = settings or ScheduleSettings()
    if chosen == "ddim":
        return DdimStepper(settings, num_steps, eta, noise)
    if chosen == "ddpm":
        return DdpmStepper(settings, num_steps, noise)
    return DiffusersStepper(dict(SAMPLERS)[chosen], settings, num_steps, noise)
