"""From prompts or given features to the text each video is made under."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import IncompatibleInputsError, InvalidInputError
from ...text.pair import Encoder, encode_pairs
from ...text.prompt import prepare_prompt

Condition = tuple[Tensor, Tensor | None]
"""Positive and negative features (1, n, C) of one video; no negative without guidance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextInputs:
    """What a call says about its text; see `Pipeline.__call__`."""

    prompt: str | Sequence[str] | None
    negative_prompt: str | Sequence[str]
    prompt_embeds: Tensor | None
    negative_embeds: Tensor | None
    is_guided: bool
    clean_caption: bool
    mask_feature: bool

    def count(self) -> int:
        """Return how many videos to make.

        Raises:
            InvalidInputError: if there is no prompt.
            IncompatibleInputsError: if given features are not (N, n, C).
        """
        for name, given in (
            ("prompt_embeds", self.prompt_embeds),
            ("negative_embeds", self.negative_embeds),
        ):
            if given is not None and (given.ndim != 3 or 0 in given.shape):
                raise IncompatibleInputsError(
                    f"{name} has shape {tuple(given.shape)}, but text features are "
                    "(videos, tokens, width)."
                )
        if self.prompt_embeds is not None:
            return len(self.prompt_embeds)
        return len(self.prompts())

    def prompts(self) -> list[str]:
        """Return the prompts as a list."""
        given: list[object] = (
            [self.prompt] if isinstance(self.prompt, str) else list(self.prompt or ())
        )
        texts = [text for text in given if isinstance(text, str)]
        if not texts or len(texts) < len(given):
            raise InvalidInputError(
                f"The prompt is {self.prompt!r}, but it must be a text or a list of texts; "
                "or give prompt_embeds."
            )
        return texts

    def needs_encoder(self) -> bool:
        """Return whether a text has to be encoded."""
        return self.prompt_embeds is None or (self.is_guided and self.negative_embeds is None)


def make_conditions(text: TextInputs, encoder: Callable[[], Encoder]) -> list[Condition]:
    """Return the features of each video.

    Args:
        text: prompts, or features in their place.
        encoder: returns the text encoder; called only if something has to be encoded.

    Raises:
        IncompatibleInputsError: if positive and negative features do not fit together.
    """
    if text.prompt_embeds is None:
        pairs = encode_pairs(
            encoder(),
            text.prompts(),
            text.negative_prompt if text.is_guided else "",
            clean_caption=text.clean_caption,
            mask_feature=text.mask_feature,
        )
        positives, negatives = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    else:
        positives, negatives = _rows(text.prompt_embeds), []
    if not text.is_guided:
        return [(positive, None) for positive in positives]
    if text.negative_embeds is not None:
        negatives = _spread(text.negative_embeds, len(positives))
    elif not negatives:
        negatives = _encode_negatives(text, encoder(), positives)
    return [_pair(one, other) for one, other in zip(positives, negatives, strict=True)]


def _spread(embeds: Tensor, count: int) -> list[Tensor]:
    """Return given negatives, one for each video; a single one serves all."""
    if len(embeds) not in (1, count):
        raise IncompatibleInputsError(
            f"negative_embeds are for {len(embeds)} videos, but {count} are to be made. "
            "Give one for all, or one for each."
        )
    return _rows(embeds.expand(count, -1, -1))


def _rows(embeds: Tensor) -> list[Tensor]:
    """Return (N, n, C) as N times (1, n, C)."""
    return [embeds[index : index + 1] for index in range(len(embeds))]


def _encode_negatives(text: TextInputs, encoder: Encoder, positives: list[Tensor]) -> list[Tensor]:
    """Encode negatives for given positives, cut to the length of each as the reference does."""
    given = text.negative_prompt
    texts = [given] * len(positives) if isinstance(given, str) else list(given)
    if len(texts) != len(positives):
        raise InvalidInputError(
            f"There are {len(positives)} videos but {len(texts)} negative prompts. "
            "Give one for all, or one for each."
        )
    features = encoder.encode([prepare_prompt(entry, text.clean_caption) for entry in texts])
    return [
        rows[None, : positive.shape[1]]
        for rows, positive in zip(features.embeds, positives, strict=True)
    ]


def _pair(positive: Tensor, negative: Tensor) -> Condition:
    if positive.shape != negative.shape:
        raise IncompatibleInputsError(
            f"The prompt's features have shape {tuple(positive.shape)} but the negative's "
            f"{tuple(negative.shape)}; guidance needs the same number of tokens and width. "
            "Encode both together."
        )
    return positive, negative.to(positive)
