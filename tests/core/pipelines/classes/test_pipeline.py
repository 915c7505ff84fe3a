"""Videos of classes, made by tiny random models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.classes import FRAMES, NAMES, SIDE, write_class_folder, write_vae
from latte_test_support.tiny.latte import IMAGE, NO_CLASSES, TEXT, tiny_latte
from latte_test_support.tiny.pipeline import write_tiny_latte
from torch import Tensor

from latte_core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
)
from latte_core.pipelines.classes.labels import random_labels
from latte_core.pipelines.classes.parts import ClassDefaults
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.sampling import make_noise, make_step_noise
from latte_core.sampling.reference import sample_reference
from latte_core.types import StepInfo

QUICK: dict[str, Any] = {"steps": "3", "output": "latents"}
SIZE = (1, 4, FRAMES, SIDE // 8, SIDE // 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("classes") / "model")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> ClassPipeline:
    return ClassPipeline.from_pretrained(folder, device="cpu")


def latents_of(pipeline: ClassPipeline, label: Any = 1, **changes: Any) -> Tensor:
    return pipeline(label, **{**QUICK, **changes}).latents


def test_folder_gives_names_and_the_authors_settings(pipeline: ClassPipeline) -> None:
    assert pipeline.class_names == tuple(NAMES)
    assert pipeline.num_classes == 5
    assert pipeline.defaults == ClassDefaults(
        method="ddpm", steps="250", guidance_scale=7.0, num_frames=FRAMES, height=SIDE, width=SIDE
    )


def test_card_says_how_a_model_is_run_best(folder: Path, tmp_path: Path) -> None:
    carded = shutil.copytree(folder, tmp_path / "carded")
    card = {"method": "ddim", "steps": 2, "guidance_scale": 1.5, "fps": 12, "name": "x"}
    (carded / "card.json").write_text(json.dumps(card))
    pipeline = ClassPipeline.from_pretrained(carded, device="cpu")
    best = pipeline.defaults
    assert (best.method, best.steps, best.guidance_scale, best.fps) == ("ddim", "2", 1.5, 12)
    left_out = pipeline(1, output="latents").latents
    given = latents_of(pipeline, method="ddim", steps="2", guidance_scale=1.5)
    assert torch.equal(left_out, given)


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_latents_are_those_of_the_reference_loop_for_the_noise_of_ksampler(
    pipeline: ClassPipeline, method: str, scale: float
) -> None:
    made = latents_of(pipeline, 2, method=method, guidance_scale=scale, eta=0.5, seed=9)
    steps = make_step_noise(SIZE, 9)
    expected = sample_reference(
        pipeline.parts.transformer,
        make_noise(SIZE, 9),
        method,
        "3",
        scale,
        torch.tensor([2]),
        0.5,
        noise=lambda _: steps.draw(SIZE),
    )
    assert torch.equal(made, expected)


def test_authors_noise_is_one_stream_of_start_labels_and_steps(pipeline: ClassPipeline) -> None:
    made = latents_of(pipeline, [1, 3], noise_order="reference", guidance_scale=3.0, seed=4)
    generator = torch.Generator().manual_seed(4)
    drawn = (2, FRAMES, 4, SIDE // 8, SIDE // 8)
    start = torch.randn(drawn, generator=generator)
    torch.randint(0, 5, (2,), generator=generator)

    def step_noise(_: int) -> Tensor:
        doubled = torch.randn((4, *drawn[1:]), generator=generator)
        return doubled[:2].transpose(1, 2)

    expected = sample_reference(
        pipeline.parts.transformer,
        start.transpose(1, 2),
        "ddpm",
        "3",
        3.0,
        torch.tensor([1, 3]),
        noise=step_noise,
    )
    assert torch.equal(made, expected)


def test_frames_are_the_vaes_and_names_choose_the_class(pipeline: ClassPipeline) -> None:
    result = pipeline("Red_Square", steps="2", seed=3)
    assert result.class_labels == (2,)
    assert result.frames is not None and result.frames.shape == (FRAMES, SIDE, SIDE, 3)
    assert torch.equal(result.frames, pipeline.decode(result.latents)[0])
    assert torch.equal(result.latents, latents_of(pipeline, 2, steps="2", seed=3))
    assert not torch.equal(result.latents, latents_of(pipeline, 3, steps="2", seed=3))


@pytest.mark.parametrize("seed", [7, [7, 11, 2]])
def test_every_video_is_as_if_made_alone(pipeline: ClassPipeline, seed: Any) -> None:
    labels = ["blue circle", 4, "red circle"]
    together = latents_of(pipeline, labels, seed=seed)
    assert together.shape == (3, *SIZE[1:])
    assert torch.equal(together[:1], latents_of(pipeline, labels[:1], seed=7))
    if isinstance(seed, list):
        assert torch.equal(together[2:], latents_of(pipeline, 0, seed=2))


def test_one_label_serves_several_seeds_and_gives_a_list(pipeline: ClassPipeline) -> None:
    result = pipeline(1, steps="2", seed=[5, 6])
    assert result.class_labels == (1, 1)
    assert result.frames is not None and result.frames.shape == (2, FRAMES, SIDE, SIDE, 3)
    alone = pipeline([1], steps="2", seed=5)
    assert alone.frames is not None and alone.frames.shape == (1, FRAMES, SIDE, SIDE, 3)


def test_random_class_comes_from_the_seed_alone(pipeline: ClassPipeline) -> None:
    seeds = list(range(40))
    drawn = random_labels(seeds, 40, 5)
    assert set(drawn) == {0, 1, 2, 3, 4}
    result = pipeline(["random", "Random"], seed=[3, 8], **QUICK)
    assert result.class_labels == (drawn[3], drawn[8])
    shared = pipeline(["random"] * 3, seed=3, **QUICK)
    assert shared.class_labels == tuple(random_labels([3], 3, 5))
    assert shared.class_labels[0] == drawn[3]


def authors_draw(seed: int, videos: int) -> tuple[int, ...]:
    """Return the labels that the authors' script draws behind the start noise of a run."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn((videos, FRAMES, 4, SIDE // 8, SIDE // 8), generator=generator)
    return tuple(torch.randint(0, 5, (videos,), generator=generator).tolist())


