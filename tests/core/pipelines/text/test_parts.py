"""Where a pipeline finds its parts and settings, and what it says when one is missing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from latte_test_support.tiny.pipeline import PROMPT, SMALL

from latte_core.errors import CheckpointError, InvalidInputError, MissingDependencyError
from latte_core.pipelines import model_folders
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.types import StepInfo


def test_latents_only_needs_no_vae(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("vae*"))
    result = Pipeline.from_pretrained(bare, device="cpu")(PROMPT, **SMALL, output="latents")
    assert result.frames is None
    assert result.latents.shape == (1, 4, 2, 4, 6)


@pytest.mark.parametrize(
    ("without", "named"),
    [("vae_temporal_decoder", "temporal VAE"), ("text_encoder", "text encoder")],
)
def test_missing_part_is_named_before_anything_is_sampled(
    folder: Path, tmp_path: Path, without: str, named: str
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(without))
    steps: list[StepInfo] = []
    with pytest.raises(CheckpointError, match=rf"needs .*{named}.*bare.*{without}"):
        Pipeline.from_pretrained(bare, device="cpu")(PROMPT, **SMALL, callback=steps.append)
    assert steps == []


def test_file_finds_its_companions_beside_or_around_it(folder: Path, tmp_path: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    expected = Pipeline.from_pretrained(folder, device="cpu")(PROMPT, **SMALL).latents
    around = Pipeline.from_pretrained(weights, device="cpu")(PROMPT, **SMALL).latents
    flat = tmp_path / "flat"
    shutil.copytree(folder, flat)
    (flat / "transformer").rename(flat / "hidden")
    shutil.copy(weights, flat / "latte.safetensors")
    shutil.copy(weights.with_name("config.json"), flat / "config.json")
    beside = Pipeline.from_pretrained(flat / "latte.safetensors", device="cpu")(PROMPT, **SMALL)
    assert torch.equal(around, expected)
    assert torch.equal(beside.latents, expected)


def test_temporal_vae_in_the_folder_vae_is_found(
    folder: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("vae"))
    (other / "vae_temporal_decoder").rename(other / "vae")
    (other / "transformer").rename(other / "transformer_v1")
    opened = Pipeline.from_pretrained(other, device="cpu")
    assert torch.equal(opened(PROMPT, **SMALL).frames, pipeline(PROMPT, **SMALL).frames)
    with pytest.raises(CheckpointError, match="holds a temporal VAE"):
        opened(PROMPT, **SMALL, vae="image")


@pytest.mark.parametrize("name", ["nowhere", "starter2", ""])
def test_model_that_does_not_exist_is_refused_with_what_to_give(name: str) -> None:
    with pytest.raises((InvalidInputError, CheckpointError)):
        Pipeline.from_pretrained(f"{name}/x")


def test_starter_that_is_not_there_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model_folders, "STARTER_FOLDER", tmp_path / "starter")
    with pytest.raises(InvalidInputError, match="no starter model"):
        Pipeline.from_pretrained("starter")


def test_pipeline_of_given_parts_equals_one_from_a_folder(folder: Path, pipeline: Pipeline) -> None:
    given = Pipeline(
        pipeline.parts.transformer,
        text_encoder=pipeline.parts.text_encoder(),
        vaes={"image": pipeline.parts.vae("image")},
    )
    expected = pipeline(PROMPT, **SMALL, vae="image")
    made = given(PROMPT, **SMALL, vae="image")
    assert torch.equal(made.frames, expected.frames)
    with pytest.raises(InvalidInputError, match="without the temporal VAE; it has image"):
        given(PROMPT, **SMALL)


def test_pipeline_without_a_text_encoder_asks_for_embeddings(pipeline: Pipeline) -> None:
    bare = Pipeline(pipeline.parts.transformer)
    embeds = torch.zeros(1, 7, 32)
    with pytest.raises(InvalidInputError, match="Pass prompt_embeds"):
        bare(PROMPT, **SMALL, output="latents")
    with pytest.raises(InvalidInputError, match="negative_embeds when guidance is on"):
        bare(None, prompt_embeds=embeds, **SMALL, output="latents")
    result = bare(None, prompt_embeds=embeds, **SMALL, output="latents", guidance_scale=1)
    assert bool(torch.isfinite(result.latents).all())
    assert bare.defaults.num_steps == 50


def test_r58_sampler_of_a_missing_package_is_named_before_anything_is_sampled(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    steps: list[StepInfo] = []
    with pytest.raises(MissingDependencyError, match="pip install diffusers"):
        pipeline(PROMPT, **SMALL, sampler="euler", callback=steps.append)
    assert steps == []
    result = pipeline(PROMPT, **SMALL, sampler="ddpm", output="latents")
    assert bool(torch.isfinite(result.latents).all())


def test_unknown_device_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="device is 'toaster'"):
        Pipeline.from_pretrained(folder, device="toaster")


def test_scheduler_file_of_the_folder_is_used(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("leading", "linspace"))
    steps: list[StepInfo] = []
    Pipeline.from_pretrained(other, device="cpu")(
        PROMPT, **SMALL, output="latents", callback=steps.append
    )
    assert [info.timestep for info in steps] == [999, 500, 0]


def test_card_sets_the_defaults(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "card.json").write_text(
        '{"num_steps": 20, "guidance_scale": 4.0, "height": 64, "licence": "MIT"}'
    )
    defaults = Pipeline.from_pretrained(other, device="cpu").defaults
    assert (defaults.num_steps, defaults.guidance_scale) == (20, 4.0)
    assert (defaults.height, defaults.width, defaults.num_frames) == (64, 32, 16)
