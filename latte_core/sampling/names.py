"""The ten samplers by name, ours and the reference's spelling of each."""

from __future__ import annotations

from difflib import get_close_matches

from ..checks import check_integer
from ..errors import InvalidInputError
from ..types import TRAIN_STEPS

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
OWN_SAMPLERS = ("ddim", "ddpm")  # the others are diffusers'
# PNDM warms up over four timesteps; two others space one timestep more than they visit.
STEP_LIMITS = {
    "PNDM": (4, TRAIN_STEPS),
    "DPMSolverMultistep": (1, TRAIN_STEPS - 1),
    "DEISMultistep": (1, TRAIN_STEPS - 1),
}


def check_steps(reference_name: str, num_steps: int) -> int:
    """Return a number of steps that one of diffusers' samplers can make.

    Args:
        reference_name: of the sampler.
        num_steps: to check.

    Raises:
        InvalidInputError: for another number.
    """
    low, high = STEP_LIMITS.get(reference_name, (1, TRAIN_STEPS))
    return check_integer(f"steps (for {reference_name})", num_steps, low, high)


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
