"""The ways to make an update of a class-conditional Latte: the authors' recipe, and ours.

The authors' recipe (docs/model.md 2, 10) as its formulas say it: each block evaluates its
modulation for every frame (spatial blocks) or every place (temporal blocks), attention is an
explicit softmax, the loss is computed from tables cast at each step, the gradient's norm is always
taken, AdamW has torch's defaults and the average is updated weight by weight. Ours is
`latte_core.training`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor, nn
from torch.nn import functional

BATCH, FRAMES, CELLS, CLASSES, HEAD_WIDTH = 4, 16, 16, 10, 48


def model_of(
    depth: int,
    hidden: int,
    *,
    side: int = CELLS,
    heads: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Any:
    """Return a class-conditional Latte, side x side cells, with weights that do things."""
    config = import_core("config.latte").LatteConfig(
        input_size=side,
        hidden_size=hidden,
        depth=depth,
        num_heads=heads or hidden // HEAD_WIDTH,
        num_frames=FRAMES,
        conditioning="class",
        num_classes=CLASSES,
    )
    model = import_core("model.latte.transformer").Latte(config, device=device, dtype=dtype)
    for value in model.parameters():
        if value.requires_grad and value.ndim > 1:
            nn.init.normal_(value, std=0.02)
    return model


class Recipe:
    """The authors' update, on a copy of the weights.

    Args:
        model: has the weights.
        dtype: of matrix products during an update; None is the weights' own.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        device = model.pos_embed.device
        self.autocast = partial(torch.autocast, device.type, dtype, enabled=dtype is not None)
        self.model = copy.deepcopy(model).train()
        self.average = {name: value.detach().clone() for name, value in model.named_parameters()}
        trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0)
        betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
        alphas = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
        variance = betas * (1 - before) / (1 - alphas)
        self.tables = {
            "signal": alphas.sqrt(),
            "noise": (1 - alphas).sqrt(),
            "recip": (1 / alphas).sqrt(),
            "recip_minus": (1 / alphas - 1).sqrt(),
            "first": betas * before.sqrt() / (1 - alphas),
            "second": (1 - before) * (1 - betas).sqrt() / (1 - alphas),
            "lower": torch.log(torch.cat([variance[1:2], variance[1:]])),
            "upper": torch.log(betas),
        }
        self.tables = {name: table.to(device) for name, table in self.tables.items()}

    def table(self, name: str, timesteps: Tensor, like: Tensor) -> Tensor:
        """Return entries of a table, cast and spread to the shape of the latents."""
        values = self.tables[name][timesteps].float()
        return values.view(-1, 1, 1, 1, 1) + torch.zeros_like(like)

    def attention(self, layer: Any, x: Tensor) -> Tensor:
        """Attend with an explicit softmax."""
        heads = self.model.config.num_heads
        rows, count, width = x.shape
        qkv = layer.qkv(x).reshape(rows, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5).softmax(dim=-1)
        return layer.proj((weights @ v).transpose(1, 2).reshape(rows, count, width))

    def block(self, block: Any, x: Tensor, condition: Tensor) -> Tensor:
        """Run a block on rows (R, N, D) with a condition for each row."""
        parts = block.adaLN_modulation[1](functional.silu(condition)).unsqueeze(1).chunk(6, dim=2)
        width = x.shape[-1]
        hidden = functional.layer_norm(x, (width,), eps=1e-6) * (1 + parts[1]) + parts[0]
        x = x + parts[2] * self.attention(block.attn, hidden)
        hidden = functional.layer_norm(x, (width,), eps=1e-6) * (1 + parts[4]) + parts[3]
        mlp = block.mlp
        hidden = mlp.fc2(functional.gelu(mlp.fc1(hidden), approximate="tanh"))
        return x + parts[5] * hidden

    def predict(self, noisy: Tensor, timesteps: Tensor, labels: Tensor, dropped: Tensor) -> Tensor:
        """Return noise and variance logits (B, 8, F, h, w)."""
        model: Any = self.model
        batch, _, frames, height, width = noisy.shape
        pictures = noisy.transpose(1, 2).flatten(0, 1)
        x = model.x_embedder.proj(pictures).flatten(2).transpose(1, 2) + model.pos_embed
        places = x.shape[1]
        half = torch.exp(-math.log(10000) * torch.arange(128, device=noisy.device) / 128)
        angles = timesteps[:, None].float() * half
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
        labels = torch.where(dropped, model.config.num_classes, labels)
        first, _, second = model.t_embedder.mlp
        signal = second(functional.silu(first(features)))
        signal = signal + model.y_embedder.embedding_table(labels)
        spatial = signal.repeat_interleave(frames, 0)
        temporal = signal.repeat_interleave(places, 0)
        for index, block in enumerate(model.blocks):
            if index % 2 == 0:
                x = self.block(block, x, spatial)
                continue
            x = x.view(batch, frames, places, -1).transpose(1, 2).flatten(0, 1)
            if index == 1:
                x = x + model.temp_embed
            x = self.block(block, x, temporal)
            x = x.view(batch, places, frames, -1).transpose(1, 2).flatten(0, 1)
        final = model.final_layer
        shift, scale = (
            final.adaLN_modulation[1](functional.silu(spatial)).unsqueeze(1).chunk(2, dim=2)
        )
        x = functional.layer_norm(x, (x.shape[-1],), eps=1e-6) * (1 + scale) + shift
        rows = height // 2
        x = final.linear(x).view(batch, frames, rows, width // 2, 2, 2, -1)
        return torch.einsum("bfhwpqc->bcfhpwq", x).reshape(batch, -1, frames, height, width)

    def loss(
        self, output: Tensor, clean: Tensor, noisy: Tensor, noise: Tensor, t: Tensor
    ) -> Tensor:
        """Return the mean of squared error and variational term."""
        guess, logits = output.chunk(2, dim=1)
        frozen = guess.detach()
        share = (logits + 1) / 2
        upper, lower = self.table("upper", t, clean), self.table("lower", t, clean)
        log_variance = share * upper + (1 - share) * lower
        clean_guess = self.table("recip", t, clean) * noisy
        clean_guess = clean_guess - self.table("recip_minus", t, clean) * frozen
        first, second = self.table("first", t, clean), self.table("second", t, clean)
        mean, true = first * clean_guess + second * noisy, first * clean + second * noisy
        kl = 0.5 * (
            -1
            + log_variance
            - lower
            + torch.exp(lower - log_variance)
            + (true - mean) ** 2 * torch.exp(-log_variance)
        )
        inverse = torch.exp(-0.5 * log_variance)

        def cdf(x: Tensor) -> Tensor:
            return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

        plus, minus = (
            cdf(inverse * (clean - mean + 1 / 255)),
            cdf(inverse * (clean - mean - 1 / 255)),
        )
        inner = torch.log((plus - minus).clamp(min=1e-12))
        first_bin = torch.log(plus.clamp(min=1e-12))
        last_bin = torch.log((1 - minus).clamp(min=1e-12))
        likelihood = torch.where(
            clean < -0.999, first_bin, torch.where(clean > 0.999, last_bin, inner)
        )
        bound = torch.where(
            t == 0, -likelihood.flatten(1).mean(1), kl.flatten(1).mean(1)
        ) / math.log(2)
        return ((noise - guess) ** 2).flatten(1).mean(1).add(bound).mean()

    def update(self, case: Case) -> float:
        """Take one step and return the loss."""
        signal = self.table("signal", case.timesteps, case.latents)
        noisy = signal * case.latents
        noisy = noisy + self.table("noise", case.timesteps, case.latents) * case.noise
        with self.autocast():
            output = self.predict(noisy, case.timesteps, case.labels, case.dropped).float()
        loss = self.loss(output, case.latents, noisy, case.noise, case.timesteps)
        loss.backward()
        trained = [value for value in self.model.parameters() if value.grad is not None]
        torch.nn.utils.get_total_norm([value.grad for value in trained])
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                self.average[name].mul_(0.9999).add_(value, alpha=1 - 0.9999)
        return loss.item()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What an update is made with."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    labels: Tensor
    dropped: Tensor


def make_case(
    seed: int, *, side: int = CELLS, clips: int = BATCH, device: torch.device | str = "cpu"
) -> Case:
    """Draw a batch of clips of side x side cells."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, 4, FRAMES, side, side)
    drawn = Case(
        latents=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        timesteps=torch.randint(1000, (clips,), generator=generator),
        labels=torch.randint(CLASSES, (clips,), generator=generator),
        dropped=torch.rand(clips, generator=generator) < 0.1,
    )
    return Case(**{one.name: getattr(drawn, one.name).to(device) for one in fields(Case)})


class Ours:
    """An update of `latte_core.training`, on a copy of the weights.

    Args:
        model: has the weights.
        checkpointed: activations are computed again on the way back.
        precision: of matrix products, as a run's config has it.
    """

    def __init__(self, model: Any, checkpointed: bool = False, precision: str = "float32") -> None:
        device = model.pos_embed.device
        training = import_core("training.denoiser"), import_core("training.objective")
        self.network = (
            training[0].Denoiser(copy.deepcopy(model), checkpoint_activations=checkpointed).train()
        )
        self.objective = training[1].Objective().to(device)
        self.workers = import_core("training.workers").OneProcess(precision, device)
        named = self.network.transformer.named_parameters()
        self.trained = {name: value for name, value in named if value.requires_grad}
        self.average = import_core("training.ema").Average(self.trained, 0.9999)
        self.optimizer = import_core("training.optimizer").make_adamw(
            list(self.trained.values()), 1e-4
        )
        self.batch_of = import_core("training.examples").Batch

    def batch(self, case: Case) -> Any:
        """Return a batch as the training loop has it."""
        return self.batch_of(
            numbers=tuple(range(len(case.latents))),
            latents=case.latents,
            noise=case.noise,
            timesteps=case.timesteps,
            num_images=0,
            positions=None,
            context=None,
            mask=None,
            image_context=None,
            image_mask=None,
            labels=case.labels,
            image_labels=None,
            dropped=case.dropped,
        )

    def update(self, case: Case) -> float:
        """Take one step and return the loss."""
        batch = self.batch(case)
        self.optimizer.zero_grad(set_to_none=True)
        noisy = self.objective.add_noise(case.latents, case.noise, case.timesteps)
        with self.workers.autocast():
            output = self.network(noisy, batch)
        loss = self.objective.losses(output, case.latents, case.noise, case.timesteps).total.mean()
        self.workers.backward(loss)
        self.workers.step(self.optimizer, list(self.trained.values()), 0.0)
        self.average.update(self.trained, 0)
        return loss.item()
