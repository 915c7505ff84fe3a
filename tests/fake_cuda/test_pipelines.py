"""Both pipelines on a card: each sampler, preset, precision, cache and variant once."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.card_runs import (
    CACHES,
    STEPS,
    card_for,
    distance,
    make_class,
    make_text,
    require_quiet,
    waits_of,
)
from latte_test_support.tiny.pipeline import PROMPT, SMALL

from latte_core.memory import PRESETS
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.sampling import SAMPLER_NAMES

pytestmark = [
    pytest.mark.fake_cuda,
    pytest.mark.usefixtures("tiny_tensors_are_streamed_too"),
]
PRECISIONS = ("int8", "fp8", None)
METHODS = ("ddim", "ddpm")
EACH_ONCE = list(zip(SAMPLER_NAMES, cycle(PRESETS), cycle(CACHES), cycle(PRECISIONS), strict=False))
"""Each sampler, and in its company each of the shorter lists."""


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_text_pipeline_makes_the_latents_of_the_cpu(text_folder: Path, sampler: str) -> None:
    given: dict[str, Any] = {**SMALL, "num_steps": STEPS, "output": "latents", "sampler": sampler}
    expected = Pipeline.from_pretrained(text_folder, device="cpu")(PROMPT, **given).latents
    with card_for() as card:
        found = make_text(text_folder, card, sampler=sampler, output="latents").latents
        assert distance(found, expected) < 1e-3
        assert found.device.type == "cpu"


@pytest.mark.parametrize(("sampler", "memory", "cache", "precision"), EACH_ONCE)
def test_text_pipeline_mixes_no_devices(
    text_folder: Path, sampler: str, memory: str, cache: str, precision: str | None
) -> None:
    with card_for(memory) as card:
        made = make_text(
            text_folder, card, sampler=sampler, memory=memory, cache=cache, precision=precision
        )
        assert made.frames is not None
        assert bool(made.frames.isfinite().all())
        assert len(card.step_table()) > STEPS


@pytest.mark.parametrize("memory", PRESETS)
def test_step_of_text_pipeline_neither_copies_nor_waits(text_folder: Path, memory: str) -> None:
    with card_for(memory) as card:
        make_text(text_folder, card, memory=memory, output="latents")
    require_quiet(card)


@pytest.mark.parametrize("sampler", [name for name in SAMPLER_NAMES if name != "ddim"])
def test_step_of_sampler_neither_copies_nor_waits(text_folder: Path, sampler: str) -> None:
    with card_for() as card:
        make_text(text_folder, card, sampler=sampler, output="latents")
    require_quiet(card)


@pytest.mark.parametrize("cache", CACHES)
def test_step_of_cached_run_waits_once_at_most(text_folder: Path, cache: str) -> None:
    with card_for() as card:
        make_text(text_folder, card, cache=cache, output="latents")
    require_quiet(card, waits_of(cache))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_step_in_eight_bits_neither_copies_nor_waits(text_folder: Path, precision: str) -> None:
    with card_for() as card:
        make_text(text_folder, card, precision=precision, output="latents")
    require_quiet(card)


def test_text_pipeline_sums_in_float16(text_folder: Path) -> None:
    with card_for() as card:
        made = make_text(text_folder, card, precision="fp16-acc", output="latents")
    assert bool(made.latents.isfinite().all())


@pytest.mark.parametrize("vae", ["temporal", "image"])
def test_frames_leave_the_card_once(text_folder: Path, vae: str) -> None:
    with card_for() as card:
        made = make_text(text_folder, card, vae=vae)
    assert made.frames is not None
    assert made.frames.device.type == "cpu"
    last = card.step_table()[-1].step
    leaving = [one for one in card.copies if one.step == last and one.direction == "to host"]
    assert sum(one.num_bytes for one in leaving) <= 2 * made.frames.nbytes


@pytest.mark.parametrize("kind", ["text", "class"])
def test_graph_replays_what_the_model_computes(
    text_folder: Path, class_folders: dict[int, Path], kind: str
) -> None:
    made: dict[bool, torch.Tensor] = {}
    for is_graphed in (False, True):
        with card_for() as card:
            if kind == "text":
                found = make_text(text_folder, card, is_graphed=is_graphed, output="latents")
            else:
                found = make_class(
                    class_folders[1], card, is_graphed=is_graphed, class_labels=2, output="latents"
                )
            made[is_graphed] = found.latents.cpu()
    assert distance(made[True], made[False]) < 1e-5


@pytest.mark.parametrize("kind", ["text", "class"])
def test_step_of_graph_neither_copies_nor_waits(
    text_folder: Path, class_folders: dict[int, Path], kind: str
) -> None:
    with card_for() as card:
        if kind == "text":
            make_text(text_folder, card, is_graphed=True, output="latents")
        else:
            given: dict[str, Any] = {"class_labels": 2, "output": "latents"}
            make_class(class_folders[1], card, is_graphed=True, **given)
    require_quiet(card)


@pytest.mark.parametrize(
    ("variant", "method"), list(zip((1, 2, 3, 4), cycle(METHODS), strict=False))
)
def test_class_pipeline_makes_the_latents_of_the_cpu(
    class_folders: dict[int, Path], variant: int, method: str
) -> None:
    folder, given = class_folders[variant], {"method": method, "class_labels": 2}
    plain = ClassPipeline.from_pretrained(folder, device="cpu", dtype=torch.float32)
    expected = plain(**given, steps=str(STEPS), output="latents").latents
    with card_for() as card:
        found = make_class(folder, card, **given, output="latents").latents
        assert distance(found, expected) < 1e-3


@pytest.mark.parametrize(
    ("variant", "memory", "precision", "cache"),
    list(zip(cycle((1, 2, 3, 4)), cycle(PRESETS), cycle(PRECISIONS), CACHES, strict=False)),
)
def test_class_pipeline_mixes_no_devices(
    class_folders: dict[int, Path], variant: int, memory: str, precision: str | None, cache: str
) -> None:
    with card_for(memory) as card:
        made = make_class(
            class_folders[variant],
            card,
            memory=memory,
            precision=precision,
            cache=cache,
            class_labels=2,
            guidance_scale=4.0,
        )
        assert made.frames is not None
        assert bool(made.frames.isfinite().all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_step_of_class_pipeline_neither_copies_nor_waits(
    class_folders: dict[int, Path], variant: int, method: str
) -> None:
    given: dict[str, Any] = {"class_labels": 2, "guidance_scale": 4.0, "output": "latents"}
    with card_for() as card:
        make_class(class_folders[variant], card, method=method, **given)
    require_quiet(card)


@pytest.mark.parametrize("cache", CACHES)
def test_step_of_cached_class_run_waits_once_at_most(
    class_folders: dict[int, Path], cache: str
) -> None:
    with card_for() as card:
        make_class(class_folders[1], card, cache=cache, class_labels=2, output="latents")
    require_quiet(card, waits_of(cache))


@pytest.mark.parametrize("is_graphed", [False, True])
@pytest.mark.parametrize("changes", [{"num_frames": 5}, {"height": 96}])
def test_step_of_another_size_neither_copies_nor_waits(
    class_folders: dict[int, Path], changes: dict[str, int], is_graphed: bool
) -> None:
    given: dict[str, Any] = {"class_labels": 2, "output": "latents", **changes}
    with card_for() as card:
        make_class(class_folders[1], card, is_graphed=is_graphed, **given)
    require_quiet(card)