@pytest.mark.parametrize("seed", [0, 5, 2**40])
def test_random_class_in_reference_order_is_the_authors(pipeline: ClassPipeline, seed: int) -> None:
    result = pipeline(["random"] * 3, seed=seed, noise_order="reference", **QUICK)
    assert result.class_labels == authors_draw(seed, 3)
    numbered = latents_of(pipeline, list(authors_draw(seed, 3)), seed=seed, noise_order="reference")
    assert torch.equal(result.latents, numbered)


def test_random_class_among_others_keeps_its_place_in_the_authors_stream(
    pipeline: ClassPipeline,
) -> None:
    labels = [4, "random", 0, " Random "]
    result = pipeline(labels, seed=9, noise_order="reference", **QUICK)
    drawn = authors_draw(9, 4)
    assert result.class_labels == (4, drawn[1], 0, drawn[3])


def test_random_class_of_each_seed_is_that_of_the_authors_run_of_one_video(
    pipeline: ClassPipeline,
) -> None:
    result = pipeline("random", seed=[3, 8, 8], noise_order="reference", **QUICK)
    assert result.class_labels == sum((authors_draw(seed, 1) for seed in (3, 8, 8)), ())


def test_random_class_without_guidance_comes_from_its_own_stream(pipeline: ClassPipeline) -> None:
    """The authors draw no label then, so there is none to follow."""
    options = {"seed": 3, "noise_order": "reference", "guidance_scale": 1.0, **QUICK}
    assert pipeline(["random"] * 3, **options).class_labels == tuple(random_labels([3], 3, 5))


def test_steps_of_all_videos_are_reported_in_one_row(pipeline: ClassPipeline) -> None:
    seen: list[StepInfo] = []
    latents_of(pipeline, [0, 1], callback=seen.append)
    assert [(info.step, info.num_steps) for info in seen] == [(step, 6) for step in range(6)]
    assert seen[0].denoised.shape == SIZE


