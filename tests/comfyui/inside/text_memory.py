"""Checks that a CLIP encodes no prompt twice, and never mistakes one for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import comfy.model_management
import torch
from host import Stage, expect, expect_error

RED, BLUE, LONG = "a red square moving up", "a blue circle", "up " * 200
NORM = "t5xxl.transformer.encoder.final_layer_norm"
LAYER = "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.v.weight"


@dataclass
class Count:
    """How often a T5 ran and models were loaded."""

    runs: int = 0
    loads: int = 0


@contextmanager
def counted(clip: Any) -> Iterator[Count]:
    """Count what happens to a CLIP and its clones."""
    count, load = Count(), comfy.model_management.load_models_gpu

    def run(*_: Any) -> None:
        count.runs += 1

    def loaded(*given: Any, **named: Any) -> Any:
        count.loads += 1
        return load(*given, **named)

    handle = clip.cond_stage_model.t5xxl.transformer.register_forward_pre_hook(run)
    try:
        with patch.object(comfy.model_management, "load_models_gpu", loaded):
            yield count
    finally:
        handle.remove()


def open_clip(stage: Stage) -> Any:
    """Open the starter's text encoder, which knows no prompt yet."""
    return stage.call("LatteTextEncoderLoader", encoder_name="starter", device="default")[0]


def encode(stage: Stage, clip: Any, prompt: str, negative: str = "", **changes: Any) -> Any:
    """Run Latte Text Encode; return both tensors and the report."""
    given = {"clean_caption": True, "mask_feature": True, **changes}
    given |= {"prompt": prompt, "negative_prompt": negative}
    positive, other, report = stage.call("LatteTextEncode", clip=clip, **given)
    return positive[0][0], other[0][0], report


def same(one: Any, other: Any) -> bool:
    """Whether two results have the same bits and the same report."""
    return all(torch.equal(*pair) for pair in zip(one[:2], other[:2], strict=True)) and (
        one[2] == other[2]
    )


def check_a_known_prompt_is_not_encoded_again(stage: Stage) -> None:
    clip = open_clip(stage)
    steps = (
        (2, 2, (RED, ""), {}),
        (1, 1, (BLUE, ""), {}),  # the negative is known
        (0, 0, (RED, ""), {}),  # and neither is the encoder loaded
        (0, 0, (RED.upper(), ""), {}),
        (0, 0, (BLUE, RED), {}),
        (0, 0, ("", BLUE), {"mask_feature": False}),
        (1, 1, ("https://latte.example " + RED, BLUE), {"clean_caption": False}),
        (1, 1, (LONG, ""), {}),
        (0, 0, (LONG, RED), {}),
    )
    for runs, loads, texts, changes in steps:
        with counted(clip) as count:
            found = encode(stage, clip.clone(), *texts, **changes)
        expect((count.runs, count.loads) == (runs, loads), texts, changes, count)
        expected = encode(stage, open_clip(stage), *texts, **changes)
        expect(same(found, expected), texts, changes, "another CLIP gives other bits")
        expect(("Dropped" in found[2]) == (texts[0] == LONG), found[2])


def check_results_can_be_changed_in_place(stage: Stage) -> None:
    clip = open_clip(stage)
    first = encode(stage, clip, RED)
    expected = [first[0].clone(), first[1].clone(), first[2]]
    for _ in range(2):
        found = encode(stage, clip, RED)
        expect(same(found, expected))
        found[0].zero_()
        found[1].fill_(float("nan"))
    first[0].zero_()
    expect(same(encode(stage, clip, RED), expected))


def check_a_lora_on_a_clip_has_a_memory_of_its_own(stage: Stage) -> None:
    clip = open_clip(stage)
    plain = encode(stage, clip, RED)
    weight = clip.cond_stage_model.state_dict()[LAYER]
    patched = clip.clone()
    expect(patched.add_patches({LAYER: ("diff", (0.3 * torch.ones_like(weight),))}, 1.0) == [LAYER])
    stronger = clip.clone()
    stronger.add_patches({LAYER: ("diff", (0.3 * torch.ones_like(weight),))}, 2.0)
    found: list[Any] = [plain]
    for one in (patched, stronger):
        with counted(clip) as count:
            found.append(encode(stage, one, RED))
        expect(count.runs == 2, count)
    for index, one in enumerate(found):
        for other in found[:index]:
            expect(not torch.equal(one[0], other[0]), "a LoRA gave another one's features")
    with counted(clip) as count:
        again = [encode(stage, one.clone(), RED) for one in (clip, patched, stronger)]
    expect(count == Count(), count)
    expect(all(same(*pair) for pair in zip(again, found, strict=True)))


def check_changes_without_an_identity_are_never_remembered(stage: Stage) -> None:
    """Patched objects, injections and hooks: nothing tells whether they still do the same."""
    import comfy.hooks
    from comfy.patcher_extension import PatcherInjection

    clip = open_clip(stage)
    plain = encode(stage, clip, RED)
    norm = clip.patcher.get_model_object(NORM)

    def nothing(_: Any) -> None:
        return None

    class Doubled(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return 2 * norm(hidden)

    patched, injected, hooked = (clip.clone() for _ in range(3))
    patched.patcher.add_object_patch(NORM, Doubled())
    injected.patcher.set_injections("nothing", [PatcherInjection(nothing, nothing)])
    hooked.patcher.forced_hooks = comfy.hooks.HookGroup()
    for one, runs in ((patched, 1), (injected, 1), (hooked, 1), (clip, 0)):
        for _ in range(2):
            with counted(clip) as count:
                encode(stage, one, RED)
            expect(count.runs == runs, runs, count)
    expect(not torch.equal(encode(stage, patched, RED)[0], plain[0]))
    expect(same(encode(stage, clip, RED), plain))


def check_prompts_that_were_not_used_for_longest_are_let_go(stage: Stage) -> None:
    memory = stage.part("nodes.host.text.cache")
    clip = open_clip(stage)
    rows = encode(stage, clip, RED, mask_feature=False)[0]
    size = rows.numel() * rows.element_size() + rows.shape[1]  # with the mask
    with patch.object(memory, "MEMORY_BYTES", 3 * size):
        clip = open_clip(stage)
        encode(stage, clip, RED)
    for number in range(6):
        with counted(clip) as count:
            encode(stage, clip, f"{number} squares")
        expect(count.runs == 1, number, count)
        kept = memory.memory_of(clip.cond_stage_model).num_bytes
        expect(kept <= 3 * size, kept, size)
    for prompt, runs in (("5 squares", 0), ("4 squares", 0), (RED, 1), ("5 squares", 1)):
        with counted(clip) as count:
            encode(stage, clip, prompt)
        expect(count.runs == runs, prompt, count)


def check_broken_features_are_not_remembered(stage: Stage) -> None:
    clip = open_clip(stage)
    weight = clip.cond_stage_model.state_dict()[LAYER]
    broken = clip.clone()
    broken.add_patches({LAYER: ("diff", (float("nan") * torch.ones_like(weight),))}, 1.0)
    for _ in range(2):
        with counted(clip) as count:
            expect_error("NonFiniteError", ["encoder"], lambda: encode(stage, broken, RED))
        expect(count.runs == 1, count)
    expect(bool(encode(stage, clip, RED)[0].isfinite().all()))
