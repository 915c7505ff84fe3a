"""Train the starter's autoencoders: an image VAE, then a temporal decoder on its frozen encoder."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..training.optimizer import make_adamw, seed_global, take_step
from ..training.state import load_state, save_state
from ..types import SCALING_FACTOR
from .drawing import CLIP_FRAMES, draw_clips, draw_frames
from .scenes import ClipSpec, Mixture, make_clip_spec

logger = logging.getLogger("latte")

CHANNELS = (32, 32, 64, 64)
IMAGE_BATCH = 16
CLIP_BATCH = 2
CLIP_WINDOW = 8  # frames of a clip the temporal decoder is trained on at a time
LATENT_NOISE = 0.03  # of the latents' deviation, so that the decoder forgives small errors
KL_WEIGHT = 1e-6
OBJECT_WEIGHT = 4.0
VAE_MIXTURE = Mixture(sized=0.15, backgrounds=0.4, pairs=0.3, extras=0.5)


def build_image_vae() -> Any:
    """Return an untrained AutoencoderKL small enough to ship and large enough for ComfyUI."""
    diffusers: Any = import_module("diffusers")
    return diffusers.AutoencoderKL(
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
    diffusers: Any = import_module("diffusers")
    return diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        sample_size=64,
        scaling_factor=SCALING_FACTOR,
        force_upcast=False,
    )


def random_specs(rng: random.Random, count: int) -> list[ClipSpec]:
    """Draw clips of all kinds that a starter may be trained on."""
    return [make_clip_spec(rng, mixture=VAE_MIXTURE) for _ in range(count)]


def random_images(rng: random.Random, count: int) -> Tensor:
    """Draw single frames of random clips: (N, 3, 64, 64) in [-1, 1]."""
    moments = torch.tensor([[rng.random()] for _ in range(count)])
    return draw_frames(random_specs(rng, count), moments)[:, 0] * 2 - 1


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute plus squared error, objects weighted above the background."""
    background = target[..., :1, :1]  # no object reaches the corner
    is_object = ((target - background).abs().amax(dim=-3, keepdim=True) > 0.02).float()
    error = output - target
    weight = 1 + OBJECT_WEIGHT * is_object
    return (weight * (error.abs() + 2 * error.square())).mean()


def add_latent_noise(latents: Tensor) -> Tensor:
    """Add noise of LATENT_NOISE times the latents' deviation."""
    return latents + LATENT_NOISE * latents.detach().std() * torch.randn_like(latents)


def learning_rate(step: int, num_steps: int, peak: float) -> float:
    """Warm up over 100 steps, stay, then fall to zero in a straight line over the last 40 %."""
    decay_steps = max(int(0.4 * num_steps), 1)
    return peak * min((step + 1) / 100, 1.0, (num_steps - step) / decay_steps)


def train_image_vae(
    folder: Path,
    num_steps: int,
    *,
    seed: int = 0,
    peak_rate: float = 2e-3,
    start_from: Mapping[str, Tensor] | None = None,
) -> Any:
    """Train the image VAE; resumes from `folder` when an earlier run was stopped there.

    Args:
        folder: keeps the state of unfinished training.
        num_steps: optimizer steps.
        seed: of all random choices.
        peak_rate: learning rate after the warm-up.
        start_from: weights of an image VAE to go on from.
    """
    seed_global(seed)
    vae = build_image_vae()
    if start_from is not None:
        vae.load_state_dict(start_from)
    optimizer = make_adamw(vae.parameters(), peak_rate, betas=(0.9, 0.98))
    start = load_state(folder / "image_vae.pt", vae, optimizer)
    began = time.monotonic()
    for step in range(start, num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, peak_rate)
        images = random_images(random.Random(f"{seed}-image-{step}"), IMAGE_BATCH)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(add_latent_noise(posterior.sample())).sample
        loss = reconstruction_loss(output.float(), images)
        loss = loss + KL_WEIGHT * posterior.kl().float().mean()
        take_step(loss, optimizer, vae.parameters())
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


