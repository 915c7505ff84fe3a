"""Train the starter's transformer and text encoder together on latents of drawn clips.

The objective is the noise prediction of latte.md 10 (uniform timestep, linear betas 1e-4 .. 2e-2).
Each timestep is weighted by `timestep_weights`, so that the noisy steps, where place, colour and
direction are decided but the noise is easy to predict, count as much as the clean ones.
"""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import LatteT2VConfig
from ..model.latte_t2v import LatteT2V
from ..types import SCALING_FACTOR
from .drawing import CLIP_FRAMES, ClipSpec, draw_clips, make_caption, make_clip_spec
from .optimizer import make_adamw, seed_global, take_step
from .starter_text import TEXT_WIDTH
from .state import read_state, write_state

logger = logging.getLogger("latte")

STARTER_CONFIG = LatteT2VConfig(
    num_layers=4,
    num_attention_heads=5,
    attention_head_dim=32,
    cross_attention_dim=160,
    caption_channels=TEXT_WIDTH,
    sample_size=8,
)
BATCH_SIZE = 16
POOL_SIZE = 1024
FRESH_CLIPS = 2  # clips of the pool replaced before each step
EMPTY_CAPTIONS = 0.1
PADDED_CAPTIONS = 0.2  # captions whose padding rows are attended to, as in a cut negative prompt
EMA_DECAY = 0.999
SNR_LIMIT = 5.0
NUM_TIMESTEPS = 1000


@dataclass(kw_only=True, slots=True)
class ClipPool:
    """Captioned latents that training draws from; the oldest clips are replaced as it goes."""

    latents: Tensor  # N 4 F h w
    captions: list[str]
    drawn: int  # clips drawn since the start


@torch.no_grad()
def encode_clips(vae: Any, frames: Tensor) -> Tensor:
    """Encode (N, F, 3, H, W) in [0, 1] to scaled latents (N, 4, F, h, w)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = vae.encode(frames.flatten(0, 1) * 2 - 1).latent_dist
    latents = posterior.mean.float() * SCALING_FACTOR
    return latents.unflatten(0, (-1, frames.shape[1])).transpose(1, 2)


def make_captioned_latents(vae: Any, first: int, count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Draw and encode clips number `first` .. `first + count - 1` of the endless data set."""
    specs: list[ClipSpec] = []
    captions: list[str] = []
    for number in range(first, first + count):
        rng = random.Random(f"{seed}-clip-{number}")
        specs.append(make_clip_spec(rng))
        captions.append(make_caption(specs[-1], rng))
    return encode_clips(vae, draw_clips(specs, CLIP_FRAMES)), captions


def make_pool(vae: Any, size: int, seed: int) -> ClipPool:
    """Fill a pool with the first `size` clips of the data set."""
    latents: list[Tensor] = []
    captions: list[str] = []
    for first in range(0, size, 8):
        part, texts = make_captioned_latents(vae, first, min(8, size - first), seed)
        latents.append(part)
        captions.extend(texts)
    return ClipPool(latents=torch.cat(latents), captions=captions, drawn=size)


def refresh_pool(pool: ClipPool, vae: Any, seed: int) -> None:
    """Replace the oldest clips by new ones."""
    fresh, captions = make_captioned_latents(vae, pool.drawn, FRESH_CLIPS, seed)
    for offset in range(FRESH_CLIPS):
        slot = (pool.drawn + offset) % len(pool.captions)
        pool.latents[slot] = fresh[offset]
        pool.captions[slot] = captions[offset]
    pool.drawn += FRESH_CLIPS


def alphas_cumprod() -> Tensor:
    """Return (1000,) float32 for linear betas 1e-4 .. 2e-2, computed in float64."""
    betas = torch.linspace(1e-4, 2e-2, NUM_TIMESTEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).float()


def spread_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Draw (B,) timesteps, one from each of B equal parts of 0 .. 999."""
    place = torch.arange(count) + torch.rand(count, generator=generator)
    return (place * (NUM_TIMESTEPS / count)).long().clamp(max=NUM_TIMESTEPS - 1)


def timestep_weights(alphas: Tensor) -> Tensor:
    """Weigh the squared noise error of timesteps with the given cumulative alphas, (B,).

    In terms of the predicted clean latents the weight is the square root of the signal-to-noise
    ratio, limited at a ratio of 5 as by Hang et al., 2023.
    """
    ratio = alphas / (1 - alphas)
    return ratio.clamp(max=SNR_LIMIT).sqrt() / ratio


class TextToVideo(nn.Module):
    """The two networks that are trained, as one module."""

    def __init__(self, text_encoder: nn.Module, config: LatteT2VConfig) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.transformer = LatteT2V.from_config(config)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, ids: Tensor, mask: Tensor, seen: Tensor
    ) -> Tensor:
        """Predict noise (B, 4, F, h, w); T5 sees the rows of `mask`, cross-attention of `seen`."""
        context = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.transformer(noisy, timesteps, context, seen)[:, :4]


def initialize(model: TextToVideo) -> None:
    """Start as DiT does: Xavier weights, zero biases, small embedders, zero output layer."""
    transformer = model.transformer
    for module in transformer.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    embedder = transformer.adaln_single.emb.timestep_embedder
    nn.init.normal_(embedder.linear_1.weight, std=0.02)
    nn.init.normal_(embedder.linear_2.weight, std=0.02)
    nn.init.zeros_(transformer.adaln_single.linear.weight)
    nn.init.zeros_(transformer.proj_out.weight)


def tokenize(
    tokenizer: Any, captions: Sequence[str], rng: random.Random
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, the encoder's mask and the rows cross-attention sees, each (B, L)."""
    texts = ["" if rng.random() < EMPTY_CAPTIONS else caption for caption in captions]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    seen = batch.attention_mask.clone()
    for row in range(len(texts)):
        if rng.random() < PADDED_CAPTIONS:
            length = rng.randint(int(seen[row].sum()), seen.shape[1])
            seen[row, :length] = 1
    return batch.input_ids, batch.attention_mask, seen


