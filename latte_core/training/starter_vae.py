"""Train the starter's autoencoders: an image VAE, then a temporal decoder on its frozen encoder."""

from __future__ import annotations

import logging
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..types import SCALING_FACTOR
from .drawing import BACKGROUND, draw_frames, make_clip_spec
from .state import load_state, save_state

logger = logging.getLogger("latte")

CHANNELS = (32, 32, 64, 64)
IMAGE_BATCH = 16
CLIP_BATCH = 2
KL_WEIGHT = 1e-6
OBJECT_WEIGHT = 4.0


def build_image_vae() -> Any:
    """Return an untrained AutoencoderKL small enough to ship and large enough for ComfyUI."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=64,
        scaling_factor=SCALING_FACTOR,
    )


def build_temporal_vae() -> Any:
    """Return an untrained AutoencoderKLTemporalDecoder of the same widths."""
    from diffusers import AutoencoderKLTemporalDecoder

    return AutoencoderKLTemporalDecoder(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        sample_size=64,
        scaling_factor=SCALING_FACTOR,
        force_upcast=False,
    )


def random_images(rng: random.Random, count: int) -> Tensor:
    """Draw single frames of random clips: (N, 3, 64, 64) in [-1, 1]."""
    specs = [make_clip_spec(rng) for _ in range(count)]
    moments = torch.tensor([[rng.random()] for _ in range(count)])
    return draw_frames(specs, moments)[:, 0] * 2 - 1


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute plus squared error, the object weighted above the background."""
    background = torch.tensor(BACKGROUND).view(3, 1, 1) * 2 - 1
    is_object = ((target - background).abs().amax(dim=-3, keepdim=True) > 0.02).float()
    error = output - target
    weight = 1 + OBJECT_WEIGHT * is_object
    return (weight * (error.abs() + 2 * error.square())).mean()


def cosine_rate(step: int, num_steps: int, peak: float, warmup: int) -> float:
    """Learning rate: linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(num_steps - warmup, 1)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def train_image_vae(folder: Path, num_steps: int, *, seed: int = 0, peak_rate: float = 2e-3) -> Any:
    """Train the image VAE; resumes from `folder` when an earlier run was stopped there."""
    torch.manual_seed(seed)
    vae = build_image_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=peak_rate, weight_decay=0.0, betas=(0.9, 0.98)
    )
    start = load_state(folder / "image_vae.pt", vae, optimizer)
    began = time.monotonic()
    for step in range(start, num_steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, num_steps, peak_rate, 100)
        images = random_images(random.Random(f"{seed}-image-{step}"), IMAGE_BATCH)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.sample()).sample
        loss = reconstruction_loss(output.float(), images)
        loss = loss + KL_WEIGHT * posterior.kl().float().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == num_steps - 1:
            logger.info(
                "image vae %d/%d loss %.4f psnr %.2f  %.2fs/step",
                step,
                num_steps,
                loss.item(),
                psnr(output.float(), images),
                (time.monotonic() - began) / (step - start + 1),
            )
        if (step + 1) % 200 == 0 or step == num_steps - 1:
            save_state(folder / "image_vae.pt", vae, optimizer, step + 1)
    return vae


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    error = (output.clamp(-1, 1) - target).square().mean().item() / 4
    return -10 * math.log10(max(error, 1e-12))
