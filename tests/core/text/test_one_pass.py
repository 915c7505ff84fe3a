"""Several prompts in one pass over the layers, to the bits that each has alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from torch import Tensor

from latte_core.errors import NonFiniteError
from latte_core.text import cache, t5
from latte_core.text.cache import CachedEncoder, EmbeddingCache
from latte_core.text.one_pass import row_by_row
from latte_core.text.t5 import TextEncoder

LONG = " ".join(["fish"] * 200)  # no padding: transformers may leave its mask out
TEXTS = ["a red circle moving left", LONG, "", "blue fish"]


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def encoder(request: pytest.FixtureRequest, latte_folder: Path) -> TextEncoder:
    read = tiny_text.read_safetensors
    return TextEncoder.from_folder(latte_folder / "text_encoder", read=read, dtype=request.param)


def test_each_prompt_has_the_bits_that_it_has_alone(encoder: TextEncoder) -> None:
    alone = [encoder.encode([text]) for text in TEXTS]
    for found, expected in zip(encoder.encode_each(TEXTS), alone, strict=True):
        assert torch.equal(found.embeds, expected.embeds)
        assert torch.equal(found.mask, expected.mask)
        assert found.notices == expected.notices


def test_layers_are_entered_once_and_work_on_one_row_at_a_time(
    latte_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextEncoder.from_folder(
        latte_folder / "text_encoder", read=tiny_text.read_safetensors
    )
    entered: list[int] = []
    rows: list[int] = []

    def count(_: Any, given: tuple[Tensor, ...]) -> None:
        rows.append(len(given[0]))

    for index, block in enumerate(encoder.module.encoder.block):
        block.register_forward_pre_hook(lambda *_, index=index: entered.append(index))
        block.layer[0].SelfAttention.q.register_forward_pre_hook(count)
    monkeypatch.setattr(t5, "ROWS_AT_ONCE", 3)
    encoder.encode_each(TEXTS)
    assert entered == [0, 1, 0, 1]  # three prompts, then the fourth
    assert set(rows) == {1}
    assert len(rows) == 2 * len(TEXTS)


def test_encoder_is_as_before_after_an_error(latte_folder: Path) -> None:
    encoder = TextEncoder.from_folder(
        latte_folder / "text_encoder", read=tiny_text.read_safetensors
    )
    before = [dict(one.__dict__) for one in encoder.module.modules()]
    with pytest.raises(KeyboardInterrupt), row_by_row(encoder.module):
        raise KeyboardInterrupt
    assert [dict(one.__dict__) for one in encoder.module.modules()] == before
    with torch.no_grad():
        encoder.module.encoder.final_layer_norm.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        encoder.encode_each(["", "a fish"])
    assert [set(one.__dict__) for one in encoder.module.modules()] == [set(one) for one in before]


def test_cache_encodes_what_is_missing_in_one_call(encoder: TextEncoder) -> None:
    calls: list[int] = []
    encoder.module.register_forward_hook(lambda *_: calls.append(1))
    cached = CachedEncoder(EmbeddingCache(), {}, lambda: encoder)
    cached.encode(["blue fish"])
    found = cached.encode([*TEXTS, "a red circle moving left"])
    assert len(calls) == 2
    for row, text in enumerate([*TEXTS, TEXTS[0]]):
        assert torch.equal(found.embeds[row], encoder.encode([text]).embeds[0])


def test_cache_asks_other_encoders_for_one_prompt_at_a_time(encoder: TextEncoder) -> None:
    asked: list[int] = []

    class Other:
        def encode(self, texts: Any) -> Any:
            asked.append(len(texts))
            return encoder.encode(texts)

    cached = CachedEncoder(EmbeddingCache(), {}, Other)
    found = cached.encode(TEXTS)
    assert asked == [1] * len(TEXTS)
    assert torch.equal(found.embeds[1], encoder.encode([LONG]).embeds[0])


def test_prompts_that_were_encoded_are_kept_though_a_later_one_stops_the_run(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def stop(_: Any, __: Any, given: dict[str, Tensor]) -> None:
        passes.append(len(given["input_ids"]))
        if len(passes) == 2:
            raise KeyboardInterrupt

    encoder.module.register_forward_pre_hook(stop, with_kwargs=True)
    monkeypatch.setattr(cache, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(t5, "ROWS_AT_ONCE", 3)
    cached = CachedEncoder(EmbeddingCache(), {}, lambda: encoder)
    with pytest.raises(KeyboardInterrupt):
        cached.encode(TEXTS)
    cached.encode(TEXTS)
    assert passes == [3, 1, 1]
