"""Videos that are made together: what they are, in how many calls, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import write_tiny_latte
from torch import Tensor

from latte_core.acceleration.settings import parse_cache, with_options
from latte_core.errors import InvalidInputError
from latte_core.pipelines.classes import pipeline as class_pipeline
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.text import pipeline
from latte_core.pipelines.text.pipeline import Pipeline

PROMPTS = ["a red circle", "a blue square that moves slowly to the left and back", "x"]
SEEDS = [5, 6, 7]
TEXT = {"num_frames": 2, "height": 32, "width": 48, "num_steps": 3, "output": "latents"}
CLASS = {"num_frames": 2, "height": 32, "width": 48, "output": "latents"}
ROUNDING = 1e-5  # of the largest number; padded text and larger products add in another order


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.from_pretrained(write_tiny_latte(tmp_path_factory.mktemp("latte")))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> ClassPipeline:
    folder = write_class_folder(tmp_path_factory.mktemp("classes") / "model")
    return ClassPipeline.from_pretrained(folder)


def calls_of(model: Any, make: Callable[[], Tensor]) -> tuple[Tensor, list[int]]:
    """Return what is made, and the rows of each model call."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        return make(), rows
    finally:
        handle.remove()


def differ(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a part of the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"sampler": "euler_ancestral"}])
def test_prompts_of_any_length_made_together_are_those_made_alone(
    text: Pipeline, options: dict[str, Any]
) -> None:
    def make(batch_size: int) -> Tensor:
        return text(PROMPTS, seed=SEEDS, batch_size=batch_size, **TEXT, **options).latents

    halves = 1 if "guidance_scale" in options else 2
    alone, rows = calls_of(text.parts.transformer, lambda: make(1))
    assert rows == [halves] * 9
    together, rows = calls_of(text.parts.transformer, lambda: make(2))
    assert rows == [2 * halves] * 3 + [halves] * 3
    assert differ(together, alone) <= ROUNDING


def test_cache_of_a_batch_leaves_out_the_negatives_of_all(text: Pipeline) -> None:
    cache = with_options(parse_cache("none"), forecast=None, guidance=True)

    def make(batch_size: int) -> Tensor:
        options = {**TEXT, "num_steps": 8, "cache": cache}
        return text(PROMPTS[:2], seed=SEEDS[:2], batch_size=batch_size, **options).latents

    together, rows = calls_of(text.parts.transformer, lambda: make(2))
    assert set(rows) == {2, 4}
    assert differ(together, make(1)) <= ROUNDING


@pytest.mark.parametrize("options", [{"guidance_scale": 4.0}, {"method": "ddim"}])
def test_classes_made_together_are_those_made_alone(
    classes: ClassPipeline, options: dict[str, Any]
) -> None:
    def make(batch_size: int) -> Tensor:
        given = {**CLASS, "steps": "3", **options}
        return classes([0, 2, 1], seed=SEEDS, batch_size=batch_size, **given).latents

    together, rows = calls_of(classes.parts.transformer, lambda: make(2))
    assert len(rows) == 6
    assert differ(together, make(1)) <= ROUNDING


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 1), (2, 2), (8, 3)])
def test_room_for_a_cache_is_looked_for_by_the_videos_of_a_call(
    text: Pipeline,
    classes: ClassPipeline,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    rows: int,
) -> None:
    asked: list[int] = []

    def stop(_cache: object, _parts: object, _shape: object, videos: int) -> None:
        asked.append(videos)
        raise KeyboardInterrupt

    for home, make in (
        (pipeline, lambda **more: text(PROMPTS, **TEXT, **more)),
        (class_pipeline, lambda **more: classes([0, 2, 1], steps="3", **CLASS, **more)),
    ):
        monkeypatch.setattr(home, "check_room_for_cache", stop)
        for guidance in (1.0, 4.0):
            with pytest.raises(KeyboardInterrupt):
                make(guidance_scale=guidance, batch_size=batch_size)
    with pytest.raises(KeyboardInterrupt):
        classes([0, 2, 1], **CLASS, noise_order="reference", batch_size=batch_size)
    assert asked == [rows, 2 * rows, rows, 2 * rows, 6]


@pytest.mark.parametrize("batch_size", [0, 65, True])
def test_batch_of_no_or_too_many_videos_is_refused(
    text: Pipeline, classes: ClassPipeline, batch_size: int
) -> None:
    with pytest.raises(InvalidInputError, match="batch_size"):
        text("x", batch_size=batch_size, **TEXT)
    with pytest.raises(InvalidInputError, match="batch_size"):
        classes(0, batch_size=batch_size, **CLASS)
