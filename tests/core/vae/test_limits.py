"""Decoding and encoding where memory or the range of numbers runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from latte_test_support.vae_cases import (
    BOTH,
    SAME,
    CountedDecoder,
    make_vae,
    random_frames,
    random_latents,
)
from torch import Tensor

from latte_core.errors import NonFiniteError
from latte_core.vae.frames import VideoVAE


@BOTH
def test_r34_out_of_memory_decodes_less_at_a_time_with_one_notice(
    temporal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    latents = random_latents(batch=2, frames=16, height=8, width=8)
    vae = make_vae(temporal)
    whole = vae.decode(latents, chunk=16)
    limit = 8 * 64 if temporal else 4 * 64  # temporal chunks of 4 read 8 frames with surroundings
    counted = CountedDecoder(vae.module, limit)
    monkeypatch.setattr(vae.module, "decode", counted)

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = vae.decode(latents, chunk=16)

    # An image VAE is exact. A temporal one sees less of the clip, but has surroundings.
    assert (frames - whole).abs().mean() <= (0.05 if temporal else SAME)
    assert [record.getMessage() for record in caplog.records] == [
        "Not enough memory: decoded 4 frames at a time."
    ]
    assert set(counted.left_over) == {0}
    assert sum(shape[0] * 64 > limit for shape in counted.shapes) == 2  # not tried for video two


@BOTH
def test_r34_out_of_memory_on_one_frame_decodes_tiles(
    temporal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    latents = random_latents(batch=1, frames=2, height=32, width=24)
    vae = make_vae(temporal)
    whole = vae.decode(latents)
    counted = CountedDecoder(vae.module, 2 * 16 * 16)
    monkeypatch.setattr(vae.module, "decode", counted)

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = vae.decode(latents)

    assert frames.shape == whole.shape
    assert (frames - whole).abs().mean() <= 0.02
    assert len(caplog.records) == 1
    assert "in tiles of 64 pixels" in caplog.records[0].getMessage()


@BOTH
def test_r33_out_of_memory_that_no_plan_fits_keeps_its_type(
    temporal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = make_vae(temporal)
    monkeypatch.setattr(vae.module, "decode", CountedDecoder(vae.module, 0))

    with pytest.raises(torch.OutOfMemoryError, match="no room for the test"):
        vae.decode(random_latents())


def test_r34_encoding_out_of_memory_encodes_fewer_frames(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae = make_vae(False)
    frames = random_frames(frames=4)
    whole = vae.encode(frames)
    encode = vae.module.encode

    def limited(pixels: Tensor) -> Any:
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("no room for the test")
        return encode(pixels)

    monkeypatch.setattr(vae.module, "encode", limited)

    with caplog.at_level(logging.WARNING, logger="latte"):
        latents = vae.encode(frames)

    assert (latents - whole).abs().max() <= SAME
    assert [r.getMessage() for r in caplog.records] == [
        "Not enough memory: encoded 2 frames at a time."
    ]


def overflowing(decode: Callable[..., Any], dtypes: tuple[torch.dtype, ...]) -> Any:
    def run(latents: Tensor, **options: Any) -> Any:
        result = decode(latents, **options)
        if latents.dtype in dtypes:
            result.sample[0, 0, 0, 0] = torch.inf
        return result

    return run


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_r32_half_precision_overflow_is_decoded_once_more_in_float32(
    dtype: torch.dtype,
    temporal: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    latents = random_latents()
    vae = make_vae(temporal, dtype=dtype)
    before = {name: value.clone() for name, value in vae.module.state_dict().items()}
    monkeypatch.setattr(vae.module, "decode", overflowing(vae.module.decode, (dtype,)))

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = vae.decode(latents)

    assert torch.isfinite(frames).all()
    assert (frames - make_vae(temporal).decode(latents)).abs().mean() <= 0.02
    assert len(caplog.records) == 1
    assert vae.dtype == dtype
    after = vae.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_r32_overflow_in_float32_too_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = make_vae(False, dtype=torch.float16)
    both = (torch.float16, torch.float32)
    monkeypatch.setattr(vae.module, "decode", overflowing(vae.module.decode, both))

    with pytest.raises(NonFiniteError, match="in float32 too"):
        vae.decode(random_latents())

    assert vae.dtype == torch.float16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_r32_latents_that_are_not_finite_are_not_decoded(
    value: float, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents()
    latents[1, 2, 3, 4, 5] = value

    with pytest.raises(NonFiniteError, match="latents are NaN or infinite"):
        vaes[True].decode(latents)


@BOTH
def test_half_precision_is_close_to_float32(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents()

    half = make_vae(temporal, dtype=torch.bfloat16).decode(latents)

    assert half.dtype == torch.float32
    assert (half - vaes[temporal].decode(latents)).abs().mean() <= 0.02


@BOTH
def test_r26_other_dtypes_and_strides_of_latents_give_the_same_frames(
    temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents().half().float()

    expected = vaes[temporal].decode(latents)

    double = latents.double().requires_grad_()
    strided = latents.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    assert (vaes[temporal].decode(latents.half()) - expected).abs().max() <= SAME
    assert (vaes[temporal].decode(double) - expected).abs().max() <= SAME
    assert (vaes[temporal].decode(strided) - expected).abs().max() <= SAME


def test_r41_progress_never_goes_back_when_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vae = make_vae(False)
    counted = CountedDecoder(vae.module, 2 * 48)
    monkeypatch.setattr(vae.module, "decode", counted)
    told: list[float] = []

    vae.decode(random_latents(), chunk=5, callback=lambda done, total: told.append(done / total))

    assert told == sorted(told)
    assert told[-1] == 1
