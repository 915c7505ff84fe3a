"""Same inputs, same video: docs/faults.md 5. R42, R43, R45 of the noise are in core/sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import write_tiny_latte

from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.sampling import (
    SAMPLER_NAMES,
    guided_in_one_batch,
    guided_in_two_calls,
    make_noise,
    sample,
)

PROMPT = "a red circle moving left"
SMALL: dict[str, Any] = {"num_frames": 2, "height": 32, "width": 48, "num_steps": 4}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.from_pretrained(write_tiny_latte(tmp_path_factory.mktemp("s")), device="cpu")


@pytest.fixture
def deterministic_torch() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_same_arguments_give_the_same_video_to_the_bit(pipeline: Pipeline, sampler: str) -> None:
    given: dict[str, Any] = {**SMALL, "sampler": sampler, "seed": 2**64 - 1, "eta": 0.4}
    first, second = pipeline(PROMPT, **given), pipeline(PROMPT, **given)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.frames, second.frames)


def test_queue_order_does_not_matter(pipeline: Pipeline) -> None:
    alone = pipeline(PROMPT, **SMALL).latents
    pipeline("a blue square moving up", **SMALL, sampler="heun", seed=7)
    assert torch.equal(pipeline(PROMPT, **SMALL).latents, alone)


def test_freshly_loaded_pipeline_makes_the_same_video(
    pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = Pipeline.from_pretrained(write_tiny_latte(tmp_path_factory.mktemp("t")), device="cpu")
    assert torch.equal(again(PROMPT, **SMALL).latents, pipeline(PROMPT, **SMALL).latents)


def test_r46_guidance_in_one_batch_equals_two_calls(pipeline: Pipeline) -> None:
    transformer: Any = pipeline.parts.transformer
    noise = make_noise((2, 4, 2, 4, 6), [1, 2])
    text = torch.randn((2, 1, 7, 32), generator=torch.Generator().manual_seed(1))

    def model(context: torch.Tensor) -> Any:
        def predict(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            rows = context.repeat_interleave(len(latents) // len(context), 0)
            return transformer(latents, timesteps, rows)

        return predict

    batched = sample(guided_in_one_batch(model(text[:, 0]), 7.5), noise, num_steps=5)
    apart = sample(guided_in_two_calls(model(text[0]), model(text[1]), 7.5), noise, num_steps=5)
    # other batch sizes may use other matmul kernels: rounding, magnified by guidance
    assert (batched - apart).abs().max() <= 1e-4 * apart.abs().max()


@pytest.mark.usefixtures("deterministic_torch")
def test_r48_deterministic_algorithms_change_nothing(pipeline: Pipeline) -> None:
    strict = pipeline(PROMPT, **SMALL)
    torch.use_deterministic_algorithms(False)
    assert torch.equal(pipeline(PROMPT, **SMALL).latents, strict.latents)
