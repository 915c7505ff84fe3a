"""Decoding with the channels of a pixel side by side in memory."""

from __future__ import annotations

import pytest
import torch
from latte_test_support.vae_cases import BOTH, SAME, make_vae, random_latents

from latte_core.vae.frames import VideoVAE


def decoded_orders(vae: VideoVAE) -> list[bool]:
    """Return, for each decoder call to come, whether its input has channels last."""
    seen: list[bool] = []
    vae.module.decoder.conv_in.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    return seen


def with_choice(temporal: bool, channels_last: bool | None) -> VideoVAE:
    plain = make_vae(temporal)
    return VideoVAE(plain.module, plain.config, channels_last=channels_last)


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_image_vae_gives_the_same_frames_but_for_rounding(chunk: int | None) -> None:
    latents = random_latents()
    expected = make_vae(False).decode(latents, chunk=chunk)
    vae = with_choice(False, True)
    seen = decoded_orders(vae)
    assert (vae.decode(latents, chunk=chunk) - expected).abs().max() <= SAME
    assert seen
    assert all(seen)


@BOTH
def test_on_the_cpu_nothing_changes_unless_asked_for(temporal: bool) -> None:
    vae = with_choice(temporal, None)
    seen = decoded_orders(vae)
    assert torch.equal(vae.decode(random_latents()), make_vae(temporal).decode(random_latents()))
    assert not any(seen)


def test_temporal_vae_never_does() -> None:
    vae = with_choice(True, True)
    seen = decoded_orders(vae)
    vae.decode(random_latents())
    assert not any(seen)
