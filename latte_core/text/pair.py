"""Positive and negative prompt together, cut as the reference cuts them (`mask_feature`).

The reference keeps the positive prompt's real tokens, n of them, and the first n rows of the
negative: for an empty one that is its end token and n - 1 rows of padding positions. So the two are
encoded together. For several prompts at once the reference does something else, kept here for
parity only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from ..errors import InvalidInputError
from .prompt import prepare_prompt
from .t5 import TextEmbeddings

BatchMasking = Literal["per_prompt", "reference"]
BATCH_MASKINGS = ("per_prompt", "reference")


class Encoder(Protocol):
    """Anything that encodes prepared prompts as `TextEncoder` does."""

    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Return (B, 120, C) features and (B, 120) mask."""
        ...


def encode_pair(
    encoder: Encoder,
    prompt: str,
    negative_prompt: str = "",
    *,
    clean_caption: bool = True,
    mask_feature: bool = True,
) -> tuple[Tensor, Tensor]:
    """Encode one prompt and its negative.

    Args:
        encoder: a `TextEncoder`.
        prompt: as typed; may be empty.
        negative_prompt: as typed; more than n tokens of it are cut off.
        clean_caption: clean both as the reference does, else lower-case and strip only.
        mask_feature: keep the positive's n real tokens in both; else all 120 rows of both.

    Returns:
        positive and negative, both (1, n, C).
    """
    pairs = encode_pairs(
        encoder,
        [prompt],
        [negative_prompt],
        clean_caption=clean_caption,
        mask_feature=mask_feature,
    )
    return pairs[0]


def encode_pairs(
    encoder: Encoder,
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | str = "",
    *,
    clean_caption: bool = True,
    mask_feature: bool = True,
    batch_masking: BatchMasking = "per_prompt",
) -> list[tuple[Tensor, Tensor]]:
    """Encode several prompts, each with its negative.

    Args:
        encoder: a `TextEncoder`.
        prompts: one or more.
        negative_prompts: one for all, or one for each.
        clean_caption: as in `encode_pair`.
        mask_feature: as in `encode_pair`.
        batch_masking: "per_prompt" gives each prompt what it would get alone. "reference" does
            what the reference does with more than one: 120 rows each, padding rows of the positive
            set to zero (they still take part in attention), the negative untouched.

    Returns:
        for each prompt, positive and negative (1, n, C); n may differ between prompts.

    Raises:
        InvalidInputError: if there is no prompt, the counts differ, or `batch_masking` is unknown.
    """
    negatives = _negatives(prompts, negative_prompts)
    if batch_masking not in BATCH_MASKINGS:
        raise InvalidInputError(
            f'batch_masking is "{batch_masking}", but it must be one of '
            f"{' and '.join(BATCH_MASKINGS)}."
        )
    texts = [prepare_prompt(text, clean_caption) for text in (*prompts, *negatives)]
    # Equal texts are encoded once: the same negative for all, or an empty prompt.
    order = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    features = encoder.encode(list(order))
    rows = [order[text] for text in texts]
    keep_all = not mask_feature or (batch_masking == "reference" and len(prompts) > 1)
    zero_padding = mask_feature and keep_all
    return [
        _cut(features, positive, negative, keep_all=keep_all, zero_padding=zero_padding)
        for positive, negative in zip(rows[: len(prompts)], rows[len(prompts) :], strict=True)
    ]


def _cut(
    features: TextEmbeddings, positive: int, negative: int, *, keep_all: bool, zero_padding: bool
) -> tuple[Tensor, Tensor]:
    """Return rows of the features as (1, n, C) each."""
    mask = features.mask[positive]
    kept = len(mask) if keep_all else int(mask.sum())
    wanted = features.embeds[positive : positive + 1, :kept]
    if zero_padding:  # parity: zeroed rows, not masked ones
        wanted = wanted * mask[None, :, None]
    return wanted, features.embeds[negative : negative + 1, :kept]


def _negatives(prompts: Sequence[str], negative_prompts: Sequence[str] | str) -> list[str]:
    if isinstance(prompts, str) or not prompts:
        raise InvalidInputError(
            f"The prompts are {prompts!r}, but a list with one text at least is needed."
        )
    if isinstance(negative_prompts, str):
        return [negative_prompts] * len(prompts)
    if len(negative_prompts) != len(prompts):
        raise InvalidInputError(
            f"There are {len(prompts)} prompts but {len(negative_prompts)} negative prompts. "
            "Give one negative prompt for all, or one for each."
        )
    return list(negative_prompts)
