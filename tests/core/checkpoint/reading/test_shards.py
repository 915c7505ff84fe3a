"""Shards are joined by an index in any spelling, or by the count in their own names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_config, tiny_weights
from safetensors.torch import save_file

from latte_core.checkpoint import load_transformer, read_tensors
from latte_core.errors import CheckpointError, CorruptCheckpointError

STEM = "diffusion_pytorch_model"


def write_shards(folder: Path, names: list[str], index: str | None, seed: int = 0) -> None:
    """Spread the tiny transformer over files of these names."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_config()))
    weights = tiny_weights(seed)
    places = {key: names[number % len(names)] for number, key in enumerate(weights)}
    for name in names:
        save_file(
            {key: value for key, value in weights.items() if places[key] == name}, folder / name
        )
    if index is not None:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def named(variant: str = "", count: int = 2, stem: str = STEM) -> list[str]:
    """Return the usual names of shards."""
    return [
        f"{stem}{variant}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)
    ]


def is_seed(folder: Path, seed: int) -> bool:
    """Return whether the model in `folder` has the weights of this seed."""
    found = load_transformer(folder).state_dict()
    return all(torch.equal(found[key], value) for key, value in tiny_weights(seed).items())


@pytest.mark.parametrize(
    ("variant", "index"),
    [
        (".fp16", f"{STEM}.safetensors.index.fp16.json"),
        (".fp16", f"{STEM}.fp16.safetensors.index.json"),
        (".bf16", f"{STEM}.safetensors.index.bf16.json"),
        (".non_ema", "model.safetensors.index.non_ema.json"),
        ("", f"{STEM}.safetensors.index.json"),
        ("", None),
        (".fp16", None),
    ],
)
def test_shards_of_any_variant_are_joined(tmp_path: Path, variant: str, index: str | None) -> None:
    write_shards(tmp_path / "transformer", named(variant), index)

    assert is_seed(tmp_path / "transformer", 0)


def test_the_plain_set_wins_and_a_whole_variant_wins_over_a_plain_set_that_is_not(
    tmp_path: Path,
) -> None:
    write_shards(tmp_path, named(".fp16"), f"{STEM}.safetensors.index.fp16.json", seed=1)
    write_shards(tmp_path, named(), f"{STEM}.safetensors.index.json", seed=0)
    assert is_seed(tmp_path, 0)

    (tmp_path / named()[1]).unlink()
    assert is_seed(tmp_path, 1)


@pytest.mark.parametrize("index", [f"{STEM}.safetensors.index.fp16.json", None])
def test_r07_a_folder_that_is_partly_downloaded_is_named_file_by_file(
    tmp_path: Path, index: str | None
) -> None:
    names = named(".fp16", count=3)
    write_shards(tmp_path, names, index)
    (tmp_path / names[1]).unlink()
    (tmp_path / names[2]).rename(tmp_path / f"{names[2]}.incomplete")

    with pytest.raises(CorruptCheckpointError) as caught:
        read_tensors(tmp_path)

    assert "lacks 2 of 3 weight files" in str(caught.value)
    assert all(name in str(caught.value) for name in names[1:])
    assert f"Not finished downloading: {names[2]}.incomplete." in str(caught.value)


def test_a_folder_whose_only_file_is_still_coming_says_so(tmp_path: Path) -> None:
    (tmp_path / f"{STEM}.safetensors.crdownload").write_bytes(b"x")

    with pytest.raises(CheckpointError, match="Not finished downloading: .*crdownload"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["..", "a\0b", "a/b", "c:d", "", 3, None, ["x"], {"a": 1}])
def test_an_index_that_names_what_is_no_file_beside_it_is_damaged(
    tmp_path: Path, name: object
) -> None:
    index = tmp_path / f"{STEM}.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))

    with pytest.raises(CorruptCheckpointError, match="no file beside it"):
        read_tensors(tmp_path)
