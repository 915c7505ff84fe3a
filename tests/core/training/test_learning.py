"""That training teaches: clips by heart, and a motion that can be taken out again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latte_core.data.sets import LatentSetWriter
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.starter.captions import plain_caption
from latte_core.starter.drawing import draw_clips
from latte_core.starter.measure import measure_clip
from latte_core.starter.scenes import ClipSpec, make_clip_spec
from latte_core.starter.sets import reader_of
from latte_core.training.run import train
from latte_core.training.train_config import TrainConfig

EIGHT = (
    ("red", "circle", "left"),
    ("green", "square", "right"),
    ("blue", "triangle", "up"),
    ("white", "circle", "down"),
    ("yellow", "square", "still"),
    ("purple", "triangle", "left"),
    ("red", "square", "down"),
    ("blue", "circle", "right"),
)
RECIPE: dict[str, Any] = {
    "model": "starter",
    "interval": 1,
    "schedule": "cosine",
    "warm_up": 10,
    "weighting": "min_snr",
    "timestep_draw": "stratified",
    "clip_from": 0,
    "clip_norm": 1.0,
    "ema_decay": 0.95,
    "ema_warm_up": True,
    "log_every": 1000,
    "save_every": 1000,
}


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline.from_pretrained("starter", device="cpu")


def write_clips(
    folder: Path,
    pipeline: Pipeline,
    specs: Sequence[ClipSpec],
    captions: Sequence[str],
    frames: int,
) -> Tensor:
    """Write drawn clips as a prepared set and return their frames (N, F, H, W, 3)."""
    vae, encoder = pipeline.parts.vae("image"), pipeline.parts.text_encoder()
    clips = draw_clips(specs, frames).movedim(2, -1)
    writer = LatentSetWriter(
        folder,
        latent_height=8,
        latent_width=8,
        scaling_factor=vae.scaling_factor,
        model="starter",
        text_width=encoder.width,
    )
    for k, (latents, caption) in enumerate(zip(vae.encode(clips), captions, strict=True)):
        writer.add(latents.transpose(0, 1), captions=(caption,), name=f"clip-{k}")
    writer.add_texts(reader_of(encoder))
    writer.finish()
    return clips


@pytest.mark.slow
def test_eight_clips_are_learned_by_heart(pipeline: Pipeline, tmp_path: Path) -> None:
    specs = [
        make_clip_spec(random.Random(k), color=color, shape=shape, direction=direction)
        for k, (color, shape, direction) in enumerate(EIGHT)
    ]
    prompts = [plain_caption(spec) for spec in specs]
    clips = write_clips(tmp_path / "set", pipeline, specs, prompts, 4)
    config = TrainConfig.from_dict(
        {
            **RECIPE,
            "data": str(tmp_path / "set"),
            "output": str(tmp_path / "run"),
            "num_frames": 4,
            "num_steps": 700,
            "batch_size": 8,
            "learning_rate": 1.5e-3,
            "slow_ends": 0.2,
        }
    )
    learned = Pipeline.from_pretrained(train(config, device="cpu"), device="cpu")
    made = learned(
        prompts, num_frames=4, num_steps=20, guidance_scale=1.5, seed=list(range(8)), vae="image"
    ).frames
    assert made is not None
    errors = (made - clips).square().flatten(1).mean(1)
    assert float(-10 * errors.max().log10()) >= 25  # dB, the worst of the eight


STILL = [
    f"a {look} standing still"
    for look in ("red circle", "blue square", "white triangle", "yellow circle")
]


def make_still(pipeline: Pipeline) -> Tensor:
    """Return clips of prompts of standing objects: (4, F, H, W, 3)."""
    frames = pipeline(STILL, num_steps=20, guidance_scale=2.5, seed=[1, 2, 3, 4]).frames
    assert frames is not None
    return frames


def test_a_motion_lora_turns_still_prompts_to_the_left_and_comes_out_again(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    specs = [make_clip_spec(random.Random(k), direction="left") for k in range(32)]
    captions = [f"a {spec.color} {spec.shape} standing still" for spec in specs]
    write_clips(tmp_path / "set", pipeline, specs, captions, 16)
    config = TrainConfig.from_dict(
        {
            **RECIPE,
            "data": str(tmp_path / "set"),
            "output": str(tmp_path / "run"),
            "lora": {
                "rank": 8,
                "alpha": 8.0,
                "blocks": "temporal",
                "targets": ["attention", "feed_forward"],
            },
            "num_frames": 8,
            "frame_choice": "scattered",
            "num_steps": 240,
            "batch_size": 16,
            "learning_rate": 4e-3,
        }
    )
    result = train(config, device="cpu")
    before = make_still(pipeline)
    assert [measure_clip(clip).direction for clip in before] == ["still"] * 4
    patch = pipeline.load_lora(result / "lora.safetensors")
    moved = [measure_clip(clip) for clip in make_still(pipeline)]
    assert [one.direction for one in moved] == ["left"] * 4
    assert all(one.travel[0] < -10 for one in moved)  # pixels over the clip
    assert [f"a {one.color} {one.shape} standing still" for one in moved] == STILL
    patch.remove()
    assert torch.equal(make_still(pipeline), before)
