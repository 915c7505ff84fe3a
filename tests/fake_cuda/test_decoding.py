"""The VAE on a card: the frames of the CPU, few copies, and pieces that fit when they are tried."""

from __future__ import annotations

import logging

import pytest
import torch
from latte_fake_cuda import fake_cuda
from latte_test_support.vae_cases import BOTH, CountedDecoder, make_vae, random_latents

from latte_core.vae.pieces import Decoder

pytestmark = pytest.mark.fake_cuda
WIDTHS = (32, 32, 64)  # of the tiny VAE
CELLS = 3 * 4


@BOTH
def test_pieces_on_card_give_the_frames_of_the_cpu(temporal: bool) -> None:
    latents = random_latents(batch=2, frames=20, height=3, width=4)
    expected = make_vae(temporal).decode(latents)

    with fake_cuda() as card:
        vae = make_vae(temporal, device="cuda")
        before = len(card.copies)
        frames = vae.decode(latents)

    assert (frames - expected).abs().max() <= 1e-5
    # A piece goes to the card and comes back once, with one look at whether it is finite.
    pieces = 4 if temporal else 2
    directions = [one.direction for one in card.copies[before:]]
    assert directions == ["to card", "to host"] * pieces
    assert len(card.read_backs) <= 2 * pieces


@BOTH
def test_short_card_decodes_less_at_a_time_before_it_runs_out(
    temporal: bool, caplog: pytest.LogCaptureFixture
) -> None:
    latents = random_latents(batch=1, frames=16, height=3, width=4)
    needed = Decoder.of(WIDTHS, is_temporal=temporal).bytes_for(16 * CELLS, 4)
    weights = sum(one.nbytes for one in make_vae(temporal).module.state_dict().values())

    with fake_cuda(total_memory=weights + int(0.8 * needed)) as card:
        vae = make_vae(temporal, device="cuda")
        counted = CountedDecoder(vae.module)
        vae.module.decode = counted
        with caplog.at_level(logging.WARNING, logger="latte"):
            frames = vae.decode(latents, chunk=16)

    assert torch.isfinite(frames).all()
    read = [shape[0] for shape in counted.shapes]
    assert read == ([10, 10] if temporal else [8, 8])  # 16 were never tried
    assert card.memory.peak <= weights + 0.8 * needed
    assert [record.getMessage() for record in caplog.records] == [
        "Not enough memory: decoded 8 frames at a time."
    ]
