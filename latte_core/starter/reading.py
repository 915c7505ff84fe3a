"""What the starter's text encoder is taught: which words a caption has, and what belongs together.

Every row of the encoder's output has to tell its own word, and all that the caption says about the
object which the word belongs to: so "left" in "a red circle moving left and a blue square standing
still" knows of the red circle, and "leftwards" says the same as "to the left".
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .captions import Caption, compose_caption
from .scene_layout import place_all
from .scene_parts import (
    BACKGROUNDS,
    CLIP_SIDE,
    COLORS,
    DEFAULT_SIZE,
    DIRECTIONS,
    SHAPES,
    SIZES,
    ClipSpec,
)
from .scenes import Mixture, draw_names

READING_MIXTURE = Mixture(sized=0.12, backgrounds=0.12, pairs=0.45, extras=0.3)
NOT_SAID = "not said"
OBJECT_PARTS: dict[str, tuple[str, ...]] = {
    "color": (NOT_SAID, *COLORS),
    "shape": (NOT_SAID, *SHAPES),
    "direction": (NOT_SAID, *DIRECTIONS),
    "size": (NOT_SAID, *(name for name in SIZES if name != DEFAULT_SIZE)),
}
CLIP_PARTS: dict[str, tuple[str, ...]] = {
    "background": (NOT_SAID, *BACKGROUNDS),
    "objects": ("one", "two"),
}
PARTS = {**OBJECT_PARTS, **CLIP_PARTS}
IGNORED = -100  # cross_entropy leaves these rows out


def draw_spec(
    rng: random.Random, mixture: Mixture = READING_MIXTURE, *, allow_held_out: bool = False
) -> ClipSpec:
    """Draw what a caption can name; objects lie on top of each other, which no word tells."""
    kinds, background = draw_names(rng, mixture=mixture, allow_held_out=allow_held_out)
    middle = [0.5] * (4 * len(kinds))
    return ClipSpec(objects=place_all(kinds, middle, CLIP_SIDE), background=background)


def draw_captions(rng: random.Random, count: int) -> list[Caption]:
    """Draw captions of text training."""
    return [compose_caption(draw_spec(rng), rng) for _ in range(count)]


def label_rows(captions: Sequence[Caption], offsets: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what every row has to tell: for each of PARTS, (B, L) indices into its values.

    Args:
        captions: B captions.
        offsets: (B, L, 2) first and last + 1 character of each row's word in the caption.
        mask: (B, L) 1 for real rows.

    Returns:
        Labels, IGNORED for padding, and parts of objects for words that belong to none.
    """
    labels = {part: torch.full(mask.shape, IGNORED) for part in PARTS}
    for row, caption in enumerate(captions):
        owners = [phrase for phrase in caption.phrases for _ in phrase.text]
        count = len({phrase.owner for phrase in caption.phrases} - {None})
        real = mask[row].bool()
        background = CLIP_PARTS["background"].index(caption.background or NOT_SAID)
        labels["background"][row][real] = background
        labels["objects"][row][real] = count - 1
        for column in range(int(real.sum())):
            end = int(offsets[row, column, 1])
            phrase = owners[end - 1] if end > int(offsets[row, column, 0]) else None
            if phrase is None or phrase.owner is None:
                continue
            for part, values in OBJECT_PARTS.items():
                labels[part][row, column] = values.index(phrase.said.get(part, NOT_SAID))
    return labels


def read_batch(tokenizer: Any, captions: Sequence[Caption]) -> tuple[Any, dict[str, Tensor]]:
    """Return the tokenizer's batch and the labels of its rows."""
    texts = [caption.text for caption in captions]
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_offsets_mapping=True)
    return batch, label_rows(captions, batch.offset_mapping, batch.attention_mask)


class ReadingHeads(nn.Module):
    """Tells words and parts from rows; needed only while the encoder is trained.

    Args:
        width: of a row.
        vocabulary: number of tokens.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Linear(width, vocabulary)
        self.parts = nn.ModuleDict(
            {part: nn.Linear(width, len(values)) for part, values in PARTS.items()}
        )

    def forward(
        self, rows: Tensor, ids: Tensor, mask: Tensor, labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the error of rows (B, L, D) at telling their words (B, L) and labels (B, L)."""
        real = mask.bool()
        error = functional.cross_entropy(self.words(rows[real]), ids[real])
        for part, head in self.parts.items():
            error = error + functional.cross_entropy(head(rows[real]), labels[part][real])
        return error
