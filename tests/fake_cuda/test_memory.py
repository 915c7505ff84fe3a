"""Presets on a card: the same bits, one pass over the text encoder, and what copies come from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_fake_cuda import fake_cuda
from latte_test_support.card_runs import card_for
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.pipeline import PROMPT, SMALL
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.acceleration.plans import Broadcast
from latte_core.acceleration.settings import parse_cache
from latte_core.checkpoint.lora.writer import write_lora
from latte_core.errors import IncompatibleInputsError
from latte_core.kernels.choice import KernelSet, KernelUse
from latte_core.memory import PRESETS, BlockStream, MemoryPlan, block_groups, pinned
from latte_core.model.weights.lora import LoraSettings, add_lora, lora_state
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.part_sizes import check_room_for_cache
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.text.cache import CachedEncoder, EmbeddingCache
from latte_core.text.t5 import TextEncoder
from latte_core.types import VideoShape

pytestmark = [pytest.mark.fake_cuda]
ALL_STREAMED = MemoryPlan(name="own", text="streamed", transformer="streamed", vae="in turn")
SMALLEST = 200  # elements of a tensor that is streamed: matrices of the tiny models, not tables
WORTH = 64  # bytes of a tensor that passes through a buffer
QUICK: dict[str, Any] = {**SMALL, "num_steps": 2}


@pytest.fixture(autouse=True)
def tiny_tensors_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BlockStream.__init__.__kwdefaults__, "smallest", SMALLEST)
    monkeypatch.setattr(pinned, "WORTH", WORTH)
    monkeypatch.setattr(pinned, "BUFFER_BYTES", 2**12)


def open_with(folder: Path, memory: str | MemoryPlan, **options: Any) -> Pipeline:
    options = {"dtype": torch.float32, **options}
    pipeline = Pipeline.from_pretrained(folder, device="cuda", memory=memory, **options)
    pipeline.use_kernels(False)
    return pipeline


def frames_of(pipeline: Any, *what: Any, **options: Any) -> Tensor:
    frames = pipeline(*what, **options).frames
    assert frames is not None
    return frames


@pytest.fixture(scope="module")
def expected(text_folder: Path) -> Tensor:
    """What everything on the card makes."""
    with card_for():
        return frames_of(open_with(text_folder, "24"), PROMPT, **QUICK)


@pytest.mark.parametrize("memory", [*list(PRESETS)[1:], ALL_STREAMED], ids=str)
def test_every_preset_makes_the_same_bits_from_pinned_memory(
    text_folder: Path, expected: Tensor, memory: str | MemoryPlan
) -> None:
    with card_for() as card:
        pipeline = open_with(text_folder, memory)
        assert torch.equal(frames_of(pipeline, PROMPT, **QUICK), expected)
        own = [one for one in card.copies if "/memory/" in one.line]
    assert own
    assert max(one.num_bytes for one in own if one.is_pageable) < WORTH
    assert all(one.is_non_blocking for one in own)


def test_class_model_that_is_streamed_makes_the_same_bits(class_folders: dict[int, Path]) -> None:
    made: list[Tensor] = []
    with card_for():
        for memory in ("24", "4"):
            pipeline = ClassPipeline.from_pretrained(class_folders[1], device="cuda", memory=memory)
            pipeline.use_kernels(False)
            made.append(pipeline(1, steps="1", output="latents").latents)
    assert torch.equal(made[0], made[1])


@torch.no_grad()
def test_kept_blocks_cross_in_one_piece_or_two_and_the_host_never_waits() -> None:
    layers = 5
    model: Any = tiny_model(num_layers=layers)
    model.kernels = KernelSet(KernelUse.NEVER)
    draws = torch.Generator().manual_seed(1)
    given = torch.randn(2, 4, 3, 4, 6, generator=draws), torch.randn(2, 5, 24, generator=draws)
    with card_for() as card:
        how: dict[str, Any] = {"pinned": pinned.PinnedMemory(), "keeps": True}
        stream = BlockStream(model, block_groups(model), torch.device("cuda"), **how)
        latents, context = (one.to("cuda") for one in given)
        text, time = model.project_text(context), torch.tensor([500], device="cuda")
        places = model.place_tables(latents.shape, latents.device)
        model(latents, time, text=text, places=places)
        card.next_step()
        model(latents, time, text=text, places=places)
        copies = [one for one in card.copies if one.step == 1]
        waits = [one for one in card.read_backs if one.step == 1]
        stream.end()
    assert layers <= len(copies) <= 2 * layers
    assert not any(one.is_pageable for one in copies)
    assert waits == []


def test_streamed_text_encoder_passes_once_for_all_prompts(tmp_path: Path) -> None:
    layers = 5
    folder = tiny_text.write_text_folder(tmp_path / "text_encoder", num_layers=layers)
    spiece = tiny_text.write_spiece_folder(tmp_path / "spiece")
    tokenizer = tiny_text.write_json_folder(spiece, tmp_path / "tokenizer")
    read = tiny_text.read_safetensors
    encoder = TextEncoder.from_folder(folder, read=read, tokenizer=tokenizer)
    with card_for():
        groups, memory = block_groups(encoder.module), pinned.PinnedMemory()
        expected = [encoder.encode([text]).embeds for text in (PROMPT, "", "two fish")]
        stream = BlockStream(encoder.module, groups, torch.device("cuda"), pinned=memory)
        cached = CachedEncoder(EmbeddingCache(), {}, lambda: encoder)
        found = cached.encode([PROMPT, "", "two fish"]).embeds
        assert stream.num_loads == layers
        stream.end()
    assert (found - torch.cat(expected)).abs().max() <= 1e-5


def test_run_without_pinned_memory_has_the_same_bits_and_one_notice(
    text_folder: Path,
    expected: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = torch.empty

    def empty(*size: Any, **options: Any) -> Tensor:
        if options.get("pin_memory"):
            raise RuntimeError("CUDA error: operation not supported")
        return given(*size, **options)

    with card_for():
        monkeypatch.setattr(torch, "empty", empty)
        pipeline = open_with(text_folder, ALL_STREAMED)
        with caplog.at_level(logging.WARNING, "latte"):
            assert torch.equal(frames_of(pipeline, PROMPT, **QUICK), expected)
    assert [record.getMessage() for record in caplog.records] == [
        "No page-locked memory is left (CUDA error: operation not supported), so weights go to the "
        "device from ordinary memory. That takes longer and changes nothing else."
    ]


def test_lora_reaches_weights_that_are_kept_in_pinned_memory(
    text_folder: Path, tmp_path: Path
) -> None:
    settings = LoraSettings(rank=2, alpha=2.0, targets=("attention",))
    model: Any = Pipeline.from_pretrained(text_folder, device="cpu").parts.transformer
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for up in add_lora(model, settings, generator=draws)[1::2]:
            up.copy_(torch.randn(up.shape, generator=draws))
    path = tmp_path / "lora.safetensors"
    write_lora(path, lora_state(model), settings=settings, base="tiny", steps=1)
    quick = {**QUICK, "num_steps": 1, "output": "latents"}
    with card_for():
        pipeline = open_with(text_folder, ALL_STREAMED)
        plain = pipeline(PROMPT, **quick).latents
        patch = pipeline.load_lora(path)
        found = pipeline(PROMPT, **quick).latents
        patch.remove()
        assert torch.equal(pipeline(PROMPT, **quick).latents, plain)
        whole = open_with(text_folder, "24")
        whole.load_lora(path)
        assert torch.equal(whole(PROMPT, **quick).latents, found)
    assert not torch.equal(found, plain)


KEPT = 3 * 2 * 16  # bytes in float32 of a token, in three kinds of attention: 2 layers, width 16


@pytest.mark.parametrize(
    ("spare", "said"), [(-100, "refused"), (100, "mentioned"), (10**7, "nothing")]
)
def test_attention_broadcast_is_counted_against_what_the_card_has(
    text_folder: Path, spare: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = Pipeline.from_pretrained(text_folder, device="cpu").parts.transformer
    weights = sum(one.nbytes for one in model.parameters())
    tokens = 2 * QUICK["num_frames"] * (QUICK["height"] // 16) * (QUICK["width"] // 16)
    kept = Broadcast().kept_bytes(model, tokens, 4)
    assert kept == KEPT * 4 * tokens
    cache = parse_cache("pab")
    with fake_cuda(total_memory=2 * weights + 2 * kept + 10**7) as card:
        pipeline = open_with(text_folder, "24", dtype=torch.float32)
        card.memory.total = weights + kept + spare
        shape = VideoShape(
            num_frames=QUICK["num_frames"], height=QUICK["height"], width=QUICK["width"]
        )
        if said == "refused":
            with pytest.raises(
                IncompatibleInputsError, match="pab:2/3/6 keeps .* attention results"
            ):
                pipeline(PROMPT, **QUICK, cache=cache)
            card.memory.total = 10**9
            pipeline(PROMPT, **QUICK, cache=parse_cache("balanced"))
            return
        with caplog.at_level(logging.WARNING, "latte"):
            check_room_for_cache(cache, pipeline.parts, shape, 2)
        assert bool(caplog.records) is (said == "mentioned")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 6), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_parts_run_in_the_half_type_that_the_hardware_has(
    text_folder: Path, capability: tuple[int, int], expected: torch.dtype
) -> None:
    with card_for(capability=capability):
        assert torch.cuda.is_bf16_supported()  # Turing too: it emulates it
        pipeline = open_with(text_folder, "24", dtype=None)
        model: Any = pipeline.parts.transformer
        found = {
            model.pos_embed.proj.weight.dtype,
            pipeline.parts.text_encoder().dtype,
            pipeline.parts.vae("temporal").dtype,
        }
    assert found == {expected}
