"""What a folder's headers say of the memory that its text encoder takes, weight by weight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.t2v import tiny_model
from safetensors.torch import save_file

from latte_core.acceleration import CacheSettings
from latte_core.checkpoint.reading.reader import read_tensors
from latte_core.memory import PRESETS, PartSizes, stage_bytes
from latte_core.pipelines.part_sizes import part_sizes
from latte_core.pipelines.text import encoder_folder
from latte_core.pipelines.text.encoder_folder import text_encoder_bytes, with_text_encoder
from latte_core.precision.quantize import quantize_text
from latte_core.text.t5 import TextEncoder

ROOT = Path(__file__).resolve().parents[3]
# T5-XXL, the transformer and the larger VAE of Latte-1
WIDTH, INNER, LAYERS, WORDS = 4096, 10240, 24, 32128
TRANSFORMER, VAE = 1_057_636_136, 97_700_000  # numbers
GB = 10**9


def bytes_of(module: Any) -> int:
    tensors = {id(one): one for one in (*module.parameters(), *module.buffers())}
    return sum(one.nbytes for one in tensors.values())


def opened(folder: Path, dtype: torch.dtype) -> Any:
    tokenizer = folder.parent / "tokenizer"
    if not tokenizer.exists():
        spiece = tiny_text.write_spiece_folder(folder.parent / "spiece")
        tiny_text.write_json_folder(spiece, tokenizer)
    read: Any = lambda path: read_tensors(path).tensors  # noqa: E731
    return TextEncoder.from_folder(folder, read=read, dtype=dtype).module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        # every matrix has the size of the table of words
        {"d_model": 256, "vocab_size": 256, "d_ff": 256, "num_heads": 4, "d_kv": 64},
    ],
    ids=["plain", "square"],
)
def test_text_encoder_is_counted_to_the_byte(
    tmp_path: Path, dtype: torch.dtype, shape: dict[str, int]
) -> None:
    folder = tiny_text.write_text_folder(tmp_path / "text_encoder", **shape)
    module = opened(folder, dtype)
    table, rest = text_encoder_bytes(folder, dtype)
    assert table == module.shared.weight.nbytes
    assert table + rest == bytes_of(module)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_layers_in_fewer_bits_are_counted_with_what_stays(
    tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    folder = tiny_text.write_text_folder(tmp_path / "text_encoder", d_ff=128)
    module = opened(folder, dtype)
    quantize_text(module, precision)
    table, rest = text_encoder_bytes(folder, dtype, precision)
    assert table + rest == pytest.approx(bytes_of(module), rel=0.08)  # scales of short rows


def test_text_encoder_is_added_to_the_sizes_of_the_other_parts(tmp_path: Path) -> None:
    dtype = torch.bfloat16
    size: dict[str, Any] = {"num_frames": 2, "height": 32, "width": 48}
    others = part_sizes(tiny_model(), vae_folders=[], dtype=dtype, **size)
    folder = tiny_text.write_text_folder(tmp_path / "text_encoder", num_layers=3)
    table, rest = text_encoder_bytes(folder, dtype)
    expected = replace(others, text=table + rest, text_blocks=3, text_rest=table)
    assert with_text_encoder(others, folder, dtype) == expected
    assert with_text_encoder(others, tmp_path / "missing", dtype) == others


def test_copies_decoder_and_head_that_a_file_may_hold_are_not_counted(tmp_path: Path) -> None:
    folder = tiny_text.write_text_folder(tmp_path / "text_encoder")
    expected = text_encoder_bytes(folder, torch.float16)
    tensors = tiny_text.read_safetensors(folder)
    table = tensors["shared.weight"]
    more = {
        "encoder.embed_tokens.weight": table.clone(),
        "lm_head.weight": table.clone(),
        "decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(8, 8),
    }
    save_file({**tensors, **more}, str(folder / "model.safetensors"))
    assert text_encoder_bytes(folder, torch.float16) == expected


def header_of_t5_xxl(_: Path) -> Any:
    """Return the names and sizes of the published encoder."""
    sizes: dict[str, tuple[int, ...]] = {"shared.weight": (WORDS, WIDTH)}
    for index in range(LAYERS):
        attention, forward = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        sizes |= {f"{attention}.SelfAttention.{name}.weight": (WIDTH, WIDTH) for name in "qkvo"}
        sizes |= {f"{part}.layer_norm.weight": (WIDTH,) for part in (attention, forward)}
        names = {"wi_0": (INNER, WIDTH), "wi_1": (INNER, WIDTH), "wo": (WIDTH, INNER)}
        sizes |= {f"{forward}.DenseReluDense.{one}.weight": size for one, size in names.items()}
    infos = {
        name: SimpleNamespace(
            shape=size, num_elements=torch.Size(size).numel(), dtype=torch.float16
        )
        for name, size in sizes.items()
    }
    return SimpleNamespace(tensors=infos)


@pytest.fixture
def latte_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return sizes of Latte-1 in a dtype."""
    monkeypatch.setattr(encoder_folder, "read_header", header_of_t5_xxl)

    def sizes(dtype: torch.dtype, precision: str | None = None) -> PartSizes:
        table, rest = text_encoder_bytes(tmp_path, dtype, precision)
        return PartSizes(
            text=table + rest,
            transformer=2 * TRANSFORMER,
            vae=2 * VAE,
            text_blocks=LAYERS,
            transformer_blocks=28,
            text_rest=table,
            tokens=2 * 16 * 1024,
            width=1152,
            itemsize=2,
            num_frames=16,
            height=512,
            frame_width=512,
        )

    return sizes


def peaks(sizes: PartSizes) -> dict[str, str]:
    return {
        name: f"{max(stage_bytes(plan, sizes).values()) / GB:.1f}" for name, plan in PRESETS.items()
    }


def test_float16_keeps_two_gigabytes_of_t5_in_float32(latte_1: Any) -> None:
    plain, wider = latte_1(torch.bfloat16), latte_1(torch.float16)
    assert plain.text == pytest.approx(9.52 * GB, rel=0.001)
    assert wider.text - plain.text == 2 * LAYERS * WIDTH * INNER
    assert peaks(plain)["12"] == "9.8"
    assert peaks(wider)["12"] == "11.8"


def test_page_says_what_is_reckoned(latte_1: Any) -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    plain, wider = peaks(latte_1(torch.bfloat16)), peaks(latte_1(torch.float16))
    for name in PRESETS:
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert any(row.endswith(f"| {plain[name]} GB | {wider[name]} GB |") for row in rows)
    for precision in ("int8", "int4"):
        size = latte_1(torch.bfloat16, precision).text
        assert f"{size / GB:.1f} GB in `{precision}`" in page


def test_sizes_of_a_run_hold_what_its_cache_keeps() -> None:
    size: dict[str, Any] = {"num_frames": 2, "height": 32, "width": 48}
    cache = CacheSettings(policy="pab")
    model, dtype = tiny_model(), torch.float32
    plain = part_sizes(model, vae_folders=[], dtype=dtype, **size)
    kept = part_sizes(model, vae_folders=[], dtype=dtype, **size, cache=cache)
    plan = PRESETS["12"]
    assert plain.kept == 0
    assert kept.kept > 0
    before, after = stage_bytes(plan, plain), stage_bytes(plan, kept)
    assert after["sampling"] - before["sampling"] == kept.kept
    assert after["decoding"] == before["decoding"]
