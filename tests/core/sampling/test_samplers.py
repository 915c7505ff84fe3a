"""All ten samplers, in closed form first."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from torch import Tensor

from latte_core.errors import InvalidInputError, NonFiniteError
from latte_core.sampling import (
    SAMPLER_NAMES,
    ScheduleSettings,
    make_noise,
    make_step_noise,
    make_stepper,
    resolve_sampler,
    sample,
)
from latte_core.sampling.stepper import AlphaTable
from latte_core.types import StepInfo

SHAPE = (2, 4, 3, 4, 6)
ALPHAS = AlphaTable.from_tensor(ScheduleSettings().alphas_cumprod())
# The reference's PNDM and DEIS end at the first training noise level, sigma 0.01, and KDPM2's last
# half step sits between that and zero: 0.01 of the start noise stays, up to 4.3 sigma of it.
LEFT_OVER = {"pndm": 0.05, "deis": 0.05, "kdpm2_ancestral": 0.05}


class PerfectDenoiser:
    """A model that knows the clean latents: it answers with exactly the noise in its input."""

    def __init__(self, clean: Tensor, channels: int = 8) -> None:
        self.clean = clean
        self.channels = channels
        self.calls: list[float] = []

    def __call__(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        self.calls.append(float(timesteps[0]))
        alpha = ALPHAS.between(float(timesteps[0]))
        noise = (latents - alpha**0.5 * self.clean) / (1 - alpha) ** 0.5
        return torch.cat([noise, torch.zeros_like(noise)], 1)[:, : self.channels]


def clean_latents() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("num_steps", [8, 50])
def test_perfect_denoiser_gives_the_clean_latents(name: str, num_steps: int) -> None:
    model = PerfectDenoiser(clean_latents())
    result = sample(model, make_noise(SHAPE, [1, 2]), sampler=name, num_steps=num_steps)
    difference = (result - model.clean).abs().max()
    assert difference < LEFT_OVER.get(name, 1e-3)


CALLS = {"heun": 99, "kdpm2_ancestral": 99, "pndm": 59}
FIRST_TIMESTEPS = {
    "ddim": [980, 960, 940],
    "ddpm": [980, 960, 940],
    "euler": [980, 960, 940],
    "euler_ancestral": [980, 960, 940],
    "heun": [980, 960, 960, 940],
    "kdpm2_ancestral": [980, 960, 960, 940],
    "pndm": [980, 970, 970, 960],
    "deis": [950, 931, 912],
}
START_SCALE = {name: 130.148 for name in ("euler", "euler_ancestral", "heun", "kdpm2_ancestral")}


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_fifty_steps_call_the_model_as_often_as_the_reference(name: str) -> None:
    model = PerfectDenoiser(clean_latents())
    result = sample(model, make_noise(SHAPE, [1, 2]), sampler=name, num_steps=50)
    assert len(model.calls) == CALLS.get(name, 50)
    assert bool(torch.isfinite(result).all())


@pytest.mark.parametrize("name", FIRST_TIMESTEPS)
def test_first_timesteps_are_the_references(name: str) -> None:
    stepper = make_stepper(name, 50, noise=make_step_noise(SHAPE, 0))
    expected = FIRST_TIMESTEPS[name]
    assert stepper.timesteps[: len(expected)] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_start_noise_is_scaled_as_in_the_reference(name: str) -> None:
    stepper = make_stepper(name, 50, noise=make_step_noise(SHAPE, 0))
    assert stepper.initial_sigma == pytest.approx(START_SCALE.get(name, 1.0), abs=1e-3)


@pytest.mark.parametrize("spacing_and_scale", [("leading", 130.148), ("linspace", 157.407)])
def test_start_scale_of_euler_follows_the_spacing(spacing_and_scale: tuple[str, float]) -> None:
    spacing, scale = spacing_and_scale
    settings = ScheduleSettings(timestep_spacing=spacing)
    noise = make_step_noise(SHAPE, 0)
    stepper = make_stepper("euler", 50, noise=noise, settings=settings)
    # linspace classes leave out the +1 under the root, as the reference's library does
    assert stepper.initial_sigma == pytest.approx(scale, abs=2e-2)


TOO_FEW_OR_MANY = {
    ("pndm", 1),
    ("pndm", 2),
    ("pndm", 3),
    ("deis", 1000),
    ("dpmsolver_multistep", 1000),
}
STEP_CASES = [(name, count) for name in SAMPLER_NAMES for count in (1, 2, 3, 4, 7, 30, 1000)]


@pytest.mark.parametrize(
    ("name", "num_steps"), [case for case in STEP_CASES if case not in TOO_FEW_OR_MANY]
)
def test_any_number_of_steps_ends_finite(name: str, num_steps: int) -> None:
    model = PerfectDenoiser(clean_latents())
    result = sample(model, make_noise(SHAPE, [1, 2]), sampler=name, num_steps=num_steps)
    assert bool(torch.isfinite(result).all())


@pytest.mark.parametrize(("name", "num_steps"), sorted(TOO_FEW_OR_MANY))
def test_number_of_steps_a_scheduler_cannot_make_is_refused(name: str, num_steps: int) -> None:
    with pytest.raises(InvalidInputError, match="whole number from"):
        make_stepper(name, num_steps, noise=make_step_noise(SHAPE, 0))


@pytest.mark.parametrize("num_steps", [0, -1, 1001, True, 2.0])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_impossible_number_of_steps_is_refused(name: str, num_steps: int) -> None:
    with pytest.raises(InvalidInputError, match="steps"):
        sample(PerfectDenoiser(clean_latents()), clean_latents(), sampler=name, num_steps=num_steps)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("DDIM", "ddim"),
        ("EulerDiscrete", "euler"),
        ("DDPM", "ddpm"),
        ("DPMSolverMultistep", "dpmsolver_multistep"),
        ("DPMSolverSinglestep", "dpmsolver_singlestep"),
        ("PNDM", "pndm"),
        ("HeunDiscrete", "heun"),
        ("EulerAncestralDiscrete", "euler_ancestral"),
        ("DEISMultistep", "deis"),
        ("KDPM2AncestralDiscrete", "kdpm2_ancestral"),
        ("EulerDiscreteScheduler", "euler"),
    ],
)
def test_reference_spelling_of_a_sampler_is_understood(given: str, expected: str) -> None:
    assert resolve_sampler(given) == expected


def test_unknown_sampler_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInputError, match="Did you mean 'euler_ancestral'"):
        resolve_sampler("euler_ancestrall")


def test_fifty_ddim_steps_visit_980_down_to_0() -> None:
    assert ScheduleSettings().timesteps(50) == list(range(980, -1, -20))


def test_alpha_products_match_the_printed_digits() -> None:
    table = ScheduleSettings().alphas_cumprod()
    picked = [float(table[index]) for index in (0, 20, 500, 980, 999)]
    assert picked == pytest.approx([0.9999, 0.9937354, 0.0777967, 5.90375e-05, 4.03583e-05], 1e-5)


def reference_run(scheduler: object, model: object, noise: Tensor, **options: object) -> Tensor:
    """Drive a diffusers scheduler as its pipelines do."""
    scheduler.set_timesteps(10)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        prediction = model(
            scheduler.scale_model_input(latents, timestep), timestep.expand(len(latents)).float()
        )
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
    return latents


def wavy_model(channels: int) -> object:
    """Return a smooth stand-in for a network: depends on latents and time, mixes nothing."""

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        base = torch.sin(latents * 1.3) + 0.2 * torch.cos(timesteps / 100).view(-1, 1, 1, 1, 1)
        return torch.cat([base, torch.tanh(latents)], 1)[:, :channels]

    return predict


COMMON = {"beta_start": 1e-4, "beta_end": 2e-2, "beta_schedule": "linear", "clip_sample": False}


@pytest.mark.parity
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_ddim_equals_diffusers(eta: float, spacing: str) -> None:
    scheduler = diffusers.DDIMScheduler(**COMMON, timestep_spacing=spacing)
    shape = (1, *SHAPE[1:])
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(shape, generator=generator)
    expected = reference_run(scheduler, wavy_model(4), noise, eta=eta, generator=generator)
    ours = sample(
        wavy_model(8),
        make_noise(shape, 5, "reference"),
        num_steps=10,
        eta=eta,
        step_noise=make_step_noise(shape, 5, "reference"),
        settings=ScheduleSettings(timestep_spacing=spacing),
    )
    # float32 tables there, float64 here; x0 at timestep 980 magnifies rounding 130 times
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parity
@pytest.mark.parametrize("options", [{"clip_sample": True}, {"set_alpha_to_one": False}])
def test_ddim_follows_the_options_of_a_scheduler_file(options: dict[str, bool]) -> None:
    scheduler = diffusers.DDIMScheduler(**{**COMMON, **options})
    noise = make_noise(SHAPE, 5)
    expected = reference_run(scheduler, wavy_model(4), noise)
    settings = ScheduleSettings.from_dict(dict(scheduler.config))
    ours = sample(wavy_model(8), noise, num_steps=10, settings=settings)
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "options"),
    [("DDPM", {"clip_sample": True}), ("Heun", {"clip_sample": True}), ("PNDM", {})],
)
def test_scheduler_file_of_ddim_builds_the_others_as_the_reference_does(
    name: str, options: dict[str, bool]
) -> None:
    # as the file holds it: the note of which values were defaults is not written
    written = json.loads(diffusers.DDIMScheduler(**{**COMMON, **options}).to_json_string())
    full = {"Heun": "HeunDiscrete"}.get(name, name)
    scheduler = getattr(diffusers, f"{full}Scheduler").from_config(written)
    shape = (1, *SHAPE[1:])
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(shape, generator=generator)
    extra = {"generator": generator} if name == "DDPM" else {}
    expected = reference_run(scheduler, wavy_model(4), noise, **extra)
    ours = sample(
        wavy_model(4),
        noise,
        sampler=full,
        num_steps=10,
        step_noise=make_step_noise(shape, 5, "reference"),
        settings=ScheduleSettings.from_dict(written),
    )
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parity
@pytest.mark.parametrize(("variance_type", "channels"), [("learned_range", 8), ("fixed_small", 4)])
def test_ddpm_equals_diffusers(variance_type: str, channels: int) -> None:
    scheduler = diffusers.DDPMScheduler(
        **COMMON, timestep_spacing="leading", variance_type=variance_type
    )
    shape = (1, *SHAPE[1:])
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(shape, generator=generator)
    expected = reference_run(scheduler, wavy_model(channels), noise, generator=generator)
    ours = sample(
        wavy_model(channels),
        make_noise(shape, 5, "reference"),
        sampler="ddpm",
        num_steps=10,
        step_noise=make_step_noise(shape, 5, "reference"),
    )
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parity
def test_euler_ancestral_equals_diffusers_in_reference_order() -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", timestep_spacing="leading"
    )
    shape = (1, *SHAPE[1:])
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(shape, generator=generator)
    expected = reference_run(scheduler, wavy_model(4), noise, generator=generator)
    ours = sample(
        wavy_model(8),
        make_noise(shape, 5, "reference"),
        sampler="euler_ancestral",
        num_steps=10,
        step_noise=make_step_noise(shape, 5, "reference"),
    )
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_callback_sees_every_call_and_the_predicted_clean_latents(name: str) -> None:
    model = PerfectDenoiser(clean_latents())
    seen: list[StepInfo] = []
    sample(
        model, make_noise(SHAPE, [1, 2]), sampler=name, num_steps=6, callback=seen.append, eta=0.3
    )
    assert [info.step for info in seen] == list(range(len(model.calls)))
    assert {info.num_steps for info in seen} == {len(model.calls)}
    assert [info.timestep for info in seen] == model.calls
    assert max(float((info.denoised - model.clean).abs().max()) for info in seen) < 1e-3


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_batch_of_two_equals_two_batches_of_one(name: str) -> None:
    model = wavy_model(8)
    together = sample(
        model,
        make_noise(SHAPE, [3, 9]),
        sampler=name,
        num_steps=6,
        eta=0.5,
        step_noise=make_step_noise(SHAPE, [3, 9]),
    )
    one = (1, *SHAPE[1:])
    apart = [
        sample(
            model,
            make_noise(one, seed),
            sampler=name,
            num_steps=6,
            eta=0.5,
            step_noise=make_step_noise(one, seed),
        )
        for seed in (3, 9)
    ]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(InvalidInputError, match="eta"):
        sample(wavy_model(8), clean_latents(), eta=eta)


def test_scheduler_file_of_another_kind_of_model_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="prediction_type"):
        ScheduleSettings.from_dict({"prediction_type": "v_prediction"})


def test_scheduler_file_sets_spacing_and_betas() -> None:
    settings = ScheduleSettings.from_dict(
        {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace", "beta_end": 0.012}
    )
    assert settings == ScheduleSettings(timestep_spacing="linspace", beta_end=0.012)


@pytest.mark.parametrize(
    "values",
    [
        {"beta_start": 0.5, "beta_end": 0.1},
        {"beta_schedule": "cosine"},
        {"timestep_spacing": "x"},
        {"clip_sample": True, "clip_sample_range": 0},
        {"steps_offset": -1},
    ],
)
def test_meaningless_schedule_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        ScheduleSettings.from_dict(values)


def test_scaled_linear_schedule_equals_diffusers() -> None:
    settings = ScheduleSettings(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    difference = settings.alphas_cumprod() - scheduler.alphas_cumprod.double()
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("broken_call", [0, 3])
def test_r32_nan_stops_the_run_at_its_step(name: str, broken_call: int) -> None:
    model = wavy_model(8)
    calls: list[float] = []

    def breaks(latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(float(timesteps[0]))
        result = model(latents, timesteps)
        return result * float("nan") if len(calls) == broken_call + 1 else result

    with pytest.raises(NonFiniteError, match=rf"step {broken_call + 1} of .*float16.*bfloat16"):
        sample(
            breaks,
            make_noise(SHAPE, [1, 2]),
            sampler=name,
            num_steps=6,
            compute_dtype=torch.float16,
        )
    assert len(calls) == broken_call + 1