class StarterTrainer:
    """Holds the state of one training run: networks, their averages, optimizer, data and step."""

    def __init__(
        self,
        vae: Any,
        tokenizer: Any,
        text_encoder: nn.Module,
        *,
        seed: int,
        peak_rate: float,
        pool_size: int = POOL_SIZE,
    ) -> None:
        seed_global(seed)
        self.pool_size = pool_size
        self.seed = seed
        self.peak_rate = peak_rate
        self.vae = vae.eval()
        self.tokenizer = tokenizer
        self.model = TextToVideo(text_encoder, STARTER_CONFIG)
        initialize(self.model)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = make_adamw(
            self.model.parameters(), peak_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.alphas = alphas_cumprod()
        self.pool: ClipPool | None = None
        self.step = 0

    def start_from(self, transformer: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> None:
        """Take over the weights of another starter."""
        self.model.transformer.load_state_dict(transformer)
        tied = {"encoder.embed_tokens.weight": encoder["shared.weight"]}
        self.model.text_encoder.load_state_dict({**tied, **encoder})
        self.average.load_state_dict(self.model.state_dict())

    def loss(self, latents: Tensor, captions: Sequence[str], rng: random.Random) -> Tensor:
        """Return the weighted noise prediction error of one batch."""
        generator = torch.Generator().manual_seed(rng.getrandbits(60))
        timesteps = spread_timesteps(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        ids, mask, seen = tokenize(self.tokenizer, captions, rng)
        predicted = self.model(noisy, timesteps, ids, mask, seen)
        errors = (predicted - noise).square().mean(dim=(1, 2, 3, 4))
        return (errors * timestep_weights(self.alphas[timesteps])).mean()

    def train_step(self, rate: float) -> float:
        """Take one optimizer step at the given learning rate and return the loss."""
        if self.pool is None:
            self.pool = make_pool(self.vae, self.pool_size, self.seed)
        rng = random.Random(f"{self.seed}-step-{self.step}")
        refresh_pool(self.pool, self.vae, self.seed)
        chosen = [rng.randrange(self.pool_size) for _ in range(BATCH_SIZE)]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(self.pool.latents[chosen], [self.pool.captions[k] for k in chosen], rng)
        take_step(loss, self.optimizer, self.model.parameters())
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for average, value in pairs:
                average.lerp_(value, 1 - decay)
        self.step += 1
        return loss.item()

    def rate_at(self, num_steps: int) -> float:
        """Warm up over 200 steps, stay, then fall to zero over the last 30 %."""
        decay_steps = max(int(0.3 * num_steps), 1)
        return self.peak_rate * min(
            (self.step + 1) / 200, 1.0, (num_steps - self.step) / decay_steps
        )

    def run(self, path: Path, num_steps: int, *, save_every: int = 100) -> None:
        """Train up to `num_steps`, saving into `path`, from which a stopped run goes on."""
        if path.exists():
            self.load(path)
        began, first = time.monotonic(), self.step
        losses: list[float] = []
        while self.step < num_steps:
            losses.append(self.train_step(self.rate_at(num_steps)))
            if self.step % 50 == 0:
                pace = (time.monotonic() - began) / (self.step - first)
                mean = sum(losses) / len(losses)
                logger.info("step %d/%d loss %.4f %.2f s/step", self.step, num_steps, mean, pace)
                losses = []
            if self.step % save_every == 0 or self.step == num_steps:
                self.save(path)

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs; the file is replaced only when whole."""
        pool = self.pool
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "pool": None if pool is None else [pool.latents, pool.captions, pool.drawn],
        }
        write_state(path, state)

    def load(self, path: Path) -> None:
        """Take up a saved run."""
        state = read_state(path)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if state["pool"] is not None:
            latents, captions, drawn = state["pool"]
            self.pool = ClipPool(latents=latents, captions=captions, drawn=drawn)
