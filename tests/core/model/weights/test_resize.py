"""Other numbers of frames than 16, and other picture sizes, for sampling and for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.checkpoint import load_transformer, write_safetensors
from latte_core.config.latte import LatteConfig
from latte_core.errors import InvalidInputError
from latte_core.model.latte.transformer import Latte, fill_tables
from latte_core.model.weights.resize import resize

LABELS = torch.tensor([1, 4])
STEPS = torch.tensor([20, 700])


def clip(frames: int, rows: int = 8, columns: int = 6) -> Tensor:
    return torch.randn(2, 4, frames, rows, columns, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [1, 8, 24])
@pytest.mark.parametrize("variant", [0, 1, 2, 3, 4])
def test_other_lengths_are_trained_as_they_are(variant: int, frames: int) -> None:
    model: Any = tiny_latte(variant=variant, num_frames=16) if variant else tiny_model()
    given = LABELS if variant else torch.randn(2, 5, 24)
    out = model(clip(frames), STEPS, given)
    assert out.shape == (2, 8, frames, 8, 6)
    out.square().mean().backward()
    free = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in free.values())
    assert not {"pos_embed", "temp_embed"} & set(free)


@pytest.mark.parametrize("variant", [1, 3, 4])
def test_resized_model_is_one_built_for_that_length_with_the_same_weights(variant: int) -> None:
    model = tiny_latte(variant=variant)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(clip(24), STEPS, LABELS)
        resize(model, num_frames=24, input_size=12)
        assert torch.equal(model(clip(24), STEPS, LABELS), expected)
        large = model(clip(4, 12, 12), STEPS, LABELS)
        assert torch.equal(large, tiny_latte(variant=variant)(clip(4, 12, 12), STEPS, LABELS))

    built = Latte(model.config)
    fill_tables(built)
    found, tables = model.state_dict(), built.state_dict()
    assert list(found) == list(before)
    for name, value in found.items():
        source = tables if name in ("pos_embed", "temp_embed") else before
        assert torch.equal(value, source[name]), name
    assert found["temp_embed"].shape == (1, 24, 16) and found["pos_embed"].shape == (1, 36, 16)
    assert not model.temp_embed.requires_grad and not model.pos_embed.requires_grad


def test_resized_model_is_saved_and_loaded_for_its_length(tmp_path: Path) -> None:
    model = tiny_latte()
    resize(model, num_frames=24)
    write_safetensors(tmp_path / "a.safetensors", model.state_dict())
    loaded = load_transformer(tmp_path / "a.safetensors", {"num_heads": 2})
    assert isinstance(loaded.config, LatteConfig) and loaded.config == model.config
    assert loaded.config.num_frames == 24


def test_tables_that_stay_are_not_touched() -> None:
    model = tiny_latte()
    spatial, temporal = model.pos_embed, model.temp_embed
    resize(model, num_frames=3)
    assert model.pos_embed is spatial and model.temp_embed is temporal
    resize(model, input_size=12)
    assert model.temp_embed is temporal and model.config.input_size == 12


def test_rotary_model_has_no_temporal_table() -> None:
    model = tiny_latte(temporal_positions="rotary")
    resize(model, num_frames=24)
    assert model.config.num_frames == 24 and "temp_embed" not in model.state_dict()


@pytest.mark.parametrize(
    ("changes", "given"),
    [({"tubelet_size": 3}, {"num_frames": 8}), ({}, {"input_size": 9}), ({}, {"num_frames": 0})],
)
def test_numbers_that_do_not_fit_are_refused_and_nothing_changes(
    changes: dict[str, Any], given: dict[str, int]
) -> None:
    model = tiny_latte(**changes)
    config, table = model.config, model.temp_embed
    with pytest.raises(InvalidInputError):
        resize(model, **given)
    assert model.config == config and model.temp_embed is table
