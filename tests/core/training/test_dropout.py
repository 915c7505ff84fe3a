"""Dropout of adapters: a function of the seed and the example's number, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.training import CLASS_MODEL, TEXT_MODEL, tiny_config, write_set
from torch import Tensor

from latte_core.config.t2v import LatteT2VConfig
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.dropout import Masks
from latte_core.model.weights.lora import LoraSettings, add_lora
from latte_core.training.run import train
from latte_core.training.run_folder import RunFolder

LORA = {
    "rank": 2,
    "alpha": 2.0,
    "targets": ["attention", "cross_attention", "feed_forward"],
    "dropout": 0.5,
}
CLASS_LORA = {**LORA, "targets": ["attention", "feed_forward"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    write_set(folder)
    for name, model in (("text", TEXT_MODEL), ("class", CLASS_MODEL)):
        config = tiny_config(folder, folder.parent / name, architecture=model, num_steps=8)
        train(config, device="cpu")
    return folder


def adapt(data: Path, output: Path, base: str = "text", **changes: Any) -> Mapping[str, Tensor]:
    """Train an adapter and return it."""
    values = {"architecture": None, "model": str(data.parent / base / "result")}
    lora = LORA if base == "text" else CLASS_LORA
    train(tiny_config(data, output, **{**values, "lora": lora, **changes}), device="cpu")
    state = RunFolder(output).load()
    assert state is not None
    weights: Mapping[str, Tensor] = state["model"]
    return weights


def far(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


@pytest.mark.parametrize(("base", "images"), [("text", 0), ("text", 2), ("class", 2)])
def test_a_run_with_dropout_is_the_same_again_and_when_it_was_stopped(
    base: str, images: int, data: Path, tmp_path: Path
) -> None:
    first = adapt(data, tmp_path / "first", base, num_images=images)
    torch.manual_seed(99)
    assert far(first, adapt(data, tmp_path / "second", base, num_images=images)) == 0
    adapt(data, tmp_path / "stopped", base, num_images=images, num_steps=3)
    torch.rand(7)
    assert far(first, adapt(data, tmp_path / "stopped", base, num_images=images)) == 0
    again = adapt(data, tmp_path / "again", base, num_images=images, checkpoint_activations=True)
    assert far(first, again) == 0


def test_parts_of_a_batch_have_the_masks_of_the_whole(data: Path, tmp_path: Path) -> None:
    slow = {"learning_rate": 1e-4, "num_images": 2}
    whole = adapt(data, tmp_path / "whole", **slow)
    parts = adapt(data, tmp_path / "parts", micro_batch=1, **slow)
    assert far(whole, parts) < 1e-5


def test_dropout_and_its_seed_change_what_is_learned(data: Path, tmp_path: Path) -> None:
    some = adapt(data, tmp_path / "some")
    none = adapt(data, tmp_path / "none", lora={**LORA, "dropout": 0.0})
    assert far(some, none) > 0


def masks_of(numbers: tuple[int, ...], seed: int = 5) -> tuple[Masks, list[str]]:
    model = LatteT2V.from_config(LatteT2VConfig.from_dict(TEXT_MODEL))
    settings = LoraSettings(rank=2, dropout=0.3)
    add_lora(model, settings, generator=torch.Generator().manual_seed(0))
    masks = Masks(model, seed)
    masks.numbers = numbers
    return masks, ["a", "b"]


def test_a_mask_drops_its_share_and_keeps_the_mean() -> None:
    masks, _ = masks_of((3, 4))
    made = masks.drop("layer", 0.3, torch.ones(8, 500, 50))
    assert float((made == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(made.mean()) == pytest.approx(1, abs=0.01)
    assert made.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]


def test_masks_of_examples_layers_rows_and_seeds_differ() -> None:
    ones = torch.ones(4, 64, 64)
    masks, (one, other) = masks_of((3, 4))
    made = masks.drop(one, 0.5, ones)
    different = [
        *made,
        *masks.drop(other, 0.5, ones),
        *masks_of((3, 4), seed=6)[0].drop(one, 0.5, ones),
    ]
    for number, first in enumerate(different):
        for second in different[:number]:
            assert float((first == second).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_a_mask_depends_on_neither_batch_nor_padding() -> None:
    ones = torch.ones(4, 20, 16)
    both = masks_of((3, 4))[0].drop("layer", 0.5, ones)
    alone = masks_of((4,))[0].drop("layer", 0.5, ones[:2, :12])
    assert torch.equal(both[2:, :12], alone)
