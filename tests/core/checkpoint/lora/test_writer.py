"""LoRA files of our own training: whole, described, and read back by all that reads LoRAs."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import torch_bytes
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model, tiny_weights, write_transformer_folder
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latte_core.checkpoint import Family, identify, read_tensors, write_safetensors
from latte_core.checkpoint.lora.reader import merge_lora_file, read_lora
from latte_core.checkpoint.lora.writer import LoraBase, base_of, read_card, write_lora
from latte_core.errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    NonFiniteError,
    UnknownArchitectureError,
)
from latte_core.model.weights.lora import (
    LoraSettings,
    add_lora,
    load_lora_state,
    lora_state,
    remove_lora,
)

ALL: Any = ("attention", "cross_attention", "feed_forward")
SETTINGS = LoraSettings(rank=3, alpha=6.0, targets=ALL)
BASE = LoraBase(name="Latte-1", digest="0" * 64)
MODELS: dict[str, Any] = {
    "text": lambda: tiny_model(4),
    "class": lambda: tiny_latte(4),
    "parallel": lambda: tiny_latte(4, variant=4),
}
CALLS: dict[str, Any] = {
    "text": lambda: torch.ones(1, 5, 24),
    "class": lambda: torch.tensor([2]),
    "parallel": lambda: torch.tensor([2]),
}


def trained(model: Any, settings: LoraSettings = SETTINGS) -> dict[str, Tensor]:
    """Give a model adapters that are not zero, and return them."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for up in add_lora(model, settings, generator=draws)[1::2]:
            up.copy_(torch.randn(up.shape, generator=draws) * 0.2)
    return lora_state(model)


