"""The pipeline prepares and shares what it can; the videos stay what they were."""

from __future__ import annotations

from typing import Any

import pytest
from latte_test_support.tiny.pipeline import PROMPT, SMALL
from torch import Tensor

from latte_core.pipelines.text.pipeline import Pipeline

SHORT_WAYS = ("places", "shared_input", "noise_only")


@pytest.fixture
def calls(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the options of every call of the transformer, as they come in."""
    seen: list[dict[str, Any]] = []
    transformer: Any = pipeline.parts.transformer
    forward = transformer.forward

    def watched(latents: Tensor, timesteps: Tensor, **options: Any) -> Tensor:
        seen.append({**options, "videos": len(latents), "timesteps": len(timesteps)})
        return forward(latents, timesteps, **options)

    monkeypatch.setattr(transformer, "forward", watched)
    return seen


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun"])
@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_videos_equal_those_made_the_long_way(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, sampler: str, guidance_scale: float
) -> None:
    options: dict[str, Any] = {**SMALL, "sampler": sampler, "guidance_scale": guidance_scale}
    short = pipeline(PROMPT, **options).latents
    transformer: Any = pipeline.parts.transformer
    forward = transformer.forward

    def long_way(latents: Tensor, timesteps: Tensor, **given: Any) -> Tensor:
        kept = {name: value for name, value in given.items() if name not in SHORT_WAYS}
        return forward(latents, timesteps.expand(len(latents)), **kept)

    monkeypatch.setattr(transformer, "forward", long_way)
    long = pipeline(PROMPT, **options).latents
    assert float((short - long).abs().max()) <= 1e-5 * float(long.abs().max())


@pytest.mark.parametrize(("guidance_scale", "videos"), [(7.5, 2), (1.0, 1)])
def test_first_self_attention_is_shared_under_guidance_only(
    pipeline: Pipeline, calls: list[dict[str, Any]], guidance_scale: float, videos: int
) -> None:
    pipeline(PROMPT, **SMALL, guidance_scale=guidance_scale)
    assert [call["videos"] for call in calls] == [videos] * 3
    assert [call["timesteps"] for call in calls] == [1] * 3
    assert [call["shared_input"] for call in calls] == [videos == 2] * 3


def test_tables_are_made_once_per_video(pipeline: Pipeline, calls: list[dict[str, Any]]) -> None:
    pipeline([PROMPT] * 2, **SMALL)
    for name in ("text", "places"):
        made = [id(call[name]) for call in calls]
        assert len(made) == 6
        assert made == [made[0]] * 3 + [made[3]] * 3


@pytest.mark.parametrize(
    ("sampler", "is_read"), [("ddim", False), ("euler", False), ("DDPM", True)]
)
def test_variance_is_computed_for_the_sampler_that_reads_it(
    pipeline: Pipeline, calls: list[dict[str, Any]], sampler: str, is_read: bool
) -> None:
    pipeline(PROMPT, **SMALL, sampler=sampler)
    assert [call["noise_only"] for call in calls] == [not is_read] * 3
