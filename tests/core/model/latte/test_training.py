"""Every arrangement of Latte learns, and comes back from its file as it was (docs/model.md 4)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from latte_test_support.tiny.latte import NO_CLASSES
from torch import Tensor

import latte_core
from latte_core.checkpoint import write_safetensors
from latte_core.config.latte import LatteConfig
from latte_core.diffusion.betas import alphas_cumprod_of, linear_betas
from latte_core.model.latte.transformer import Latte
from latte_core.starter.drawing import COLORS, draw_clips, make_clip_spec

STEPS = 200
WINDOW = 20  # steps whose losses are compared
FRAMES = 4
BATCH = 8
SMALL: dict[str, Any] = {
    "input_size": 8,
    "hidden_size": 48,
    "depth": 4,
    "num_heads": 4,
    "num_frames": FRAMES,
    "conditioning": "class",
    "num_classes": len(COLORS),
}
KINDS: dict[str, dict[str, Any]] = {
    "variant 1": {},
    "variant 2": {"variant": 2},
    "variant 3": {"variant": 3},
    "variant 4": {"variant": 4},
    "tubelets": {"tubelet_size": 2},
    "tokens": {"injection": "tokens"},
    "rotary": {"temporal_positions": "rotary"},
    "patch 4": {"patch_size": 4},
    "unconditional": NO_CLASSES,
    "tubelets, tokens and rotary of variant 3": {
        "variant": 3,
        "tubelet_size": 2,
        "injection": "tokens",
        "temporal_positions": "rotary",
    },
}


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    """Drawn clips as latents (N, 4, F, 8, 8), and their colours: mean colour and light of cells."""
    rng = random.Random(2)
    specs = [make_clip_spec(rng) for _ in range(96)]
    video = draw_clips(specs, FRAMES).flatten(0, 1)  # (N F) 3 64 64
    cells = F.avg_pool2d(video, 8)
    cells = torch.cat([cells, cells.mean(1, keepdim=True)], dim=1)
    latents = cells.unflatten(0, (-1, FRAMES)).transpose(1, 2)  # N 4 F 8 8
    labels = torch.tensor([list(COLORS).index(spec.color) for spec in specs])
    return (latents - latents.mean()) / latents.std(), labels


def new_model(**changes: Any) -> Latte:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Latte.from_config({**SMALL, **changes})


def train(model: Latte, clips: tuple[Tensor, Tensor], num_images: int = 0) -> list[float]:
    """Predict the noise of drawn clips for some steps, and return the losses."""
    alphas = alphas_cumprod_of(linear_betas()).float()
    generator = torch.Generator().manual_seed(6)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.0)
    is_class = model.config.conditioning == "class"
    losses: list[float] = []
    for _ in range(STEPS):
        chosen = torch.randint(len(clips[0]), (BATCH,), generator=generator)
        clean = clips[0][chosen]
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        given: dict[str, Any] = {}
        if is_class:
            given["drop_labels"] = torch.rand(BATCH, generator=generator) < 0.1
        labels = clips[1][chosen] if is_class else None
        out = model(noisy, timesteps, labels, num_images=num_images, **given)
        loss = (out[:, :4] - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_falls_and_the_saved_model_comes_back_bit_for_bit(
    kind: str, clips: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model = new_model(**KINDS[kind]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = train(model, clips)
    # a new model predicts 0, whose loss is the noise's variance
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert mean(losses[-WINDOW:]) < 0.6 * mean(losses[:WINDOW])
    unmoved = {
        name for name, value in model.state_dict().items() if torch.equal(value, before[name])
    }
    assert unmoved == {"pos_embed", "temp_embed"} & set(before)

    path = tmp_path / "trained.safetensors"
    config = {"config": json.dumps(model.config.to_dict())}
    write_safetensors(path, model.state_dict(), config)
    loaded = latte_core.load_transformer(path)
    assert isinstance(loaded, Latte)
    assert loaded.config == LatteConfig.from_dict({**SMALL, **KINDS[kind]})
    is_class = model.config.conditioning == "class"
    labels = torch.tensor([0, 6]) if is_class else None
    latents, timesteps = clips[0][:2] + 0.5, torch.tensor([3, 700])
    with torch.no_grad():
        found = loaded(latents, timesteps, labels)
        expected = model.eval()(latents, timesteps, labels)
    assert torch.equal(found, expected)
    assert float(expected.abs().max()) > 0.1


def test_loss_falls_with_images_beside_the_clip(clips: tuple[Tensor, Tensor]) -> None:
    losses = train(new_model(), clips, num_images=2)
    assert mean(losses[-WINDOW:]) < 0.6 * mean(losses[:WINDOW])
