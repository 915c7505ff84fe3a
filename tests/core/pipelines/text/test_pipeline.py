"""The whole pipeline on tiny random parts: equal to diffusers' LattePipeline, then its manners."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import PROMPT, SMALL, reference_pipeline

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.sampling import SAMPLER_NAMES, make_noise
from latte_core.types import StepInfo

CALLS = {"heun": 99, "kdpm2_ancestral": 99, "pndm": 59}


@pytest.mark.parity
@pytest.mark.parametrize(
    ("vae", "num_frames", "guidance_scale", "mask_feature", "temporal_attention"),
    [
        ("temporal", 5, 7.5, True, True),
        ("temporal", 16, 7.5, True, True),
        ("image", 5, 7.5, False, True),
        ("image", 5, 1.0, True, False),
    ],
)
def test_latents_and_frames_equal_diffusers_pipeline(
    folder: Path,
    pipeline: Pipeline,
    vae: str,
    num_frames: int,
    guidance_scale: float,
    mask_feature: bool,
    temporal_attention: bool,
) -> None:
    reference = reference_pipeline(folder, vae, num_frames)
    start = torch.randn((1, 4, num_frames, 4, 6), generator=torch.Generator().manual_seed(1))
    shared: dict[str, Any] = {
        "guidance_scale": guidance_scale,
        "mask_feature": mask_feature,
        "height": 32,
        "width": 48,
    }
    theirs = [
        reference(
            PROMPT,
            negative_prompt="yellow and black tropical fish, blurry",
            num_inference_steps=10,
            video_length=num_frames,
            latents=start.clone(),
            enable_temporal_attentions=temporal_attention,
            output_type=kind,
            **shared,
        ).frames
        for kind in ("latent", "pt")
    ]
    ours = pipeline(
        PROMPT,
        negative_prompt="yellow and black tropical fish, blurry",
        num_steps=10,
        num_frames=num_frames,
        latents=start,
        temporal_attention=temporal_attention,
        vae=vae,
        decode_chunk=14,
        **shared,
    )
    latents, frames = theirs[0], theirs[1][0].permute(0, 2, 3, 1)
    assert (ours.latents - latents).abs().max() <= 1e-4 * latents.abs().max()
    assert (ours.frames - frames).abs().max() <= 1e-3


@pytest.mark.parity
def test_reference_noise_order_equals_diffusers_pipeline_with_a_seeded_generator(
    folder: Path, pipeline: Pipeline
) -> None:
    reference = reference_pipeline(folder, "image", 2)
    theirs = reference(
        PROMPT,
        num_inference_steps=4,
        video_length=2,
        height=32,
        width=48,
        eta=0.5,
        generator=torch.Generator().manual_seed(9),
        output_type="latent",
    ).frames
    ours = pipeline(
        PROMPT,
        **{**SMALL, "num_steps": 4},
        seed=9,
        eta=0.5,
        noise_order="reference",
        output="latents",
    ).latents
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_sampler_ends_finite_at_50_steps_with_the_references_number_of_calls(
    pipeline: Pipeline, name: str
) -> None:
    calls: list[StepInfo] = []
    result = pipeline(
        PROMPT, num_frames=2, num_steps=50, sampler=name, output="latents", callback=calls.append
    )
    assert bool(torch.isfinite(result.latents).all())
    assert len(calls) == CALLS.get(name, 50)


def test_one_prompt_gives_frames_and_latents_of_the_stated_shapes(pipeline: Pipeline) -> None:
    result = pipeline(PROMPT, **SMALL)
    assert result.frames is not None
    assert (result.frames.shape, result.frames.dtype) == ((2, 32, 48, 3), torch.float32)
    assert result.latents.shape == (1, 4, 2, 4, 6)
    assert 0 <= float(result.frames.min()) <= float(result.frames.max()) <= 1


def test_size_left_out_is_the_one_the_model_was_trained_on(pipeline: Pipeline) -> None:
    result = pipeline(PROMPT, num_frames=1, num_steps=1)
    assert result.frames is not None
    assert result.frames.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "ddpm"])
def test_list_of_prompts_equals_each_alone(pipeline: Pipeline, sampler: str) -> None:
    prompts = [PROMPT, "a blue square moving up"]
    together = pipeline(prompts, **SMALL, seed=[3, 8], sampler=sampler)
    assert together.frames is not None
    assert together.frames.shape == (2, 2, 32, 48, 3)
    for index, (prompt, seed) in enumerate(zip(prompts, (3, 8), strict=True)):
        alone = pipeline(prompt, **SMALL, seed=seed, sampler=sampler)
        assert torch.equal(together.latents[index], alone.latents[0])


def test_r42_first_video_of_one_seed_is_the_same_in_a_longer_list(pipeline: Pipeline) -> None:
    alone = pipeline([PROMPT], **SMALL, seed=3, sampler="euler_ancestral")
    longer = pipeline([PROMPT] * 3, **SMALL, seed=3, sampler="euler_ancestral")
    assert torch.equal(longer.latents[0], alone.latents[0])
    assert not torch.equal(longer.latents[1], longer.latents[0])


def test_list_of_one_prompt_keeps_its_axis(pipeline: Pipeline) -> None:
    result = pipeline([PROMPT], **SMALL)
    assert result.frames is not None
    assert result.frames.shape == (1, 2, 32, 48, 3)


def test_embeddings_in_place_of_prompts_give_the_same_video(pipeline: Pipeline) -> None:
    from latte_core.text.pair import encode_pair

    positive, negative = encode_pair(pipeline.parts.text_encoder(), PROMPT, "blurry")
    plain = pipeline(PROMPT, negative_prompt="blurry", **SMALL)
    embedded = pipeline(None, prompt_embeds=positive, negative_embeds=negative, **SMALL)
    half = pipeline(None, negative_prompt="blurry", prompt_embeds=positive, **SMALL)
    assert torch.equal(embedded.latents, plain.latents)
    assert torch.equal(half.latents, plain.latents)


def test_several_embeddings_share_one_negative(pipeline: Pipeline) -> None:
    embeds = torch.randn((2, 7, 32), generator=torch.Generator().manual_seed(1))
    both = pipeline(None, prompt_embeds=embeds, negative_embeds=embeds[:1] * 0, **SMALL)
    second = pipeline(
        None,
        prompt_embeds=embeds[1:],
        negative_embeds=embeds[:1] * 0,
        latents=make_noise((2, 4, 2, 4, 6), 0)[1:],
        **SMALL,
    )
    assert torch.equal(both.latents[1], second.latents[0])


def test_given_latents_are_the_seeds_noise(pipeline: Pipeline) -> None:
    noise = make_noise((1, 4, 2, 4, 6), 5)
    kept = noise.clone()
    seeded = pipeline(PROMPT, **SMALL, seed=5, sampler="euler")
    given = pipeline(PROMPT, num_frames=2, num_steps=3, latents=noise, sampler="euler")
    assert torch.equal(seeded.latents, given.latents)
    assert torch.equal(noise, kept)


def test_guidance_of_one_needs_no_negative_and_halves_the_batch(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    transformer = pipeline.parts.transformer
    handle = transformer.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    try:
        pipeline(PROMPT, negative_prompt="x", guidance_scale=1.0, **SMALL)
        pipeline(PROMPT, negative_prompt="x", guidance_scale=1.5, **SMALL)
    finally:
        handle.remove()
    assert batches == [1, 1, 1, 2, 2, 2]


def test_text_is_projected_once_per_prompt(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer: Any = pipeline.parts.transformer
    calls: list[torch.Size] = []
    project = transformer.project_text

    def counted(context: torch.Tensor, *rest: Any) -> Any:
        calls.append(context.shape)
        return project(context, *rest)

    monkeypatch.setattr(transformer, "project_text", counted, raising=False)
    pipeline(PROMPT, **SMALL)
    assert len(calls) == 1
    assert calls[0][0] == 2


def test_every_argument_that_changes_the_video_does(pipeline: Pipeline) -> None:
    base = pipeline(PROMPT, **SMALL).latents
    changes: list[dict[str, Any]] = [
        {"negative_prompt": "blurry"},
        {"guidance_scale": 2.0},
        {"sampler": "euler"},
        {"seed": 1},
        {"eta": 0.5},
        {"noise_order": "reference"},
        {"mask_feature": False},
        {"temporal_attention": False},
    ]
    different = [
        not torch.allclose(pipeline(PROMPT, **SMALL, **change).latents, base) for change in changes
    ]
    assert different == [True] * len(changes)


def test_cleaning_can_be_switched_off(pipeline: Pipeline) -> None:
    text = "a red circle (moving) left page 3"
    cleaned = pipeline(text, **SMALL).latents
    assert not torch.equal(pipeline(text, **SMALL, clean_caption=False).latents, cleaned)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"num_frames": 0}, "frames is 0"),
    ({"height": 40}, "height is 40.*32 and 48"),
    ({"width": 2**31}, "width"),
    ({"num_steps": 0}, "steps"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"sampler": "eular"}, "Did you mean 'euler'"),
    ({"seed": -1}, "seed"),
    ({"seed": [1, 2]}, "2 seeds were given for 1 videos"),
    ({"eta": 2.0}, "eta"),
    ({"noise_order": "x"}, "noise_order"),
    ({"vae": "video"}, "vae is 'video'.*'temporal' or 'image'"),
    ({"output": "latent"}, "output is 'latent'"),
    ({"decode_chunk": 0}, "chunk"),
    ({"prompt": []}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": [1]}, "prompt"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_value_that_cannot_be_used_is_named_before_anything_is_sampled(
    pipeline: Pipeline, change: dict[str, Any], message: str
) -> None:
    steps: list[StepInfo] = []
    given = {"prompt": PROMPT, **SMALL, **change, "callback": steps.append}
    with pytest.raises(InvalidInputError, match=message):
        pipeline(**given)
    assert steps == []


@pytest.mark.parametrize(
    "change",
    [
        {"latents": torch.zeros(1, 4, 3, 4, 6)},
        {"latents": torch.zeros(2, 4, 4, 6)},
        {"latents": torch.zeros(1, 8, 2, 4, 6)},
        {"prompt_embeds": torch.zeros(7, 32)},
        {"prompt_embeds": torch.zeros(1, 7, 31), "negative_embeds": torch.zeros(1, 7, 31)},
        {"prompt_embeds": torch.zeros(1, 7, 32), "negative_embeds": torch.zeros(1, 8, 32)},
        {"prompt_embeds": torch.zeros(3, 7, 32), "negative_embeds": torch.zeros(2, 7, 32)},
    ],
)
def test_r25_inputs_that_do_not_fit_are_refused(pipeline: Pipeline, change: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleInputsError):
        pipeline(PROMPT, **SMALL, **change)


def test_r24_more_frames_than_trained_warn_once_and_run(pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="trained on 16") as caught:
        result = pipeline(PROMPT, num_frames=17, num_steps=1, output="latents")
    assert len(caught) == 1
    assert result.latents.shape[2] == 17


@pytest.mark.parametrize("num_frames", [1, 2, 7, 16])
def test_r24_any_count_up_to_the_trained_one_runs_without_a_word(
    pipeline: Pipeline, num_frames: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = pipeline(PROMPT, num_frames=num_frames, num_steps=1)
    assert result.frames is not None
    assert len(result.frames) == num_frames


def test_r27_r28_blank_and_endless_prompts_run(pipeline: Pipeline) -> None:
    def made(prompt: str) -> torch.Tensor:
        given: dict[str, Any] = {"num_frames": 1, "num_steps": 1, "output": "latents"}
        return pipeline(prompt, **given, guidance_scale=1.0).latents

    empty, endless = made(""), made("word " * 2000)
    assert bool(torch.isfinite(empty).all() and torch.isfinite(endless).all())
    assert torch.equal(made("   \n"), empty)
    assert torch.equal(made("word " * 300), endless)  # 120 tokens are all that is read
    assert not torch.equal(made("word " * 20), endless)
    assert not torch.equal(endless, empty)


def test_bfloat16_pipeline_stays_close_to_float32(folder: Path, pipeline: Pipeline) -> None:
    half = Pipeline.from_pretrained(folder, dtype=torch.bfloat16, device="cpu")
    ours = half(PROMPT, **SMALL, guidance_scale=2.0)
    plain = pipeline(PROMPT, **SMALL, guidance_scale=2.0)
    assert ours.latents.dtype == torch.float32
    assert (ours.latents - plain.latents).abs().mean() < 0.1 * plain.latents.abs().mean()


def test_signature_of_a_call_is_frozen() -> None:
    parameters = list(inspect.signature(Pipeline.__call__).parameters.values())[1:]
    assert [(entry.name, entry.default) for entry in parameters][1:] == [
        ("negative_prompt", ""),
        ("num_frames", 16),
        ("height", None),
        ("width", None),
        ("num_steps", 50),
        ("guidance_scale", 7.5),
        ("sampler", "ddim"),
        ("seed", 0),
        ("eta", 0.0),
        ("noise_order", "comfyui"),
        ("latents", None),
        ("prompt_embeds", None),
        ("negative_embeds", None),
        ("clean_caption", True),
        ("mask_feature", True),
        ("temporal_attention", True),
        ("vae", "temporal"),
        ("decode_chunk", None),
        ("output", "frames"),
        ("callback", None),
        ("cache", None),
        ("batch_size", 1),
    ]
    assert parameters[0].name == "prompt"