def write(path: Path, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    tensors = trained(tiny_model()) if tensors is None else tensors
    write_lora(path, tensors, **{"settings": SETTINGS, "base": BASE, "steps": 40, **changes})
    return path


def run(model: nn.Module, kind: str) -> Tensor:
    latents = torch.randn(1, 4, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(latents, torch.tensor([300]), CALLS[kind]())


@pytest.mark.parametrize("kind", MODELS)
def test_file_brings_the_trained_result_into_a_plain_model(tmp_path: Path, kind: str) -> None:
    model = MODELS[kind]()
    path = write(tmp_path / "motion.safetensors", trained(model))
    plain = MODELS[kind]()
    before = run(plain, kind)
    patch = merge_lora_file(plain, path)
    expected = run(model, kind)
    torch.testing.assert_close(run(plain, kind), expected, atol=1e-5, rtol=1e-5)
    assert (expected - before).abs().max() > 1e-2
    patch.remove()
    assert torch.equal(run(plain, kind), before)


@pytest.mark.parametrize("kind", MODELS)
def test_file_can_be_trained_on(tmp_path: Path, kind: str) -> None:
    tensors = trained(MODELS[kind]())
    path = write(tmp_path / "a.safetensors", tensors)
    fresh = MODELS[kind]()
    add_lora(fresh, SETTINGS, generator=torch.Generator().manual_seed(8))
    load_lora_state(fresh, read_lora(path, fresh.state_dict()).tensors)
    found = lora_state(fresh)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_names_and_numbers_are_those_that_comfyui_looks_for(tmp_path: Path) -> None:
    tensors = trained(tiny_model())
    path = write(tmp_path / "a.safetensors", tensors)
    layer = "diffusion_model.temporal_transformer_blocks.1.attn1.to_out.0"
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(tensors)
        assert file.get_slice(f"{layer}.lora_A.weight").get_shape() == [3, 16]
        assert file.get_slice(f"{layer}.lora_B.weight").get_shape() == [16, 3]
        assert file.get_tensor(f"{layer}.alpha").item() == 6.0
    assert identify(path).family is Family.LORA


def test_card_says_what_the_file_is(tmp_path: Path) -> None:
    words = ("a red circle", "jumping")
    path = write(tmp_path / "jumping shapes.safetensors", trained_words=words)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    card = read_card(path.name, metadata)
    software = card.pop("software")
    assert software.startswith("ComfyUI-Latte ")
    assert card == {
        "version": 1,
        "rank": 3,
        "alpha": 6.0,
        "blocks": "both",
        "targets": list(ALL),
        "dropout": 0.0,
        "base": {"name": "Latte-1", "architecture": "LatteT2V", "digest": "0" * 64},
        "steps": 40,
        "trained_words": list(words),
    }
    assert metadata["modelspec.title"] == "jumping shapes"
    assert metadata["modelspec.architecture"] == "lattet2v/lora"
    assert metadata["modelspec.trigger_phrase"] == "a red circle, jumping"
    assert len(metadata["latte_sha256"]) == 64
    assert read_card("other.safetensors", {}) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}'])
def test_unreadable_card_is_an_error(text: str) -> None:
    with pytest.raises(CorruptCheckpointError, match="a.safetensors"):
        read_card("a.safetensors", {"latte_lora": text})


def test_changed_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError):
        read_lora(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_types_are_written(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = trained(tiny_model())
    path = write(tmp_path / "a.safetensors", tensors, dtype=dtype)
    for name, value in read_tensors(path).tensors.items():
        assert value.dtype == (torch.float32 if name.endswith(".alpha") else dtype)
        assert torch.equal(value, tensors[name].to(value.dtype))


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (7e4, torch.float16)])
def test_broken_numbers_are_not_written(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensors = trained(tiny_model())
    tensors["diffusion_model.transformer_blocks.0.ff.net.2.lora_B.weight"][3, 1] = value
    with pytest.raises(NonFiniteError, match="blocks.0.ff.net.2.lora_B.weight holds NaN"):
        write(tmp_path / "a.safetensors", tensors, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def without(tensors: dict[str, Tensor], end: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.endswith(end)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {}, "there are none"),
        (lambda t: without(t, "blocks.1.attn1.to_q.lora_B.weight"), "to_q.lora_B.weight"),
        (lambda t: without(t, "blocks.1.attn1.to_q.alpha"), "attn1.to_q.alpha"),
        (lambda t: {**t, "stray": torch.ones(1)}, "stray"),
        (lambda t: {name[16:]: value for name, value in t.items()}, "transformer_blocks.0"),
    ],
)
def test_tensors_that_are_no_adapters_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"no whole adapters .*{words}"):
        write(tmp_path / "a.safetensors", change(trained(tiny_model())))


def test_settings_of_other_adapters_and_other_types_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    with pytest.raises(InvalidInputError, match="rank 3 and alpha 6, the settings say 4 and 6"):
        write(target, settings=LoraSettings(rank=4, alpha=6.0))
    with pytest.raises(InvalidInputError, match="alpha 6, the settings say 3 and 1"):
        write(target, settings=LoraSettings(rank=3, alpha=1.0))
    with pytest.raises(InvalidInputError, match="choose float32"):
        write(target, dtype=torch.float64)


