"""The ten samplers by name, ours and the reference's spelling of each."""

from __future__ import annotations

from difflib import get_close_matches

from ..errors import InvalidInputError
from .ddim import DdimStepper
from .ddpm import DdpmStepper
from .noise import StepNoise
from .schedulers import DiffusersStepper
from .settings import ScheduleSettings
from .stepper import Stepper

# our name -> the reference's `sample_method`; diffusers' class is that plus "Scheduler"
SAMPLERS: tuple[tuple[str, str], ...] = (
    ("ddim", "DDIM"),
    ("ddpm", "DDPM"),
    ("pndm", "PNDM"),
    ("euler", "EulerDiscrete"),
    ("euler_ancestral", "EulerAncestralDiscrete"),
    ("heun", "HeunDiscrete"),
    ("kdpm2_ancestral", "KDPM2AncestralDiscrete"),
    ("dpmsolver_multistep", "DPMSolverMultistep"),
    ("dpmsolver_singlestep", "DPMSolverSinglestep"),
    ("deis", "DEISMultistep"),
)
SAMPLER_NAMES: tuple[str, ...] = tuple(name for name, _ in SAMPLERS)


def resolve_sampler(name: str) -> str:
    """Return our name of a sampler, given ours or the reference's in any letter case.

    Raises:
        InvalidInputError: for another name, with the nearest known one.
    """
    spellings = {spelling.lower(): pair[0] for pair in SAMPLERS for spelling in pair}
    spellings |= {f"{reference}Scheduler".lower(): ours for ours, reference in SAMPLERS}
    wanted = str(name).strip().lower()
    if wanted in spellings:
        return spellings[wanted]
    near = get_close_matches(wanted, spellings, n=1, cutoff=0.5)
    hint = f" Did you mean {spellings[near[0]]!r}?" if near else ""
    raise InvalidInputError(
        f"There is no sampler called {name!r}.{hint} The samplers are {', '.join(SAMPLER_NAMES)}."
    )


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
