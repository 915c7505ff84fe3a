"""What a seed means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latte_core.errors import InvalidInputError
from latte_core.sampling import make_noise, make_step_noise
from latte_core.sampling.reference_noise import ReferenceStream

SHAPE = (3, 4, 5, 2, 6)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_seed_draws_what_ksampler_draws_for_a_batch_of_frames() -> None:
    _, channels, frames, height, width = SHAPE
    ksampler = torch.randn((frames, channels, height, width), generator=generator(7))
    ours = make_noise((1, *SHAPE[1:]), 7)
    assert torch.equal(ours[0], ksampler.transpose(0, 1))


def test_further_videos_of_one_seed_continue_its_stream() -> None:
    stream = torch.randn((3, 5, 4, 2, 6), generator=generator(7))
    assert torch.equal(make_noise(SHAPE, [7]), stream.transpose(1, 2))


def test_reference_order_draws_the_authors_layout() -> None:
    assert torch.equal(
        make_noise(SHAPE, 7, "reference"), torch.randn(SHAPE, generator=generator(7))
    )


@pytest.mark.parametrize("order", ["comfyui", "reference"])
def test_list_of_seeds_gives_each_video_its_own(order: str) -> None:
    together = make_noise(SHAPE, [4, 5, 6], order)
    apart = [make_noise((1, *SHAPE[1:]), seed, order) for seed in (4, 5, 6)]
    assert torch.equal(together, torch.cat(apart))


@pytest.mark.parametrize("order", ["comfyui", "reference"])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(1, 2, 2), (16, 8, 8), (7, 2, 6)])
def test_r42_first_video_is_the_same_for_every_batch_size(
    order: str, batch: int, size: tuple[int, int, int]
) -> None:
    alone = make_noise((1, 4, *size), 3, order)
    assert torch.equal(make_noise((batch, 4, *size), 3, order)[:1], alone)


@pytest.mark.parametrize("order", ["comfyui", "reference"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_r42_step_noise_of_the_first_video_is_the_same_for_every_batch_size(
    order: str, batch: int
) -> None:
    one, many = (1, *SHAPE[1:]), (batch, *SHAPE[1:])
    alone = make_step_noise(one, 3, order).draw(one)
    assert torch.equal(make_step_noise(many, 3, order).draw(many)[:1], alone)


def test_r45_frames_added_at_the_end_keep_the_earlier_noise() -> None:
    assert torch.equal(make_noise((1, 4, 20, 4, 4), 3)[:, :, :16], make_noise((1, 4, 16, 4, 4), 3))


@pytest.mark.parametrize("usual", [torch.float64, torch.float16, torch.bfloat16, "meta"])
@pytest.mark.parametrize("order", ["comfyui", "reference"])
def test_r43_noise_is_float32_on_the_cpu(order: str, usual: torch.dtype | str) -> None:
    def drawn() -> list[Tensor]:
        steps = make_step_noise(SHAPE, 0, order)
        stream = ReferenceStream(SHAPE, 0, is_guided=True)
        return [make_noise(SHAPE, 0, order), steps.draw(SHAPE), stream.draw_start(), stream(0)]

    expected = drawn()
    before = torch.get_default_dtype()
    try:
        if isinstance(usual, str):
            with torch.device(usual):
                found = drawn()
        else:
            torch.set_default_dtype(usual)
            found = drawn()
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.device.type) == (torch.float32, "cpu")
        assert torch.equal(one, other)


def test_step_noise_of_ancestral_samplers_is_what_ksampler_uses_on_the_cpu() -> None:
    one = (1, *SHAPE[1:])
    expected = torch.randn((5, 4, 2, 6), generator=generator(8)).transpose(0, 1)
    assert torch.equal(make_step_noise(one, 7).draw(one)[0], expected)


def test_step_noise_in_reference_order_continues_after_the_start() -> None:
    one = (1, *SHAPE[1:])
    stream = generator(7)
    start, first = (torch.randn(one, generator=stream) for _ in range(2))
    assert torch.equal(make_noise(one, 7, "reference"), start)
    assert torch.equal(make_step_noise(one, 7, "reference").draw(one), first)


def test_step_noise_in_reference_order_begins_the_stream_when_latents_were_given() -> None:
    one = (1, *SHAPE[1:])
    noise = make_step_noise(one, 7, "reference", start_was_drawn=False)
    assert torch.equal(noise.draw(one), torch.randn(one, generator=generator(7)))


def test_step_noise_for_another_number_of_videos_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="3 videos"):
        make_step_noise(SHAPE, 7).draw((2, *SHAPE[1:]))


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_r30_every_seed_up_to_2_to_the_64_works(seed: int) -> None:
    assert bool(torch.isfinite(make_noise(SHAPE, seed)).all())
    assert bool(torch.isfinite(make_step_noise(SHAPE, seed).draw(SHAPE)).all())


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.5, "7"])
def test_r30_other_seeds_are_refused(seed: object) -> None:
    with pytest.raises(InvalidInputError, match="seed"):
        make_noise(SHAPE, [seed, 0, 1])


def test_wrong_number_of_seeds_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 seeds were given for 3 videos"):
        make_noise(SHAPE, [1, 2])


def test_unknown_noise_order_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="noise_order"):
        make_noise(SHAPE, 0, "gpu")


def test_r40_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    make_noise(SHAPE, [1, 2, 3])
    make_step_noise(SHAPE, 1, "reference").draw(SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
