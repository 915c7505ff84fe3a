"""Models made from Latte are named; behind a prefix that nobody knows a Latte still is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_config, tiny_weights
from safetensors.torch import save_file

from latte_core.checkpoint import identify, load_transformer
from latte_core.checkpoint.recognition.families import Family
from latte_core.errors import UnknownArchitectureError, WeightMismatchError


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_r10_skip_dit_is_named_by_inspect_and_by_the_loader(tmp_path: Path, prefix: str) -> None:
    weights = {f"{prefix}{name}": value for name, value in tiny_weights().items()}
    weights[f"{prefix}skip_linears.0.linear.weight"] = torch.ones(2, 4)
    weights[f"{prefix}skip_norms.0.weight"] = torch.ones(4)
    path = tmp_path / "Latte-skip.safetensors"
    save_file(weights, path)

    assert identify(path).family is Family.SKIP_DIT
    with pytest.raises(UnknownArchitectureError, match="Skip-DiT"):
        load_transformer(path, tiny_config())


@pytest.mark.parametrize(
    "change",
    [
        {"use_rope": False},
        {"interpolation_scale_1d": 1.0},
        {"compress_kv_factor": 1},
        {"model_max_length": 300},
        {"sample_size": [64, 64]},
    ],
    ids=str,
)
def test_r10_open_sora_plan_is_named_by_inspect_and_by_the_loader(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    save_file(tiny_weights(), tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config(), **change}))

    assert identify(tmp_path).family is Family.OPEN_SORA_PLAN
    with pytest.raises(UnknownArchitectureError, match="Open-Sora-Plan"):
        load_transformer(tmp_path)


@pytest.mark.parametrize("prefix", ["net.", "student.model.", "denoiser.0.", "generator.module."])
def test_a_latte_behind_a_prefix_that_nobody_knows_is_read(tmp_path: Path, prefix: str) -> None:
    weights = tiny_weights()
    path = tmp_path / "x.safetensors"
    save_file({f"{prefix}{name}": value for name, value in weights.items()}, path)

    found = identify(path)
    model = load_transformer(path, tiny_config())

    assert (found.family, found.details["prefix"]) == (Family.LATTE_T2V, prefix)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_two_lattes_behind_unknown_prefixes_are_told_apart_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    pair = {
        f"{prefix}.{name}": value + 0
        for prefix in ("student", "teacher")
        for name, value in tiny_weights().items()
    }
    save_file(pair, path)

    with pytest.raises(WeightMismatchError, match=r"student\., teacher\."):
        identify(path)
    with pytest.raises(WeightMismatchError, match=r"student\., teacher\."):
        load_transformer(path, tiny_config())
