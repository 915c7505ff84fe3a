"""Text encoders in fewer bits: in memory, in files, and in what is reckoned for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte
from latte_test_support.tiny.text import PROMPTS, WO
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latte_core.checkpoint import convert, dequantize, read_tensors
from latte_core.checkpoint.recognition.identify import Family, identify
from latte_core.cli.main import main
from latte_core.errors import CorruptCheckpointError, InvalidInputError, WeightMismatchError
from latte_core.memory.loans import BlockStream
from latte_core.pipelines.part_sizes import part_sizes
from latte_core.pipelines.text.encoder_folder import with_text_encoder
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.precision.layers import LAYERS, stored_format
from latte_core.precision.packing import pack
from latte_core.precision.quantize import quantize_text
from latte_core.text.four_bits import BYTES_PER_NUMBER, FourBitLinear, dequantise_groups
from latte_core.text.t5 import TextEncoder
from latte_core.text.tokenizer import PromptTokenizer

LAYER = WO.removesuffix(".weight")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    folder = tiny_text.write_spiece_folder(tmp_path_factory.mktemp("tokenizer") / "spiece")
    return PromptTokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("text") / "tiny")


def encoder(tokenizer: PromptTokenizer, **given: Any) -> TextEncoder:
    return TextEncoder.from_tensors(tiny_text.t5_tensors(), tokenizer, **given)


def wide_layers(module: nn.Module) -> list[Any]:
    return [one for name, one in module.named_modules() if LAYERS.fullmatch(name)]


def packed_file(path: Path) -> Path:
    plain = {name: one.contiguous() for name, one in tiny_text.t5_tensors().items()}
    save_file(plain, path.with_name("plain.safetensors"))
    convert(path.with_name("plain.safetensors"), path, quantize="int4")
    return path


def test_four_bits_give_the_features_of_the_weights_they_mean(tokenizer: PromptTokenizer) -> None:
    small, plain = encoder(tokenizer), encoder(tokenizer)
    done = quantize_text(small.module, "int4")
    assert 0.14 < done.bytes_after / done.bytes_before < 0.15  # of float32: 4.5 or 5 bits of 32
    for one, other in zip(wide_layers(small.module), wide_layers(plain.module), strict=True):
        assert isinstance(one, FourBitLinear)
        other.weight.copy_(one.unpacked(torch.float32))
    found, expected = small.encode(PROMPTS).embeds, plain.encode(PROMPTS).embeds
    assert torch.allclose(found, expected, atol=1e-5)
    kept = [one for one in small.module.modules() if isinstance(one, nn.Embedding)]
    assert kept and all(one.weight.dtype == torch.float32 for one in kept)


def test_four_bits_are_near_the_exact_features(tokenizer: PromptTokenizer) -> None:
    built = encoder(tokenizer)
    exact = built.encode(PROMPTS).embeds
    quantize_text(built.module, "int4")
    # features are of unit size; a number is off by a twelfth of its row's usual size
    assert 0.01 < float((built.encode(PROMPTS).embeds - exact).square().mean().sqrt()) < 0.4
    assert built.dtype == torch.float32


@pytest.mark.parametrize("name", ["fp8", "int8", "int4"])
def test_what_would_overflow_float16_works_in_float32(
    name: str, tokenizer: PromptTokenizer
) -> None:
    tensors = tiny_text.t5_tensors()
    tensors[WO] = tensors[WO] * 3e5
    built = TextEncoder.from_tensors(tensors, tokenizer, dtype=torch.float16)
    exact = built.encode(PROMPTS).embeds
    quantize_text(built.module, name)
    seen: list[torch.dtype] = []
    layer = built.module.get_submodule(LAYER)
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    found = built.encode(PROMPTS).embeds
    assert set(seen) == {torch.float32}
    assert bool(found.isfinite().all())
    assert float((found - exact).float().square().mean().sqrt()) < 0.4


def test_layers_are_given_up_one_by_one(tokenizer: PromptTokenizer) -> None:
    module = encoder(tokenizer).module
    whole = sum(one.numel() * one.element_size() for one in module.parameters())
    held: list[int] = []

    class Watched(type(module)):
        def set_submodule(self, target: str, one: nn.Module, strict: bool = False) -> None:
            super().set_submodule(target, one, strict)
            tensors = (*self.parameters(), *self.buffers())
            held.append(sum(each.numel() * each.element_size() for each in tensors))

    module.__class__ = Watched
    quantize_text(module, "int4")
    assert len(held) == len(wide_layers(module)) == 14
    assert held == sorted(held, reverse=True) and held[0] < whole


def test_a_file_of_four_bits_is_small_and_stays_packed(
    tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    path = packed_file(tmp_path / "t5_int4.safetensors")
    stored = load_file(path)
    assert identify(path).family is Family.T5_ENCODER
    mark = json.loads(stored[f"{LAYER}.comfy_quant"].numpy().tobytes())
    assert mark == {"format": "latte_int4"}
    built = TextEncoder.from_file(path, read=lambda one: read_tensors(one).tensors,
                                  tokenizer=tokenizer)  # fmt: skip
    other = encoder(tokenizer)
    quantize_text(other.module, "int4")
    assert stored_format(built.module) == "int4"
    for one, two in zip(wide_layers(built.module), wide_layers(other.module), strict=True):
        assert torch.equal(one.values, two.values) and torch.equal(one.scales, two.scales)
    assert torch.equal(built.encode(PROMPTS).embeds, other.encode(PROMPTS).embeds)


def test_a_file_of_four_bits_can_be_unpacked(tmp_path: Path) -> None:
    path = packed_file(tmp_path / "t5_int4.safetensors")
    stored = load_file(path)
    found = dequantize("t5.safetensors", stored, torch.float32)
    assert set(found) == set(tiny_text.t5_tensors())
    expected = dequantise_groups(stored[WO], stored[f"{LAYER}.weight_scale"], torch.float32)
    assert torch.equal(found[WO], expected)
    convert(path, tmp_path / "t5_fp16.safetensors", dtype=torch.float16)
    assert load_file(tmp_path / "t5_fp16.safetensors")[WO].dtype == torch.float16


def without_scale(packed: dict[str, Tensor]) -> None:
    del packed[f"{LAYER}.weight_scale"]


def without_half(packed: dict[str, Tensor]) -> None:
    packed[WO] = packed[WO][:, :16]


def misnamed(packed: dict[str, Tensor]) -> None:
    for ending in (".weight", ".weight_scale", ".comfy_quant"):
        packed[f"{LAYER}x{ending}"] = packed.pop(f"{LAYER}{ending}")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (without_scale, CorruptCheckpointError, "latte_int4, but its numbers or scales"),
        (without_half, CorruptCheckpointError, "latte_int4, but its numbers or scales"),
        (misnamed, WeightMismatchError, "wox is a packed layer"),
    ],
)
def test_damaged_four_bits_are_refused(
    damage: Any, error: type[Exception], words: str, tokenizer: PromptTokenizer
) -> None:
    packed = pack(tiny_text.t5_tensors(), "int4")
    damage(packed)
    with pytest.raises(error, match=words):
        TextEncoder.from_tensors(packed, tokenizer)


def test_four_bits_are_for_text_encoders_alone(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.safetensors"
    with pytest.raises(InvalidInputError, match="only text encoder can"):
        convert(folder / "transformer", target, quantize="int4")
    assert not target.exists()
    with pytest.raises(InvalidInputError, match="choose fp8, int8, fp16-acc"):
        Pipeline.from_pretrained(folder, device="cpu", precision="int4")


def test_blocks_in_four_bits_can_be_streamed(tokenizer: PromptTokenizer) -> None:
    built = encoder(tokenizer)
    quantize_text(built.module, "int4")
    exact = built.encode(PROMPTS).embeds
    groups = [[block] for block in built.module.encoder.block]
    loan = BlockStream(built.module, groups, torch.device("cpu"), smallest=16)
    streamed = built.encode(PROMPTS).embeds
    assert loan.num_loads >= 2
    loan.end()
    assert torch.equal(streamed, exact)


def test_pipelines_take_four_bits_from_full_weights_and_from_a_packed_file(
    folder: Path, tmp_path: Path
) -> None:
    full = Pipeline.from_pretrained(folder, device="cpu", text_precision="int4")
    found = full(PROMPT, **SMALL, output="latents").latents
    assert stored_format(full.parts.text_encoder().module) == "int4"
    other = write_tiny_latte(tmp_path / "packed")
    weights = next((other / "text_encoder").glob("*.safetensors"))
    convert(other / "text_encoder", tmp_path / "small.safetensors", quantize="int4",
            kind="text_encoder")  # fmt: skip
    (tmp_path / "small.safetensors").replace(weights)
    for given in (None, "int4"):
        packed = Pipeline.from_pretrained(other, device="cpu", text_precision=given)
        assert torch.equal(packed(PROMPT, **SMALL, output="latents").latents, found)
    with pytest.raises(InvalidInputError, match="stored as int4 already"):
        Pipeline.from_pretrained(other, device="cpu", text_precision="int8").parts.text_encoder()


def test_the_reckoned_bytes_are_those_that_are_held(
    folder: Path, tokenizer: PromptTokenizer
) -> None:
    transformer = Pipeline.from_pretrained(folder, device="cpu").parts.transformer
    built = encoder(tokenizer, dtype=torch.bfloat16)
    words = built.module.shared.weight.numel()

    def reckoned(name: str | None) -> int:
        others = part_sizes(
            transformer, vae_folders=[], dtype=torch.bfloat16, num_frames=2, height=32, width=32
        )
        sizes = with_text_encoder(others, folder / "text_encoder", torch.bfloat16, name)
        assert sizes.text_rest == 2 * words
        return sizes.text

    elements = sum(one.numel() for one in built.module.parameters())
    layers = [one for one in built.module.modules() if isinstance(one, nn.Linear)]
    wide = sum(one.weight.numel() for one in layers)  # the rest: words, norms, places
    assert reckoned(None) == 2 * elements
    assert reckoned("int8") == 2 * (elements - wide) + wide
    assert reckoned("int4") == int(2 * (elements - wide) + BYTES_PER_NUMBER * wide)
    quantize_text(built.module, "int4")
    held = (*built.module.parameters(), *built.module.buffers())
    actual = sum(one.numel() * one.element_size() for one in held)
    # the groups of 16 of the tiny feed-forward layers, and norms in 16 bits
    assert abs(reckoned("int4") - actual) < 0.03 * actual


def test_the_command_line_offers_four_bits(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.mp4"
    given = ["sample", "--model", str(folder), "--prompt", PROMPT, "--steps", "2", "--frames", "2"]
    given += ["--device", "cpu", "--text-precision", "int4", "--output", str(target)]
    assert main(given) == 0
    assert b'"text_precision": "int4"' in target.read_bytes()
    small = tmp_path / "t5.safetensors"
    text = ["convert", str(folder), str(small), "--part", "text_encoder", "--quantize", "int4"]
    assert main(text) == 0
    assert "Wrote t5.safetensors" in capsys.readouterr().out
