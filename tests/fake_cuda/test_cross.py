"""Both pipelines on a card: every sampler, preset, precision, cache and variant with every other.

It takes minutes, so that the default suite leaves it out: `pytest tests/fake_cuda -m slow`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from latte_test_support.card_runs import CACHES, card_for, make_class, make_text

from latte_core.memory import PRESETS
from latte_core.sampling import SAMPLER_NAMES

pytestmark = [
    pytest.mark.fake_cuda,
    pytest.mark.slow,
    pytest.mark.stress,
    pytest.mark.usefixtures("tiny_tensors_are_streamed_too"),
]
PRECISIONS = (None, "int8", "fp8")
METHODS = ("ddim", "ddpm")
VARIANTS = (1, 2, 3, 4)


@pytest.mark.parametrize(("sampler", "memory"), list(product(SAMPLER_NAMES, PRESETS)))
def test_every_sampler_under_every_preset(text_folder: Path, sampler: str, memory: str) -> None:
    for precision, cache in product(
        PRECISIONS, (None, CACHES[SAMPLER_NAMES.index(sampler) % len(CACHES)])
    ):
        with card_for(memory) as card:
            make_text(
                text_folder,
                card,
                sampler=sampler,
                memory=memory,
                precision=precision,
                cache=cache,
                output="latents",
            )


@pytest.mark.parametrize(("memory", "precision"), list(product(PRESETS, PRECISIONS)))
def test_every_cache_under_every_preset_and_precision(
    text_folder: Path, memory: str, precision: str | None
) -> None:
    for cache in (None, *CACHES):
        with card_for(memory) as card:
            make_text(
                text_folder,
                card,
                memory=memory,
                precision=precision,
                cache=cache,
                output="latents",
            )


@pytest.mark.parametrize(("variant", "memory", "method"), list(product(VARIANTS, PRESETS, METHODS)))
def test_every_class_model_under_every_preset(
    class_folders: dict[int, Path], variant: int, memory: str, method: str
) -> None:
    for precision, cache in product(PRECISIONS, (None, *CACHES)):
        with card_for(memory) as card:
            make_class(
                class_folders[variant],
                card,
                memory=memory,
                method=method,
                precision=precision,
                cache=cache,
                class_labels=2,
                guidance_scale=4.0,
                output="latents",
            )
