"""The training loop of the starters: stages, averaged weights, and a state to go on from.

A starter learns in stages. The text starter first sees clips without any spread: colour, shape and
direction alone decide every frame, so that each word pays at every noise level. It sees them as
single frames, each with its own place in time, since a single noisy frame does not show which way
the object moves. Then clips vary more and more, and whole clips come last. (In one run each: from
whole clips of all kinds, and a text encoder trained along, direction words had no effect after
5,000 steps; from single frames of all kinds, none after 1,000; the same weights, trained on without
spread, followed them within 300 steps more.)
"""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .drawing import CLIP_FRAMES
from .optimizer import make_adamw, seed_global, take_step
from .starter_clips import POOL_SIZE, ClipPool, make_pool, refresh_pool
from .starter_noise import alphas_cumprod, spread_timesteps, timestep_weights
from .state import read_state, write_state

logger = logging.getLogger("latte")

EMA_DECAY = 0.999
OUTER_RATE = 0.2
IMAGES_PER_CLIP = 4
WARM_UP = 100  # steps at the start of each stage
SAVE_EVERY = 100
REPORT_EVERY = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One part of a training run.

    Args:
        num_steps: optimizer steps.
        batch_size: clips in each.
        num_frames: frames of each clip that are used, drawn at random for each.
        peak_rate: learning rate after the warm-up.
        lowest_timestep: timesteps below are not trained.
        spread: how much clips vary, see `make_clip_spec`.
        decay: share of the steps over which the rate falls to zero at the end.
        image_every: every how many steps single frames without a place in time are shown in the
            place of clips, so that the model also makes pictures; 0 is never.
    """

    num_steps: int
    batch_size: int
    num_frames: int = CLIP_FRAMES
    peak_rate: float
    lowest_timestep: int = 0
    spread: float = 1.0
    decay: float = 0.0
    image_every: int = 0

    def shows_images(self, step: int) -> bool:
        """Return whether the stage's step number `step` shows single frames without a place."""
        return self.image_every > 0 and step % self.image_every == self.image_every - 1

    def rate_at(self, step: int) -> float:
        """Return the learning rate of the stage's step number `step`."""
        left = self.num_steps - step
        decay_steps = self.decay * self.num_steps
        falling = 1.0 if decay_steps < 1 else min(left / decay_steps, 1.0)
        return self.peak_rate * min((step + 1) / WARM_UP, falling)

    def draw_frames(self, step: int, rng: random.Random) -> Tensor:
        """Draw which frames of each clip of a batch are used: (B, F), ascending."""
        count, frames = self.batch_size, self.num_frames
        if self.shows_images(step):
            count, frames = count * IMAGES_PER_CLIP, 1
        rows = [sorted(rng.sample(range(CLIP_FRAMES), frames)) for _ in range(count)]
        return torch.tensor(rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a network is asked: noise of `noisy`, given what the clips show.

    Args:
        noisy: (B, 4, F, h, w).
        timesteps: (B,).
        positions: (B, F) place of each frame in its clip; None for pictures, which have none.
        numbers: which clips these are.
        rng: for captions and what else is drawn.
    """

    noisy: Tensor
    timesteps: Tensor
    positions: Tensor | None
    numbers: Sequence[int]
    rng: random.Random


def split_parameters(network: nn.Module, outer: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups for an optimizer: all others, then `outer`."""
    chosen = {id(value) for value in outer}
    trained = [value for value in network.parameters() if value.requires_grad]
    inner = [value for value in trained if id(value) not in chosen]
    return [{"params": inner}, {"params": list(outer)}]


Predict = Callable[[nn.Module, Batch], Tensor]
"""(network, batch) -> predicted noise (B, 4, F, h, w)."""


class StarterTrainer:
    """Holds the state of one training run: network, its average, optimizer, data and step.

    Args:
        network: what is trained; parameters that need no gradient stay as they are.
        predict: asks the network for the noise of a batch.
        vae: image autoencoder that makes the latents.
        stages: run one after the other.
        seed: of all random choices.
        outer: weights of the first and last layers, through which the network copies its input;
            they follow their gradient more slowly, so that the copy stays precise.
        pool_size: clips held as latents.
    """

    def __init__(
        self,
        network: nn.Module,
        predict: Predict,
        vae: Any,
        stages: Sequence[Stage],
        *,
        seed: int,
        outer: Sequence[nn.Parameter] = (),
        pool_size: int = POOL_SIZE,
    ) -> None:
        seed_global(seed)
        self.network = network.train()
        self.predict = predict
        self.vae = vae.eval().to(memory_format=torch.channels_last)
        self.stages = tuple(stages)
        self.seed = seed
        self.pool_size = pool_size
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.shares = (1.0, OUTER_RATE)  # of the rate, for each of the optimizer's groups
        groups = split_parameters(network, outer)
        self.optimizer = make_adamw(groups, 0.0, betas=(0.9, 0.99), weight_decay=0.01)
        self.alphas = alphas_cumprod()
        self.pool: ClipPool | None = None
        self.step = 0

    @property
    def num_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.num_steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """Return the stage that a step belongs to, and its number within it."""
        for stage in self.stages:
            if step < stage.num_steps:
                return stage, step
            step -= stage.num_steps
        raise IndexError(f"step {self.step} lies behind the last stage")

    def loss(self, stage: Stage, step: int, rng: random.Random) -> Tensor:
        """Return the weighted noise prediction error of one batch."""
        pool = self.pool
        if pool is None or pool.spread != stage.spread:
            pool = self.pool = make_pool(self.vae, self.pool_size, self.seed, stage.spread)
        refresh_pool(pool, self.vae, self.seed)
        positions = stage.draw_frames(step, rng)
        chosen = [rng.randrange(len(pool.numbers)) for _ in positions]
        latents = torch.stack(
            [pool.latents[k][:, row] for k, row in zip(chosen, positions, strict=True)]
        )
        generator = torch.Generator().manual_seed(rng.getrandbits(60))
        timesteps = spread_timesteps(len(chosen), generator, stage.lowest_timestep)
        noise = torch.randn(latents.shape, generator=generator)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1, 1)
        batch = Batch(
            noisy=alpha.sqrt() * latents + (1 - alpha).sqrt() * noise,
            timesteps=timesteps,
            positions=None if stage.shows_images(step) else positions,
            numbers=[pool.numbers[k] for k in chosen],
            rng=rng,
        )
        errors = (self.predict(self.network, batch) - noise).square().mean(dim=(1, 2, 3, 4))
        return (errors * timestep_weights(self.alphas[timesteps])).mean()

    def train_step(self) -> float:
        """Take one optimizer step and return the loss."""
        stage, step = self.stage_at(self.step)
        rng = random.Random(f"{self.seed}-step-{self.step}")
        seed_global(rng.getrandbits(60))
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = stage.rate_at(step) * share
        loss = self.loss(stage, step, rng)
        take_step(loss, self.optimizer, self.network.parameters())
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for average, value in pairs:
                average.lerp_(value, 1 - decay)
        self.step += 1
        return loss.item()

    def run(self, path: Path) -> None:
        """Train to the end, saving into `path`, from which a stopped run goes on."""
        if path.exists():
            self.load(path)
        began, first = time.monotonic(), self.step
        losses: list[float] = []
        while self.step < self.num_steps:
            losses.append(self.train_step())
            if self.step % REPORT_EVERY == 0:
                pace = (time.monotonic() - began) / (self.step - first)
                mean = sum(losses) / len(losses)
                done = f"{self.step}/{self.num_steps}"
                logger.info("step %s loss %.4f %.2f s/step", done, mean, pace)
                losses = []
            if self.step % SAVE_EVERY == 0 or self.step == self.num_steps:
                self.save(path)

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs; the file is replaced only when whole."""
        pool = self.pool
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "pool": None if pool is None else [pool.latents, pool.numbers, pool.spread],
        }
        write_state(path, state)

    def load(self, path: Path) -> None:
        """Take up a saved run."""
        state = read_state(path)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if state["pool"] is not None:
            latents, numbers, spread = state["pool"]
            self.pool = ClipPool(latents=latents, numbers=numbers, spread=spread)
