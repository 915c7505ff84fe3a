"""Which timesteps a run visits and which noise level each step ends at, worked out by hand."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from latte_core.errors import InvalidInputError
from latte_core.sampling import (
    SAMPLER_NAMES,
    ScheduleSettings,
    make_noise,
    make_step_noise,
    make_stepper,
    sample,
)

SHAPE = (2, 4, 3, 4, 6)
ODD_COUNTS = (7, 60, 300, 600)  # 1000 over each of these is not whole, and rounds up for three
COMMON = {"beta_start": 1e-4, "beta_end": 2e-2, "beta_schedule": "linear", "clip_sample": False}


def alphas() -> list[float]:
    """Products of 1 - beta for betas from 1e-4 to 2e-2, in Python floats."""
    products: list[float] = []
    product = 1.0
    for index in range(1000):
        product *= 1 - (1e-4 + index * (2e-2 - 1e-4) / 999)
        products.append(product)
    return products


def smooth_model(latents: Tensor, timesteps: Tensor) -> Tensor:
    return torch.sin(latents * 1.3) + 0.2 * torch.cos(timesteps / 100).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [852, 710, 568, 426, 284, 142, 0]),
        ({"steps_offset": 1}, [853, 711, 569, 427, 285, 143, 1]),
        ({"steps_offset": 10}, [862, 720, 578, 436, 294, 152, 10]),
        ({"timestep_spacing": "linspace"}, [999, 832, 666, 500, 333, 166, 0]),
        ({"timestep_spacing": "trailing"}, [999, 856, 713, 570, 428, 285, 142]),
        ({"timestep_spacing": "linspace", "steps_offset": 1}, [999, 832, 666, 500, 333, 166, 0]),
        ({"timestep_spacing": "trailing", "steps_offset": 1}, [999, 856, 713, 570, 428, 285, 142]),
    ],
)
def test_seven_steps_visit_these_timesteps(changes: dict[str, object], expected: list[int]) -> None:
    assert ScheduleSettings.from_dict(changes).timesteps(7) == expected


def test_linspace_rounds_to_the_nearest_timestep() -> None:
    settings = ScheduleSettings(timestep_spacing="linspace")
    assert settings.timesteps(8) == [999, 856, 714, 571, 428, 285, 143, 0]


@pytest.mark.parametrize(
    ("num_steps", "stride"), [(7, 142), (15, 66), (60, 16), (300, 3), (600, 1), (999, 1)]
)
def test_leading_goes_down_by_the_whole_part_of_the_stride(num_steps: int, stride: int) -> None:
    highest = stride * (num_steps - 1)
    assert ScheduleSettings().timesteps(num_steps) == list(range(highest, -1, -stride))


@pytest.mark.parametrize("offset", [0, 1, 7])
@pytest.mark.parametrize("num_steps", ODD_COUNTS)
def test_ddim_step_ends_one_whole_stride_below_its_timestep(num_steps: int, offset: int) -> None:
    """Latents that are noise alone keep it: a step scales them to the level that it ends at."""
    settings = ScheduleSettings(steps_offset=offset)
    stepper = make_stepper("ddim", num_steps, noise=make_step_noise(SHAPE, 0), settings=settings)
    noise, table, stride = make_noise(SHAPE, 3), alphas(), 1000 // num_steps
    for call in (0, num_steps // 2, num_steps - 2):
        timestep = stride * (num_steps - 1 - call) + offset
        assert stepper.timesteps[call] == timestep
        following = stepper.step(noise, call, (1 - table[timestep]) ** 0.5 * noise)
        level = 1 - table[timestep - stride]
        torch.testing.assert_close(following, level**0.5 * noise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_steps", ODD_COUNTS)
def test_ddpm_step_ends_one_whole_stride_below_its_timestep(num_steps: int) -> None:
    """For clean latents of zero, the mean is (1 - b) sqrt(1 - beta) / (1 - a) of the latents."""
    noise, table, stride = make_noise(SHAPE, 3), alphas(), 1000 // num_steps
    for call in (0, num_steps // 2, num_steps - 2):
        timestep = stride * (num_steps - 1 - call)
        a, b = table[timestep], table[timestep - stride]
        latents = (1 - a) ** 0.5 * noise
        ends = [
            make_stepper("ddpm", num_steps, noise=make_step_noise(SHAPE, 0)).step(
                sign * noise, call, sign * latents
            )
            for sign in (1, -1)
        ]
        mean = (ends[0] - ends[1]) / 2  # both were given the same noise, which cancels
        expected = (1 - b) * (a / b) ** 0.5 / (1 - a) * latents
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("num_steps", [3, 7, 15, 60])
@pytest.mark.parametrize(
    "options",
    [
        {"timestep_spacing": "leading"},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "trailing"},
    ],
)
def test_ddim_of_any_number_of_steps_equals_diffusers(
    options: dict[str, object], num_steps: int
) -> None:
    scheduler = diffusers.DDIMScheduler(**COMMON, **options)
    scheduler.set_timesteps(num_steps)
    expected = noise = make_noise(SHAPE, 5)
    for timestep in scheduler.timesteps:
        prediction = smooth_model(expected, timestep.expand(len(noise)).float())
        expected = scheduler.step(prediction, timestep, expected, return_dict=False)[0]
    settings = ScheduleSettings.from_dict(dict(scheduler.config))
    ours = sample(smooth_model, noise, num_steps=num_steps, settings=settings)
    # float32 tables there, float64 here; x0 at timestep 980 magnifies rounding 130 times
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", ["euler", "heun", "pndm", "dpmsolver_multistep"])
def test_offset_reaches_the_schedulers_of_diffusers(name: str) -> None:
    noise = make_step_noise(SHAPE, 0)
    plain = make_stepper(name, 50, noise=noise).timesteps
    settings = ScheduleSettings(steps_offset=3)
    shifted = make_stepper(name, 50, noise=noise, settings=settings).timesteps
    assert shifted == [timestep + 3 for timestep in plain]


@pytest.mark.parametrize(
    ("name", "num_steps", "offset", "begin"),
    [
        ("ddim", 1000, 1, 1000),
        ("ddpm", 500, 2, 1000),
        ("ddim", 100, 10, 1000),
        ("euler", 1000, 1, 1000),
        ("heun", 333, 5, 1001),
        ("dpmsolver_multistep", 999, 1, 1000),
    ],
)
def test_offset_that_leads_beyond_the_last_timestep_is_refused(
    name: str, num_steps: int, offset: int, begin: int
) -> None:
    settings = ScheduleSettings(steps_offset=offset)
    words = rf"^{num_steps} steps with steps_offset = {offset} .* timestep {begin}, .* is 999\."
    with pytest.raises(InvalidInputError, match=words):
        make_stepper(name, num_steps, noise=make_step_noise(SHAPE, 0), settings=settings)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_advice_about_the_offset_works(name: str) -> None:
    """Fifty steps take every offset, and the last timestep may be visited."""
    noise = make_step_noise(SHAPE, 0)
    for settings, num_steps in ((ScheduleSettings(steps_offset=10), 50), (ScheduleSettings(), 998)):
        stepper = make_stepper(name, num_steps, noise=noise, settings=settings)
        assert 0 <= min(stepper.timesteps) and max(stepper.timesteps) <= 999


def test_offset_may_lead_to_the_last_timestep() -> None:
    visits = ScheduleSettings(steps_offset=1).timesteps(999)
    assert visits == list(range(999, 0, -1))
