"""Which step of a ComfyUI run a model call belongs to, and what surrounds the call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ....latte_core.acceleration.policies import Policy, Step, Verdict, Watch

SAME_SIGMA = 1e-4  # relative; samplers compute with noise levels in float32


# Samplers that call the model once in a step, at its noise level, and their callback after it.
ONE_CALL_A_STEP = (
    *("euler", "euler_ancestral", "ddim", "ddpm", "lcm", "lms", "deis", "er_sde"),
    *("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
    *("ipndm", "res_multistep", "res_multistep_ancestral", "gradient_estimation"),
)


@dataclass(slots=True)
class Place:
    """Where in the run's list of noise levels the model call under way is.

    To look at a noise level has the CPU wait for the device. Where the sampler is known to call the
    model once in a step, its callbacks are counted in its place, unless a call is named a second
    time without one.

    Args:
        sigmas: noise levels of the run, high to low, without the last, which is the result's.
        index: of the step that the call belongs to.
        is_counted: whether the sampler calls the model once in a step.
        steps_done: callbacks so far.
    """

    sigmas: Sequence[float]
    index: int = 0
    is_counted: bool = False
    steps_done: int = 0
    _named: dict[Hashable, int] = field(default_factory=dict[Hashable, int])

    def find(self, sigma: Tensor, name: Hashable) -> bool:
        """Move to a call, and return whether that was done without looking at its noise level.

        Args:
            sigma: noise level of the call, the same in all rows.
            name: tells the call from others of its step.
        """
        steps, known = self.steps_done, self._named.get(name)
        self._named[name] = steps
        if self.is_counted and known != steps < len(self.sigmas):
            self.index = steps
            return True
        self.move_to(float(sigma.flatten()[0]))
        return False

    def move_to(self, sigma: float) -> None:
        """Find the step whose noise level was reached last; between two levels, the higher."""
        reached = sum(level >= sigma * (1 - SAME_SIGMA) for level in self.sigmas)
        self.index = max(reached - 1, 0)

    @property
    def step(self) -> Step:
        """The step that the call belongs to."""
        return Step(index=self.index, num_steps=len(self.sigmas))


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
        return self._policy.decide(self._place.step, change, carried)

    def planned(self, step: Step) -> bool | None:
        """Ask about the place."""
        return self._policy.planned(self._place.step)

    def check(self, num_steps: int) -> None:
        """Refuse a run that the policy does not fit."""
        self._policy.check(num_steps)


def surroundings(options: dict[str, Any]) -> tuple[Hashable, ...]:
    """Name what tells calls with the same conditioning apart: context window, replaced blocks.

    The latter tells a skip-layer guidance call, which has the same conditioning, from a plain one.

    Args:
        options: `transformer_options` of the call.
    """
    window = getattr(options.get("context_window"), "index_list", ())
    replaced = options.get("patches_replace", {}).get("dit", {})
    return (tuple(window), tuple(sorted(map(str, replaced))))
