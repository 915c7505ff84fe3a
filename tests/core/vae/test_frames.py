"""Decoding and encoding videos, compared with diffusers' own classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.tiny import vae as tiny_vae
from latte_test_support.vae_cases import (
    BOTH,
    SAME,
    CountedDecoder,
    make_vae,
    random_frames,
    random_latents,
)
from torch import Tensor

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.vae.frames import VideoVAE


@pytest.mark.parity
@BOTH
@pytest.mark.parametrize("frames", [1, 2, 16, 17])
def test_chunks_of_fourteen_equal_diffusers_on_each_video(
    frames: int, temporal: bool, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    latents = random_latents(frames=frames)

    ours = vaes[temporal].decode(latents, chunk=14)

    assert ours.shape == (2, frames, 24, 32, 3)
    assert ours.dtype == torch.float32
    for video, expected in zip(ours, latents, strict=True):
        reference = tiny_vae.reference_frames(references[temporal], expected, 14)
        assert (video - reference).abs().max() <= SAME


@pytest.mark.parity
@pytest.mark.parametrize("frames", [1, 2, 16])
def test_up_to_sixteen_frames_are_one_diffusers_call_by_default(
    frames: int, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    latents = random_latents(frames=frames)

    ours = vaes[True].decode(latents)

    for video, expected in zip(ours, latents, strict=True):
        reference = tiny_vae.reference_frames(references[True], expected, frames)
        assert (video - reference).abs().max() <= SAME
    assert torch.equal(ours, vaes[True].decode(latents, chunk=frames + 3))


def test_chunks_change_a_temporal_clip_so_the_default_matters(vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents(batch=1, frames=16)

    difference = (vaes[True].decode(latents) - vaes[True].decode(latents, chunk=14)).abs()

    assert difference[:, 14:].max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, None])
def test_an_image_vae_does_not_depend_on_how_frames_are_batched(
    chunk: int | None, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents(frames=7)

    whole = vaes[False].decode(latents, chunk=100)

    assert (vaes[False].decode(latents, chunk=chunk) - whole).abs().max() <= SAME


@BOTH
def test_two_videos_equal_each_alone(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents(batch=3)

    together = vaes[temporal].decode(latents)
    alone = torch.cat([vaes[temporal].decode(video[None]) for video in latents])

    assert (together - alone).abs().max() <= SAME


@pytest.mark.parametrize("chunk", [None, 2, 14])
def test_no_decoder_call_mixes_two_videos(
    chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = make_vae(True)
    counted = CountedDecoder(vae.module)
    monkeypatch.setattr(vae.module, "decode", counted)

    vae.decode(random_latents(batch=3, frames=5), chunk=chunk)

    size = min(chunk or 5, 5)
    assert [shape[0] for shape in counted.shapes] == ([size] * (5 // size) + [5 % size or size])[
        : -(-5 // size)
    ] * 3


@BOTH
def test_tiles_come_close_to_the_whole_frame(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents(batch=1, frames=3, height=24, width=20)

    whole = vaes[temporal].decode(latents)
    tiled = vaes[temporal].decode(latents, tile=64)

    # Group norms and the attention in the middle see a tile only, so tiles are never exact.
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() <= 0.02


@BOTH
def test_a_tile_larger_than_the_frame_changes_nothing(
    temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents()

    assert torch.equal(vaes[temporal].decode(latents, tile=32), vaes[temporal].decode(latents))


@BOTH
def test_frames_lie_in_zero_to_one_and_latents_are_untouched(
    temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents() * 20
    before = latents.clone()

    frames = vaes[temporal].decode(latents)

    assert 0 <= frames.min() < frames.max() <= 1
    assert frames.is_contiguous()
    assert torch.equal(latents, before)


@pytest.mark.parity
@BOTH
def test_encoding_takes_the_mode_of_diffusers_posterior(
    temporal: bool, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    frames = random_frames()

    latents = vaes[temporal].encode(frames)

    pixels = frames.flatten(0, 1).movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        expected = references[temporal].encode(pixels).latent_dist.mode() * 0.18215
    assert latents.shape == (2, 4, 3, 6, 8)
    assert latents.dtype == torch.float32
    assert (latents - expected.unflatten(0, (2, 3)).movedim(1, 2)).abs().max() <= SAME


@pytest.mark.parity
@BOTH
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_encoding_with_a_generator_draws_diffusers_sample_whatever_the_chunk(
    chunk: int | None, temporal: bool, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    frames = random_frames()
    state = torch.get_rng_state()

    generator = torch.Generator().manual_seed(7)
    latents = vaes[temporal].encode(frames, generator=generator, chunk=chunk)

    pixels = frames.flatten(0, 1).movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        posterior = references[temporal].encode(pixels).latent_dist
        expected = posterior.sample(torch.Generator().manual_seed(7)) * 0.18215
    assert (latents - expected.unflatten(0, (2, 3)).movedim(1, 2)).abs().max() <= SAME
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "shape", [(2, 4, 6, 8), (2, 3, 5, 6, 8), (2, 16, 5, 6, 8), (0, 4, 5, 6, 8), (2, 4, 0, 6, 8)]
)
def test_r25_latents_of_another_shape_are_refused(
    shape: tuple[int, ...], vaes: dict[bool, VideoVAE]
) -> None:
    with pytest.raises(IncompatibleInputsError, match="Latte sampler"):
        vaes[True].decode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(2, 24, 32, 3), "IMAGE batch"),
        (torch.zeros(1, 2, 24, 32, 4), "IMAGE batch"),
        (torch.zeros(1, 2, 24, 32, 3, dtype=torch.uint8), "IMAGE batch"),
        (torch.zeros(1, 0, 24, 32, 3), "nothing to encode"),
        (torch.zeros(1, 2, 25, 32, 3), "height is 25 .* 24 and 28"),
        (torch.zeros(1, 2, 24, 3, 3), "width is 3 .* 4 and 8"),
        (torch.full((1, 2, 24, 32, 3), 255.0), "0 to 1"),
        (torch.full((1, 2, 24, 32, 3), -1.0), "0 to 1"),
        (torch.full((1, 2, 24, 32, 3), float("nan")), "0 to 1"),
    ],
)
def test_r23_frames_that_cannot_be_encoded_are_refused(
    frames: Tensor, message: str, vaes: dict[bool, VideoVAE]
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        vaes[False].encode(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk"),
        ({"chunk": -1}, "chunk"),
        ({"chunk": 1.5}, "chunk"),
        ({"tile": 0}, "tile"),
        ({"tile": 16}, "tile"),
        ({"tile": 66}, "tile is 66 .* 64 and 68"),
    ],
)
def test_r22_chunk_and_tile_out_of_range_are_refused(
    options: dict[str, Any], message: str, vaes: dict[bool, VideoVAE]
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        vaes[True].decode(random_latents(), **options)


@BOTH
def test_r41_progress_rises_and_ends_at_all(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    told: list[tuple[int, int]] = []

    vaes[temporal].decode(
        random_latents(frames=5, height=16), chunk=2, tile=32, callback=lambda *n: told.append(n)
    )

    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}


@BOTH
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_r36_an_exception_of_the_callback_ends_the_run_and_the_next_is_fresh(
    stop: int, temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    vae, latents = vaes[temporal], random_latents()
    before = vae.decode(latents, chunk=2)
    reason = KeyboardInterrupt()

    def cancel(done: int, _: int) -> None:
        if done == stop:
            raise reason

    with pytest.raises(KeyboardInterrupt) as caught:
        vae.decode(latents, chunk=2, callback=cancel)

    assert caught.value is reason
    assert torch.equal(vae.decode(latents, chunk=2), before)


def test_encoding_tells_its_progress_and_can_be_cancelled(vaes: dict[bool, VideoVAE]) -> None:
    told: list[tuple[int, int]] = []
    vaes[False].encode(random_frames(), chunk=2, callback=lambda *n: told.append(n))

    def cancel(*_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        vaes[False].encode(random_frames(), chunk=1, callback=cancel)
    assert told[-1] == (6, 6)


def test_r31_frames_given_are_untouched(vaes: dict[bool, VideoVAE]) -> None:
    frames = random_frames()
    before = frames.clone()
    vaes[False].encode(frames)

    assert torch.equal(frames, before)