@torch.no_grad()
def normalize_latents(vae: Any, *, seed: int = 0, num_images: int = 512) -> None:
    """Fold a change of latent units into the 1 x 1 convolutions around the latents.

    Afterwards each latent channel has mean 0 and deviation 1 / SCALING_FACTOR over drawn frames, as
    the Stable Diffusion VAE has about, so that scaled latents have unit variance. Reconstructions
    do not change.
    """
    rng = random.Random(f"{seed}-units")
    parts = [vae.encode(random_images(rng, 32)).latent_dist.mean for _ in range(num_images // 32)]
    latents = torch.cat(parts).float()
    center = latents.mean(dim=(0, 2, 3))
    gain = 1 / (SCALING_FACTOR * latents.std(dim=(0, 2, 3)))
    both = torch.cat([gain, torch.ones_like(gain)])
    offset = torch.cat([-center * gain, 2 * gain.log()])
    vae.quant_conv.weight.mul_(both.view(-1, 1, 1, 1))
    vae.quant_conv.bias.mul_(both).add_(offset)
    inner = vae.post_quant_conv.weight[:, :, 0, 0]
    vae.post_quant_conv.bias.add_(inner @ center)
    vae.post_quant_conv.weight.div_(gain.view(1, -1, 1, 1))


@torch.no_grad()
def start_temporal_vae(image_vae: Any) -> Any:
    """Return a temporal VAE with the image VAE's encoder and its decoder as the spatial part.

    Temporal layers start as identities; what the image decoder's post_quant_conv does is folded
    into conv_in, because the temporal decoder has none.
    """
    vae = build_temporal_vae()
    vae.encoder.load_state_dict(image_vae.encoder.state_dict())
    vae.quant_conv.load_state_dict(image_vae.quant_conv.state_dict())
    source = image_vae.decoder.state_dict()
    target = vae.decoder.state_dict()
    for name, value in target.items():
        plain = name.replace(".spatial_res_block", "")
        if plain in source:
            value.copy_(source[plain])
        elif name.endswith(("temporal_res_block.conv2.weight", "temporal_res_block.conv2.bias")):
            value.zero_()
    inner = image_vae.post_quant_conv
    conv_in = source["conv_in.weight"]  # 64 4 3 3
    target["conv_in.weight"].copy_(torch.einsum("ochw,ci->oihw", conv_in, inner.weight[:, :, 0, 0]))
    target["conv_in.bias"].add_(torch.einsum("ochw,c->o", conv_in, inner.bias))
    target["time_conv_out.weight"].zero_()
    target["time_conv_out.weight"][range(3), range(3), 1] = 1.0
    target["time_conv_out.bias"].zero_()
    vae.decoder.load_state_dict(target)
    return vae


def train_temporal_vae(
    folder: Path, image_vae: Any, num_steps: int, *, seed: int = 0, peak_rate: float = 1e-3
) -> Any:
    """Train the temporal decoder on half clips; the encoder stays the image VAE's."""
    seed_global(seed)
    vae = start_temporal_vae(image_vae)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    optimizer = make_adamw(vae.decoder.parameters(), peak_rate)
    start = load_state(folder / "temporal_vae.pt", vae, optimizer)
    began = time.monotonic()
    for step in range(start, num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, peak_rate)
        rng = random.Random(f"{seed}-temporal-{step}")
        clips = draw_clips(random_specs(rng, CLIP_BATCH))
        first = rng.randrange(CLIP_FRAMES - CLIP_WINDOW + 1)
        frames = clips[:, first : first + CLIP_WINDOW].flatten(0, 1) * 2 - 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                latents = add_latent_noise(vae.encode(frames).latent_dist.mean)
            output = vae.decode(latents, num_frames=CLIP_WINDOW).sample.float()
        loss = reconstruction_loss(output, frames)
        take_step(loss, optimizer, vae.decoder.parameters())
        if step % 25 == 0 or step == num_steps - 1:
            pace = (time.monotonic() - began) / (step - start + 1)
            quality = psnr(output, frames)
            logger.info("temporal vae %d/%d psnr %.2f %.2f s/step", step, num_steps, quality, pace)
        if (step + 1) % 100 == 0 or step == num_steps - 1:
            save_state(folder / "temporal_vae.pt", vae, optimizer, step + 1)
    return vae


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    error = (output.clamp(-1, 1) - target).square().mean().item() / 4
    return -10 * math.log10(max(error, 1e-12))
