"""Runs of tiny models with and without a cache, and hooks that count what is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latte_core.acceleration.step_cache import StepCache
from latte_core.model.attention import DEFAULT_HOOKS, BlockHooks
from latte_core.sampling import guided_in_one_batch, guided_in_two_calls, sample

SIZE = (1, 4, 3, 4, 6)  # B 4 F h w
STEPS = 8
SCALE = 3.0
NAMES = ("negative", "positive")


def noise(seed: int = 0, batch: int = 1) -> Tensor:
    """Return start noise (batch, 4, F, h, w)."""
    return torch.randn(batch, *SIZE[1:], generator=torch.Generator().manual_seed(seed))


def conditions(model: Any, seed: int = 1) -> dict[str, Any]:
    """Return what each name means to a model: text for LatteT2V, a class for Latte."""
    if hasattr(model.config, "caption_channels"):
        shape = (2, 5, model.config.caption_channels)
        text = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return dict(zip(NAMES, text, strict=True))
    return dict(zip(NAMES, torch.tensor([model.config.null_class, 2]), strict=True))


def call(model: Any, names: Sequence[str], hooks: BlockHooks, seed: int = 1) -> Any:
    """Return a predictor for the conditions with these names, side by side in one batch."""
    given = torch.stack([conditions(model, seed)[name] for name in names])

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        times = timesteps if given.ndim > 1 else timesteps.long()
        context = given.repeat_interleave(len(latents) // len(names), 0)
        return model(latents, times, context, hooks=hooks)

    return predict


def denoise(
    model: Any,
    cache: StepCache | None,
    *,
    inner: BlockHooks = DEFAULT_HOOKS,
    is_apart: bool = False,
    seed: int = 0,
    num_steps: int = STEPS,
    callback: Callable[[Any], None] | None = None,
) -> Tensor:
    """Make guided latents with DDIM, both conditions in one batch or in calls of their own."""

    def named(*names: str) -> Any:
        def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
            hooks = inner
            if cache is not None:
                hooks = cache.hooks(inner, timestep=float(timesteps[0]), ids=names)
            return call(model, names, hooks)(latents, timesteps)

        return predict

    if is_apart:
        guided = guided_in_two_calls(named("negative"), named("positive"), SCALE)
    else:
        guided = guided_in_one_batch(named(*NAMES), SCALE)
    return sample(guided, noise(seed), num_steps=num_steps, callback=callback)


def calls(model: Any, cache: StepCache, seed: int) -> Iterator[Tensor]:
    """Yield the predictions of a run one by one; each step is given other latents."""
    for step in range(STEPS):
        time = torch.tensor(float(900 - 100 * step))
        hooks = cache.hooks(timestep=float(time), ids=NAMES)
        yield call(model, NAMES, hooks)(noise(100 * seed + step, 2), time.expand(2))


class Counted:
    """Counts the pairs of blocks that are run, by their index."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.hooks = BlockHooks(run_block=self._run)

    def _run(self, index: int, fn: Any, *tensors: Tensor) -> Tensor:
        self.indices.append(index)
        return fn(*tensors)