def test_base_is_described_by_the_digest_of_its_weights(tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    write_safetensors(own, tiny_weights())
    with safe_open(own, "pt") as file:
        digest = file.metadata()["latte_sha256"]
    assert base_of(own) == LoraBase(name="own.safetensors", digest=digest)

    folder = write_transformer_folder(tmp_path / "Latte-1" / "transformer").parent
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert base_of(folder) == LoraBase(name="Latte-1", digest=digest)


def test_card_of_a_class_model_with_nothing_but_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", trained(tiny_latte()), base="class-starter")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    base = {"architecture": "Latte", "name": "class-starter", "digest": ""}
    assert read_card(path.name, metadata)["base"] == base
    assert metadata["modelspec.architecture"] == "latte/lora"
    assert "modelspec.trigger_phrase" not in metadata


PEFT_NAMES = {
    "peft": "base_model.model.{}.lora_{}.weight",
    "peft with adapter name": "base_model.model.{}.lora_{}.default.weight",
    "diffusers": "transformer.{}.lora_{}.weight",
}


def in_peft_names(tensors: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """Return adapters as PEFT spells them, without their alphas."""
    renamed: dict[str, Tensor] = {}
    for name, value in without(tensors, ".alpha").items():
        layer, part = name.removeprefix("diffusion_model.").split(".lora_")
        renamed[PEFT_NAMES[form].format(layer, part[0])] = value.contiguous()
    return renamed


@pytest.mark.parametrize("form", PEFT_NAMES)
@pytest.mark.parametrize("kind", MODELS)
def test_peft_files_become_what_we_write_and_do_the_same(
    tmp_path: Path, kind: str, form: str
) -> None:
    model = MODELS[kind]()
    tensors = trained(model)
    folder = tmp_path / "peft"
    folder.mkdir()
    renamed = in_peft_names(tensors, form)
    if form == "diffusers":
        settings = json.dumps({"transformer.lora_alpha": 6.0, "transformer.r": 3})
        save_file(renamed, folder / "lora.safetensors", {"lora_adapter_metadata": settings})
        path = folder / "lora.safetensors"
    else:
        save_file(renamed, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text('{"r": 3, "lora_alpha": 6}', encoding="utf-8")
        path = folder if form == "peft" else folder / "adapter_model.safetensors"

    read = read_lora(path, MODELS[kind]().state_dict())
    assert set(read.tensors) == set(tensors) and read.unmatched == ()
    assert all(torch.equal(read.tensors[name], value) for name, value in tensors.items())
    ours = write(tmp_path / "ours.safetensors", dict(read.tensors))
    plain = MODELS[kind]()
    merge_lora_file(plain, ours)
    expected = run(model, kind)
    torch.testing.assert_close(run(plain, kind), expected, atol=1e-5, rtol=1e-5)
    further = MODELS[kind]()
    add_lora(further, SETTINGS, generator=torch.Generator())
    load_lora_state(further, read.tensors)
    assert torch.equal(run(further, kind), expected)


def test_pickled_adapters_are_read_too(tmp_path: Path) -> None:
    model = tiny_model(4)
    tensors = trained(model)
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(torch_bytes(in_peft_names(tensors, "peft")))
    assert set(read_lora(path).tensors) == set(without(tensors, ".alpha"))


def test_use_of_a_file_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    settings = LoraSettings(rank=3, alpha=6.0, blocks="spatial")
    tensors = trained(model, settings)
    remove_lora(model)
    path = write(tmp_path / "look.safetensors", tensors, settings=settings)
    with caplog.at_level(logging.INFO, logger="latte"):
        merge_lora_file(model, path, 0.5)
    assert caplog.messages[-1] == (
        "look.safetensors: The LoRA changes 16 layers of Latte (spatial layers only). Strength 0.5."
    )
    save_file({**tensors, "stray": torch.ones(1)}, path)
    with caplog.at_level(logging.WARNING, logger="latte"):
        merge_lora_file(model, path)
    assert "1 names were not used: stray. Strength 1." in caplog.messages[-1]


def test_files_for_another_model_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    by_class = write(tmp_path / "class.safetensors", trained(tiny_latte()))
    with pytest.raises(UnknownArchitectureError, match="class.safetensors changes no layer"):
        merge_lora_file(model, by_class)
    wide = trained(tiny_model(num_attention_heads=4, cross_attention_dim=32))
    with pytest.raises(IncompatibleInputsError, match="32 rows in the LoRA and 16 in the model"):
        merge_lora_file(model, write(tmp_path / "wide.safetensors", wide))
    save_file(tiny_weights(), tmp_path / "model.safetensors")
    with pytest.raises(UnknownArchitectureError, match="cannot be used as a LoRA"):
        merge_lora_file(model, tmp_path / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
