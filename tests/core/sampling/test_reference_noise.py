"""The authors' order of draws (docs/model.md 7.2), draw by draw."""

from __future__ import annotations

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from torch import Generator, Tensor

from latte_core.errors import InvalidInputError
from latte_core.sampling import ReferenceStream, make_noise, sample_reference

SHAPE = (2, 4, 3, 8, 8)
SCRIPT_SHAPE = (3, 4, 8, 8)  # one video as the authors' scripts hold it: frames, then channels


def script_draws(
    seed: int, videos: int, is_guided: bool, steps: int
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Everything a run of the authors' script draws, as (B, 4, F, h, w)."""
    generator = Generator().manual_seed(seed)
    start = torch.randn(videos, *SCRIPT_SHAPE, generator=generator)
    labels = torch.randint(0, 5, (videos,), generator=generator) if is_guided else None
    rows = 2 * videos if is_guided else videos
    noise = [torch.randn(rows, *SCRIPT_SHAPE, generator=generator) for _ in range(steps)]
    return start.transpose(1, 2), labels, [one[:videos].transpose(1, 2) for one in noise]


@pytest.mark.parametrize("is_guided", [False, True])
def test_stream_repeats_the_draws_of_a_run(is_guided: bool) -> None:
    start, labels, noise = script_draws(6, 2, is_guided, steps=3)
    stream = ReferenceStream(SHAPE, 6, is_guided=is_guided)
    assert torch.equal(stream.draw_start(), start)
    if labels is not None:
        assert torch.equal(stream.draw_labels(5), labels)
    assert all(torch.equal(stream(index), one) for index, one in enumerate(noise))


def test_start_is_what_the_seed_gives_in_comfyui_order() -> None:
    stream = ReferenceStream(SHAPE, 6, is_guided=True)
    assert torch.equal(stream.draw_start(), make_noise(SHAPE, 6))


def test_one_seed_per_video_makes_each_a_run_of_its_own() -> None:
    stream = ReferenceStream(SHAPE, [6, 8], is_guided=True)
    apart = [ReferenceStream((1, *SHAPE[1:]), seed, is_guided=True) for seed in (6, 8)]
    assert torch.equal(stream.draw_start(), torch.cat([one.draw_start() for one in apart]))
    assert torch.equal(stream.draw_labels(5), torch.cat([one.draw_labels(5) for one in apart]))
    assert torch.equal(stream(0), torch.cat([one(0) for one in apart]))


@pytest.mark.parametrize("is_guided", [False, True])
@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_reference_order_repeats_a_whole_run_from_its_seed(method: str, is_guided: bool) -> None:
    start, labels, noise = script_draws(11, 2, is_guided, steps=6)
    used = torch.tensor([0, 3]) if labels is None else labels
    scale = 7.0 if is_guided else 1.0
    recorded = sample_reference(
        tiny_latte(), start, method, "6", scale, used, 0.5, noise=lambda index: noise[index]
    )
    seeded = sample_reference(
        tiny_latte(), start, method, "6", scale, used, 0.5, seed=11, noise_order="reference"
    )
    assert torch.equal(seeded, recorded)


def test_comfyui_order_is_what_the_other_samplers_draw() -> None:
    """Video number i of a seed has a stream of its own, seeded with seed + 1 + i."""
    streams = [Generator().manual_seed(11 + 1 + index) for index in range(2)]

    def noise(_: int) -> Tensor:
        drawn = [torch.randn(SCRIPT_SHAPE, generator=one) for one in streams]
        return torch.stack(drawn).transpose(1, 2)

    start = make_noise(SHAPE, 11)
    given = sample_reference(tiny_latte(), start, "ddpm", "6", 7.0, 2, noise=noise)
    assert torch.equal(sample_reference(tiny_latte(), start, "ddpm", "6", 7.0, 2, seed=11), given)


@pytest.mark.parametrize("seeds", [-1, 2**64, [1, 2, 3]])
def test_seeds_that_do_not_fit_are_refused(seeds: int | list[int]) -> None:
    with pytest.raises(InvalidInputError, match="seed"):
        ReferenceStream(SHAPE, seeds, is_guided=False)
