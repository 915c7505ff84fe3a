"""Ask a text encoder what its rows know, with linear classifiers fitted on some captions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from .captions import Caption, compose_held_out_caption, compose_plain_caption
from .reading import IGNORED, PARTS, draw_captions, draw_spec, read_batch
from .scenes import Mixture, is_held_out

BATCH = 64
RIDGE = 1e-2  # keeps the least squares solvable


@torch.no_grad()
def encode_rows(
    encoder: Any, tokenizer: Any, captions: Sequence[Caption]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return all real rows (N, D) of the captions and their labels (N,) for each of PARTS."""
    rows: list[Tensor] = []
    labels: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for first in range(0, len(captions), BATCH):
        batch, wanted = read_batch(tokenizer, captions[first : first + BATCH])
        mask = batch.attention_mask
        output = encoder(input_ids=batch.input_ids, attention_mask=mask).last_hidden_state
        rows.append(output[mask.bool()])
        for part, values in wanted.items():
            labels[part].append(values[mask.bool()])
    return torch.cat(rows), {part: torch.cat(values) for part, values in labels.items()}


def fit_probe(rows: Tensor, labels: Tensor, num_values: int) -> Tensor:
    """Return the (D + 1, K) least-squares map from rows to one-hot labels."""
    known = labels != IGNORED
    inputs = with_one(rows[known]).double()
    targets = functional.one_hot(labels[known], num_values).double()
    square = inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1], dtype=torch.float64)
    wanted = inputs.T @ targets
    return cast(Tensor, torch.linalg.solve(square, wanted))  # pyright: ignore[reportUnknownMemberType]


def with_one(rows: Tensor) -> Tensor:
    """Append a column of ones."""
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def held_out_captions(rng: random.Random, count: int) -> list[Caption]:
    """Return captions in forms that are never trained."""
    singles = Mixture(sized=0.3, backgrounds=0.3)
    return [compose_held_out_caption(draw_spec(rng, singles), rng, k) for k in range(count)]


def held_out_pair_captions(rng: random.Random, count: int) -> list[Caption]:
    """Return plain captions of two objects whose looks are never trained together."""
    found: list[Caption] = []
    while len(found) < count:
        spec = draw_spec(rng, Mixture(pairs=1.0), allow_held_out=True)
        first, second = ((one.color, one.shape) for one in spec.objects)
        if is_held_out(first, second):
            found.append(compose_plain_caption(spec))
    return found


def probe_text_encoder(
    tokenizer: Any, encoder: Any, *, seed: int = 0, num_captions: int = 1500
) -> dict[str, dict[str, float]]:
    """Return the share of rows from which each part is read rightly by a linear classifier.

    Args:
        tokenizer, encoder: what is asked.
        seed: of the captions.
        num_captions: for fitting, and a quarter of it for each test.

    Returns:
        For "wordings" and "pairs", which hold captions unlike those of the fit, the share per part.
    """
    rng = random.Random(f"{seed}-probe")
    rows, labels = encode_rows(encoder, tokenizer, draw_captions(rng, num_captions))
    probes = {part: fit_probe(rows, labels[part], len(PARTS[part])) for part in PARTS}
    tests = {
        "wordings": held_out_captions(rng, num_captions // 4),
        "pairs": held_out_pair_captions(rng, num_captions // 4),
    }
    shares: dict[str, dict[str, float]] = {}
    for name, captions in tests.items():
        rows, labels = encode_rows(encoder, tokenizer, captions)
        shares[name] = {}
        for part, probe in probes.items():
            known = labels[part] != IGNORED
            told = (with_one(rows[known]).double() @ probe).argmax(dim=1)
            shares[name][part] = float((told == labels[part][known]).double().mean())
    return shares
