"""A tiny random Latte in the folder layout of Latte-1, written by diffusers and transformers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from .text import WIDTH, write_json_folder, write_spiece_folder, write_text_folder

PROMPT = "a red circle moving left"
SMALL: dict[str, Any] = {"num_frames": 2, "height": 32, "width": 48, "num_steps": 3}
SAMPLE_SIZE = 4  # latent cells: 32 pixels
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "caption_channels": WIDTH,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "patch_size": 2,
    "sample_size": SAMPLE_SIZE,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "num_embeds_ada_norm": 1000,
}
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "scaling_factor": 0.18215,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "clip_sample": False,
}


def write_tiny_latte(folder: Path) -> Path:
    """Write every part with random weights; the same on every call."""
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, LatteTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        LatteTransformer3DModel(**TRANSFORMER, video_length=16).save_pretrained(
            folder / "transformer"
        )
        blocks = len(VAE["block_out_channels"])
        down = ("DownEncoderBlock2D",) * blocks
        AutoencoderKLTemporalDecoder(**VAE, down_block_types=down).save_pretrained(
            folder / "vae_temporal_decoder"
        )
        AutoencoderKL(
            **VAE, down_block_types=down, up_block_types=("UpDecoderBlock2D",) * blocks
        ).save_pretrained(folder / "vae")
    write_text_folder(folder / "text_encoder")
    write_json_folder(write_spiece_folder(folder / "spiece"), folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(SCHEDULER), encoding="utf-8"
    )
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "LattePipeline"}), encoding="utf-8"
    )
    return folder


def reference_pipeline(folder: Path, vae: str, num_frames: int) -> Any:
    """Return diffusers' LattePipeline with the parts of `folder`, silent.

    Args:
        vae: `temporal` or `image`.
        num_frames: the one length this pipeline can make.
    """
    from diffusers import (
        AutoencoderKL,
        AutoencoderKLTemporalDecoder,
        DDIMScheduler,
        LattePipeline,
        LatteTransformer3DModel,
    )
    from transformers import T5EncoderModel, T5TokenizerFast

    decoder = (
        AutoencoderKLTemporalDecoder.from_pretrained(str(folder / "vae_temporal_decoder"))
        if vae == "temporal"
        else AutoencoderKL.from_pretrained(str(folder / "vae"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = LattePipeline(
            tokenizer=T5TokenizerFast.from_pretrained(
                str(folder / "tokenizer"), local_files_only=True
            ),
            text_encoder=T5EncoderModel.from_pretrained(
                str(folder / "text_encoder"), dtype=torch.float32
            ),
            vae=decoder,
            transformer=LatteTransformer3DModel.from_pretrained(
                str(folder / "transformer"), video_length=num_frames
            ),
            scheduler=DDIMScheduler(
                **{key: value for key, value in SCHEDULER.items() if not key.startswith("_")}
            ),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