def test_given_latents_decide_the_size(
    pipeline: ClassPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    noise = torch.randn(2, 4, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    result = pipeline([0, 1], latents=noise, seed=1, steps="2")
    assert result.frames is not None and result.frames.shape == (2, 2, 32, 48, 3)
    assert "quality is unproven" in caplog.text
    with pytest.raises(IncompatibleInputsError, match="Change num_frames"):
        pipeline([0, 1], latents=noise, num_frames=3, **QUICK)


def test_temporal_attention_can_be_left_out(pipeline: ClassPipeline) -> None:
    still = latents_of(pipeline, temporal_attention=False)
    assert not torch.equal(still, latents_of(pipeline))


def test_unconditional_and_image_models_need_no_class(tmp_path: Path) -> None:
    plain = ClassPipeline(tiny_latte(**NO_CLASSES))
    assert plain.defaults.guidance_scale == 1.0
    result = plain(seed=[1, 2], **QUICK)
    assert result.class_labels is None and result.latents.shape == (2, *SIZE[1:])
    image = ClassPipeline(tiny_latte(**IMAGE), class_names=NAMES)
    assert image("red circle", **QUICK).latents.shape == (1, 4, 1, 8, 8)


def test_class_starter_folder_may_borrow_the_starters_vae(tmp_path: Path) -> None:
    model = write_class_folder(tmp_path / "model")
    shutil.rmtree(model / "vae")
    (model / "card.json").write_text('{"vae": "starter"}')
    frames = ClassPipeline.from_pretrained(model, device="cpu")(0, steps="1").frames
    assert frames is not None and frames.shape == (FRAMES, SIDE, SIDE, 3)


@pytest.mark.parametrize("vae", ["image", "temporal", "folder", "file", "whole"])
def test_vae_is_found_beside_the_model_or_given(folder: Path, tmp_path: Path, vae: str) -> None:
    kinds = {"image": False, "temporal": True, "folder": False, "file": True, "whole": False}
    weights = folder / "vae_temporal_decoder" / "diffusion_pytorch_model.safetensors"
    given = {"folder": write_vae(tmp_path / "vae"), "file": weights, "whole": folder}
    pipeline = ClassPipeline.from_pretrained(folder, given.get(vae, vae), device="cpu")
    assert pipeline.parts.vae().is_temporal == kinds[vae]
    assert pipeline(0, steps="1").frames is not None


@pytest.mark.parametrize(
    ("label", "changes", "error", "message"),
    [
        (None, {}, InvalidInputError, "no class was given"),
        ("red cirkle", {}, InvalidInputError, '"red circle"'),
        (6, {}, InvalidInputError, "0 to 4"),
        ([], {}, IncompatibleInputsError, "0 in class_labels"),
        ([0, 1], {"seed": [1, 2, 3]}, IncompatibleInputsError, "2 in class_labels, 3 in seed"),
        (0, {"seed": -1}, InvalidInputError, "seed"),
        (0, {"method": "pndm"}, InvalidInputError, "method"),
        (0, {"steps": "ddim51"}, InvalidInputError, "ddim50"),
        (0, {"eta": 2.0}, InvalidInputError, "eta"),
        (0, {"guidance_scale": -1.0}, InvalidInputError, "guidance_scale"),
        (0, {"height": 40}, InvalidInputError, "nearest sizes are 32 and 48"),
        (0, {"noise_order": "sorted"}, InvalidInputError, "noise_order"),
        (0, {"output": "pixels"}, InvalidInputError, "output"),
        (0, {"decode_chunk": 0}, InvalidInputError, "decode_chunk"),
        (0, {"latents": torch.zeros(4, 3, 8, 8)}, IncompatibleInputsError, "a batch of videos"),
    ],
)
def test_values_that_cannot_be_used_are_refused(
    pipeline: ClassPipeline, label: Any, changes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline(label, **{**QUICK, **changes})


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (NO_CLASSES, {"class_labels": 1}, "unconditional: it has no classes"),
        (NO_CLASSES, {"guidance_scale": 7.0}, "no class to follow"),
        (TEXT, {}, "CLIP text"),
    ],
)
def test_class_or_guidance_without_classes_is_refused(
    model: Any, arguments: Any, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ClassPipeline(tiny_latte(**model))(**QUICK, **arguments)


def test_missing_vae_is_told_before_sampling(tmp_path: Path) -> None:
    model = write_class_folder(tmp_path / "model")
    shutil.rmtree(model / "vae")
    pipeline = ClassPipeline.from_pretrained(model, device="cpu")

    def stop(_: StepInfo) -> None:
        raise AssertionError("sampling began")

    with pytest.raises(CheckpointError, match="vae or sd-vae-ft-ema"):
        pipeline(0, steps="2", callback=stop)
    with pytest.raises(InvalidInputError, match="made without a VAE"):
        ClassPipeline(tiny_latte())(0, steps="2", callback=stop)
    (model / "vae").mkdir()
    with pytest.raises(CheckpointError):
        pipeline(0, steps="2", callback=stop)


def test_weights_that_are_no_vae_are_refused_before_sampling(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    pipeline = ClassPipeline.from_pretrained(folder, weights, device="cpu")
    with pytest.raises(CheckpointError, match="cannot be used as a Latte VAE"):
        pipeline(0, steps="1")


@pytest.mark.parametrize("source", ["nowhere", "class-starter-2"])
def test_missing_model_is_told(source: str) -> None:
    with pytest.raises(InvalidInputError, match=source):
        ClassPipeline.from_pretrained(source)


def test_text_to_video_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleInputsError, match="steered by prompts"):
        ClassPipeline.from_pretrained(write_tiny_latte(tmp_path), device="cpu")


def test_list_of_names_must_be_one_and_fit(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    names = model / "classes.json"
    names.write_text('["only one"]')
    assert ClassPipeline.from_pretrained(model, device="cpu").class_names == ()
    assert "has 1 names, but the model has 5 classes" in caplog.text
    for text in ('{"0": "a"}', "[1, 2, 3, 4, 5]", "not JSON", "[]"):
        names.write_text(text)
        with pytest.raises(CorruptCheckpointError, match="is not a list of names"):
            ClassPipeline.from_pretrained(model, device="cpu")
