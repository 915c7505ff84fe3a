"""Section 7: the class model beside the authors' recipe, in sampling steps and in training."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor
from ways.training import FRAMES, Case, Ours, Recipe, make_case, model_of

from gpu_sections.session import Found, Session

VIDEOS = 2  # the class and the null class of one video
HEAD_WIDTH = 72


def run(session: Session, found: Found) -> None:
    """Measure a guided step, then updates at each size."""
    session.attempt(found, "step", lambda: measure_step(session))
    found["training"] = {}
    for side, clips in session.sizes.training_sides:
        name = f"{clips} clips of {side * 8} x {side * 8}"
        session.attempt(
            found["training"],
            name,
            lambda side=side, clips=clips: measure_training(session, side, clips),
        )


def new_model(session: Session, side: int, dtype: torch.dtype | None = None) -> Any:
    """Return a class model of random weights on the card."""
    sizes = session.sizes
    torch.manual_seed(0)
    heads = max(1, sizes.class_hidden // HEAD_WIDTH)
    while sizes.class_hidden % heads:
        heads -= 1
    return model_of(
        sizes.class_depth,
        sizes.class_hidden,
        side=side,
        heads=heads,
        device=session.card.device,
        dtype=dtype,
    )


def measure_step(session: Session) -> Found:
    """Return milliseconds and steps a second of each way, timed in turns."""
    sizes, device = session.sizes, session.card.device
    dtype = getattr(torch, sizes.dtypes[0])
    model = new_model(session, sizes.class_side, dtype).eval()
    recipe = Recipe(model)
    recipe.model.to(dtype)  # with its tables, which would carry everything into float32
    recipe.model.t_embedder.mlp[0].register_forward_pre_hook(lambda _, given: (given[0].to(dtype),))
    choice = import_core("kernels.choice")
    shape = (VIDEOS, 4, FRAMES, sizes.class_side, sizes.class_side)
    latents = torch.randn(shape, device=device, dtype=dtype)
    labels = torch.tensor([1, model.config.num_classes], device=device)
    times = torch.full((VIDEOS,), 500, device=device)
    dropped = labels == model.config.num_classes
    seen = labels.clamp(max=model.config.num_classes - 1)
    plain = choice.KernelSet(use=choice.KernelUse.NEVER)

    def ours(kernels: Any) -> Tensor:
        model.kernels = kernels
        return model(latents, times, labels)

    fused = choice.KernelSet()
    calls: dict[str, Callable[[], Tensor]] = {
        "the authors' recipe": lambda: recipe.predict(latents, times, seen, dropped),
        "ours, plain torch": lambda: ours(plain),
        "ours, kernels": lambda: ours(fused),
    }
    found: Found = {}
    with torch.no_grad():
        expected = calls["the authors' recipe"]().float()
        for name, call in calls.items():
            apart = (call().float() - expected).norm() / expected.norm()
            found[name] = {"relative_difference": float(apart)}
        times_of = session.card.in_turns(calls, sizes.rounds)
        for name, seconds in times_of.items():
            median = statistics.median(seconds)
            found[name] |= {
                "ms": round(1000 * median, 3),
                "steps_per_second": round(1 / max(median, 1e-9), 2),
                **session.card.memory_of(calls[name]),
            }
    return found


class Plain(Ours):
    """The same network and loss in a loop as one writes it without a package."""

    def __init__(self, model: Any, precision: str) -> None:
        super().__init__(model, precision=precision)
        is_gpu = model.pos_embed.is_cuda
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=1e-4, weight_decay=0, fused=is_gpu
        )
        self.shadow = [value.detach().clone() for value in self.trained.values()]

    def update(self, case: Case) -> float:
        """Take one step and return the loss."""
        noisy = self.objective.add_noise(case.latents, case.noise, case.timesteps)
        with self.workers.autocast():
            output = self.network(noisy, self.batch(case))
        losses = self.objective.losses(output, case.latents, case.noise, case.timesteps)
        loss = losses.total.mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.shadow, list(self.trained.values()), 1e-4)
        return loss.item()


def measure_training(session: Session, side: int, clips: int) -> Found:
    """Return the milliseconds and the peak of an update of ours, a plain loop and the recipe.

    Each way is made, timed and given back before the next, so that its peak is its own.
    """
    card = session.card
    precision = session.sizes.dtypes[0]
    dtype = None if precision == "float32" else getattr(torch, precision)
    model = new_model(session, side)
    makers: dict[str, Callable[[], Any]] = {
        "ours": lambda: Ours(model, precision=precision),
        "ours, checkpointed": lambda: Ours(model, True, precision),
        "a plain loop": lambda: Plain(model, precision),
        "the authors' recipe": lambda: Recipe(model, dtype),
    }
    cases = [
        make_case(k, side=side, clips=clips, device=card.device)
        for k in range(session.sizes.rounds + 2)
    ]
    found: Found = {"precision": precision}

    def measured(maker: Callable[[], Any]) -> Found:
        card.free()
        held = card.start_peak()
        way = maker()
        losses = [way.update(case) for case in cases[:2]]  # the second has an optimizer's state
        times = [card.seconds(lambda case=case: way.update(case)) for case in cases[2:]]
        allocated, reserved = card.peak()
        return {
            "ms": round(1000 * statistics.median(times), 2),
            "peak_allocated_gb": round((allocated - held) / 1e9, 3),
            "peak_reserved_gb": round(reserved / 1e9, 3),
            "losses": [round(one, 5) for one in losses],
        }

    for name, maker in makers.items():
        session.attempt(found, name, lambda maker=maker: measured(maker))
    return found
