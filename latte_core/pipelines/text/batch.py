"""Videos that are made together: their text in one tensor, and their noise in one record.

Together they take fewer and larger operations, so that they differ by rounding from videos that
are made one by one. A cache that measures a change computes a step if any of them needs it, so that
there steps may be computed that a video alone would skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...model.t2v.blocks import TextFeatures
from ...sampling import StepNoise
from ..run import join_noise, slices
from .inputs import Condition


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Videos of one model call.

    Args:
        rows: which videos of the call of the pipeline they are.
        context: (b, L, C) text, or (2b, L, C) with the negatives in front.
        mask: (b or 2b, L), 1 for text and 0 for what fills up shorter ones; None if none is.
        noise: of their steps.
    """

    rows: slice
    context: Tensor
    mask: Tensor | None
    noise: StepNoise

    def project(self, transformer: Any, device: torch.device, first: int = 0) -> TextFeatures:
        """Return what the transformer makes of the text, from row `first` on."""
        mask = None if self.mask is None else self.mask[first:].to(device)
        return transformer.project_text(self.context[first:].to(device), mask)


def make_batches(
    conditions: Sequence[Condition], noise: Sequence[StepNoise], batch_size: int
) -> list[Batch]:
    """Return the batches of a call.

    Args:
        conditions: positive and negative of each video.
        noise: of each video.
        batch_size: how many videos are made together; the last batch may be smaller.
    """
    made: list[Batch] = []
    for rows in slices(len(conditions), batch_size):
        chosen = conditions[rows]
        negatives = [negative for _, negative in chosen if negative is not None]
        context, mask = _join_texts([*negatives, *(positive for positive, _ in chosen)])
        made.append(Batch(rows=rows, context=context, mask=mask, noise=join_noise(noise[rows])))
    return made


def _join_texts(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return (1, n, C) texts as one tensor, shorter ones filled up with zeros, and their mask."""
    lengths = [text.shape[1] for text in texts]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.cat(list(texts)), None
    filled = [pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts]
    ends = torch.tensor(lengths, device=texts[0].device)[:, None]
    places = torch.arange(longest, device=texts[0].device)
    return torch.cat(filled), (places < ends).to(texts[0].dtype)
