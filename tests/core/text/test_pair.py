"""Positive and negative together: the reference's cut, alone and in batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from latte_core.errors import InvalidInputError
from latte_core.text.pair import encode_pair, encode_pairs
from latte_core.text.t5 import TextEncoder

PROMPT = "A red Circle moving left"
LONG_NEGATIVE = "a green triangle standing still on a dark background, yellow fish"


@pytest.fixture(scope="module")
def encode_as_diffusers(encoder: TextEncoder, latte_folder: Path):
    """diffusers' LattePipeline with our encoder's module and a tokenizer of its own."""
    from diffusers import LattePipeline
    from transformers import T5TokenizerFast

    tokenizer = T5TokenizerFast.from_pretrained(str(latte_folder / "tokenizer"), legacy=True)
    pipeline = object.__new__(LattePipeline)  # encode_prompt needs these two parts only
    object.__setattr__(pipeline, "tokenizer", tokenizer)
    object.__setattr__(pipeline, "text_encoder", encoder.module)

    def encode(prompt: str | list[str], negative: str | list[str], **options: bool):
        with torch.no_grad():
            return LattePipeline.encode_prompt(
                pipeline, prompt, negative_prompt=negative, device=torch.device("cpu"), **options
            )

    return encode


@pytest.mark.parity
@pytest.mark.parametrize("clean", [True, False], ids=["cleaned", "as_typed"])
@pytest.mark.parametrize("mask_feature", [True, False], ids=["cut", "whole"])
@pytest.mark.parametrize("negative", ["", "blue", LONG_NEGATIVE], ids=["empty", "word", "longer"])
def test_one_prompt_equals_diffusers(
    encoder: TextEncoder, encode_as_diffusers, negative: str, mask_feature: bool, clean: bool
) -> None:
    options = {"clean_caption": clean, "mask_feature": mask_feature}

    positive, unwanted = encode_pair(encoder, PROMPT, negative, **options)
    expected = encode_as_diffusers(PROMPT, negative, **options)

    assert positive.shape == unwanted.shape == expected[0].shape == expected[1].shape
    assert (positive - expected[0]).abs().max() <= 1e-5
    assert (unwanted - expected[1]).abs().max() <= 1e-5


@pytest.mark.parity
@pytest.mark.parametrize("mask_feature", [True, False], ids=["masked", "whole"])
def test_several_prompts_in_reference_mode_equal_diffusers(
    encoder: TextEncoder, encode_as_diffusers, mask_feature: bool
) -> None:
    prompts = [PROMPT, "a blue square", ""]
    options = {"clean_caption": True, "mask_feature": mask_feature}

    pairs = encode_pairs(encoder, prompts, "blue", batch_masking="reference", **options)
    expected = encode_as_diffusers(prompts, "blue", **options)

    positive, unwanted = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    assert (positive - expected[0]).abs().max() <= 1e-5
    assert (unwanted - expected[1]).abs().max() <= 1e-5


@pytest.mark.parity
def test_r27_the_empty_prompt_equals_diffusers_unconditional_one(
    encoder: TextEncoder, encode_as_diffusers
) -> None:
    positive, unwanted = encode_pair(encoder, "   ", "")

    assert positive.shape == (1, 1, encoder.width)
    assert torch.isfinite(positive).all()
    assert torch.equal(positive, unwanted)
    assert (positive - encode_as_diffusers("", "")[0]).abs().max() <= 1e-5


def test_the_pair_is_cut_to_the_positives_real_tokens(encoder: TextEncoder) -> None:
    count = int(encoder.encode(["a red circle moving left"]).mask.sum())
    whole = encoder.encode([""]).embeds

    positive, unwanted = encode_pair(encoder, PROMPT, "")

    assert positive.shape == unwanted.shape == (1, count, encoder.width)
    assert (unwanted - whole[:, :count]).abs().max() <= 1e-5


def test_each_prompt_of_a_batch_gets_what_it_gets_alone(encoder: TextEncoder) -> None:
    prompts = [PROMPT, "a blue square moving up", ""]
    negatives = ["", "red", LONG_NEGATIVE]

    pairs = encode_pairs(encoder, prompts, negatives)
    alone = [encode_pair(encoder, *both) for both in zip(prompts, negatives, strict=True)]

    assert [both[0].shape for both in pairs] == [both[0].shape for both in alone]
    assert max(_distance(ours, theirs) for ours, theirs in zip(pairs, alone, strict=True)) <= 1e-5


def test_reference_mode_with_one_prompt_is_the_ordinary_cut(encoder: TextEncoder) -> None:
    pairs = encode_pairs(encoder, [PROMPT], batch_masking="reference")

    assert _distance(pairs[0], encode_pair(encoder, PROMPT)) == 0


def test_reference_mode_sets_padding_rows_of_the_positive_to_zero(encoder: TextEncoder) -> None:
    pairs = encode_pairs(encoder, ["red", "a blue square"], batch_masking="reference")

    positive, unwanted = pairs[0]
    count = int(encoder.encode(["red"]).mask.sum())
    assert positive.shape == unwanted.shape == (1, 120, encoder.width)
    assert not positive[:, count:].any()
    assert unwanted[:, count:].any()


@pytest.mark.parametrize(
    ("prompts", "negatives"), [([], ""), ("one", ""), (["a", "b"], ["c"])], ids=str
)
def test_lists_that_do_not_fit_are_refused(
    prompts: list[str], negatives: str | list[str], encoder: TextEncoder
) -> None:
    with pytest.raises(InvalidInputError):
        encode_pairs(encoder, prompts, negatives)


def test_an_unknown_batch_masking_lists_the_known_ones(encoder: TextEncoder) -> None:
    with pytest.raises(InvalidInputError, match="per_prompt and reference"):
        encode_pairs(encoder, ["a"], batch_masking="both")  # type: ignore[arg-type]


def _distance(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
