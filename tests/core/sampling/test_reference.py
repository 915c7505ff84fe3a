"""The reference's own samplers against loops written out from docs/model.md 7.1."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.diffusion import space_timesteps
from latte_core.errors import IncompatibleInputsError, InvalidInputError, NonFiniteError
from latte_core.sampling import invert_reference, sample_reference
from latte_core.types import StepInfo

SHAPE = (2, 4, 3, 8, 8)  # what tiny_latte was made for
LABELS = torch.tensor([1, 4])
Model = Callable[..., Tensor]


class Calm:
    """A Latte that mostly sees its input's own noise, so that a run stays of about unit size.

    The raw output of random weights lets a run grow a thousandfold, which hides small mistakes.
    """

    def __init__(self, **changes: Any) -> None:
        self.latte = tiny_latte(**changes)
        self.config = self.latte.config

    def __call__(
        self, latents: Tensor, timesteps: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        alphas = torch.tensor(formula_products())[timesteps].view(-1, 1, 1, 1, 1)
        out = self.latte(latents, timesteps, class_labels)
        eps = (1 - alphas).sqrt() * latents + 0.3 * alphas.sqrt() * out[:, :4].tanh()
        return torch.cat([eps, out[:, 4:].tanh()], 1)


def drawn(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fixed_noise(step_index: int) -> Tensor:
    return drawn(1000 + step_index)


def formula_products() -> list[float]:
    """Cumulative products of 1 - beta, linear betas 1e-4 .. 2e-2, in Python floats."""
    products, product = [1.0], 1.0
    for index in range(1000):
        product *= 1 - (1e-4 + index * (2e-2 - 1e-4) / 999)
        products.append(product)
    return products[1:]


def formula_timesteps(count: int) -> list[int]:
    """Timesteps of one section, ascending."""
    position, timesteps = 0.0, []
    for _ in range(count):
        timesteps.append(round(position))
        position += 999 / (count - 1)
    return timesteps


def predict(model: Model, x: Tensor, t: int, labels: Tensor | None, scale: float) -> Tensor:
    """Output of the model, guided on the first four channels (docs/model.md 2.9)."""
    times = torch.full((len(x),), t)
    with torch.no_grad():
        followed = model(x, times, labels)
        if scale == 1.0 or labels is None:
            return followed
        unguided = model(x, times, torch.full_like(labels, 5))  # tiny_latte has 5 classes
    eps = unguided[:, :4] + scale * (followed[:, :4] - unguided[:, :4])
    return torch.cat([eps, followed[:, 4:]], 1)


def closed_form_ddpm(model: Model, x: Tensor, labels: Tensor | None, scale: float) -> Tensor:
    products, timesteps = formula_products(), formula_timesteps(250)
    a = [products[t] for t in timesteps]
    before = [1.0, *a[:-1]]
    beta = [1 - now / then for now, then in zip(a, before, strict=True)]
    low = [b * (1 - p) / (1 - q) for b, p, q in zip(beta, before, a, strict=True)]
    low[0] = low[1]
    for j in reversed(range(250)):
        out = predict(model, x, timesteps[j], labels, scale)
        eps, v = out[:, :4], out[:, 4:]
        x0 = math.sqrt(1 / a[j]) * x - math.sqrt(1 / a[j] - 1) * eps
        mean = (beta[j] * math.sqrt(before[j]) / (1 - a[j])) * x0
        mean = mean + ((1 - before[j]) * math.sqrt(1 - beta[j]) / (1 - a[j])) * x
        share = (v + 1) / 2
        log_variance = share * math.log(beta[j]) + (1 - share) * math.log(low[j])
        noise = fixed_noise(249 - j)
        x = mean + torch.exp(0.5 * log_variance) * noise if j else mean
    return x


def closed_form_ddim(
    model: Model, x: Tensor, labels: Tensor | None, scale: float, eta: float
) -> Tensor:
    products, timesteps = formula_products(), formula_timesteps(250)
    a = [products[t] for t in timesteps]
    for j in reversed(range(250)):
        before = a[j - 1] if j else 1.0
        eps = predict(model, x, timesteps[j], labels, scale)[:, :4]
        x0 = math.sqrt(1 / a[j]) * x - math.sqrt(1 / a[j] - 1) * eps
        again = (math.sqrt(1 / a[j]) * x - x0) / math.sqrt(1 / a[j] - 1)
        sigma = eta * math.sqrt((1 - before) / (1 - a[j])) * math.sqrt(1 - a[j] / before)
        x = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * again
        x = x + sigma * fixed_noise(249 - j) if j else x
    return x


def relative(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


CONDITIONS: list[tuple[dict[str, Any], Tensor | None, float]] = [
    ({"conditioning": "none", "num_classes": 0}, None, 1.0),
    ({}, LABELS, 1.0),
    ({}, LABELS, 7.0),
]
NAMES = ["unconditional", "class", "guided"]


@pytest.mark.parametrize(("changes", "labels", "scale"), CONDITIONS, ids=NAMES)
def test_ddpm_250_equals_the_closed_form(
    changes: dict[str, Any], labels: Tensor | None, scale: float
) -> None:
    model = Calm(**changes)
    expected = closed_form_ddpm(model, drawn(0), labels, scale)
    ours = sample_reference(
        model, drawn(0), guidance_scale=scale, class_labels=labels, noise=fixed_noise
    )
    assert expected.abs().max() < 20
    assert relative(ours, expected) <= 1e-4
    # one batch of twice the videos may round otherwise than two batches
    assert scale > 1 or torch.equal(ours, expected)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize(("changes", "labels", "scale"), CONDITIONS, ids=NAMES)
def test_ddim_250_equals_the_closed_form(
    changes: dict[str, Any], labels: Tensor | None, scale: float, eta: float
) -> None:
    model = Calm(**changes)
    expected = closed_form_ddim(model, drawn(0), labels, scale, eta)
    ours = sample_reference(
        model,
        drawn(0),
        method="ddim",
        guidance_scale=scale,
        class_labels=labels,
        eta=eta,
        noise=fixed_noise,
    )
    assert expected.abs().max() < 20
    assert relative(ours, expected) <= 1e-4


@pytest.mark.parametrize(("method", "scale"), [("ddpm", 1.0), ("ddim", 7.0)])
@pytest.mark.parametrize("steps", ["10,15,20", "ddim50", 7])
def test_model_is_told_the_training_timesteps_of_the_step_string(
    steps: str | int, method: str, scale: float
) -> None:
    model, told = Calm(), list[Tensor]()

    def listens(latents: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        told.append(timesteps)
        return model(latents, timesteps, labels)

    listens.config = model.config  # pyright: ignore[reportFunctionMemberAccess]
    sample_reference(listens, drawn(0), method, steps, scale, LABELS)

    expected = space_timesteps(steps)
    assert {values.dtype for values in told} == {torch.int64}
    assert all(len(set(values.tolist())) == 1 for values in told)
    assert [int(values[0]) for values in told] == list(reversed(expected))


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("method", ["ddpm", "ddim"])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_noise_is_asked_for_at_every_step_in_order(method: str, scale: float, eta: float) -> None:
    asked: list[int] = []

    def noise(step_index: int) -> Tensor:
        asked.append(step_index)
        return fixed_noise(step_index)

    sample_reference(Calm(), drawn(0), method, "10", scale, LABELS, eta, noise=noise)
    assert asked == list(range(10))


@pytest.mark.parametrize(("method", "eta"), [("ddpm", 0.0), ("ddim", 1.0)])
@pytest.mark.parametrize(("index", "is_used"), [(0, True), (8, True), (9, False)])
def test_every_step_but_the_last_adds_its_noise(
    method: str, eta: float, index: int, is_used: bool
) -> None:
    def run(change: float) -> Tensor:
        def noise(step: int) -> Tensor:
            return fixed_noise(step) + (change if step == index else 0.0)

        return sample_reference(Calm(), drawn(0), method, "10", 1.0, LABELS, eta, noise=noise)

    assert torch.equal(run(0.0), run(0.5)) is not is_used


def test_ddim_without_eta_does_not_use_the_noise() -> None:
    def run(factor: float) -> Tensor:
        return sample_reference(
            Calm(), drawn(0), "ddim", "10", 7.0, LABELS, noise=lambda i: factor * fixed_noise(i)
        )

    assert torch.equal(run(1.0), run(0.0))


def test_noise_is_used_as_it_is_given_in_half_precision_too() -> None:
    half = sample_reference(
        Calm(), drawn(0), steps="10", class_labels=1, noise=lambda i: fixed_noise(i).half()
    )
    rounded = sample_reference(
        Calm(), drawn(0), steps="10", class_labels=1, noise=lambda i: fixed_noise(i).half().float()
    )
    assert half.dtype == torch.float32 and torch.equal(half, rounded)


def test_noise_of_another_shape_is_refused_at_its_step() -> None:
    def noise(step_index: int) -> Tensor:
        return drawn(0, (4, *SHAPE[1:])) if step_index == 2 else fixed_noise(step_index)

    with pytest.raises(IncompatibleInputsError, match=r"step 2 has shape \(4, 4, 3, 8, 8\)"):
        sample_reference(Calm(), drawn(0), steps="5", class_labels=LABELS, noise=noise)


@pytest.mark.parametrize(("method", "eta"), [("ddpm", 0.0), ("ddim", 0.6)])
def test_batch_of_two_equals_two_batches_of_one(method: str, eta: float) -> None:
    options: dict[str, Any] = {"method": method, "steps": "8", "guidance_scale": 3.0, "eta": eta}
    both = sample_reference(Calm(), drawn(0), class_labels=LABELS, seed=[3, 9], **options)
    apart = [
        sample_reference(
            Calm(), drawn(0)[i : i + 1], class_labels=int(LABELS[i]), seed=seed, **options
        )
        for i, seed in enumerate([3, 9])
    ]
    torch.testing.assert_close(both, torch.cat(apart), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise_order", ["comfyui", "reference"])
def test_seed_decides_the_run_and_the_global_state_does_not(noise_order: str) -> None:
    def run(seed: int) -> Tensor:
        return sample_reference(
            Calm(), drawn(0), steps="5", class_labels=LABELS, seed=seed, noise_order=noise_order
        )

    first = run(4)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(run(4), first) and not torch.equal(run(5), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_callback_sees_each_step_and_the_predicted_clean_latents() -> None:
    clean, seen = drawn(5), list[StepInfo]()
    products = torch.tensor(formula_products(), dtype=torch.float64)

    def perfect(latents: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        alpha = products[timesteps].view(-1, 1, 1, 1, 1).float()
        return (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    result = sample_reference(perfect, drawn(0), steps="20", callback=seen.append)
    assert [info.step for info in seen] == list(range(20))
    assert {info.num_steps for info in seen} == {20}
    assert [info.timestep for info in seen][::19] == [999, 0]
    assert max(float((info.denoised - clean).abs().max()) for info in seen) < 1e-3
    torch.testing.assert_close(result, clean, rtol=0, atol=1e-4)


def test_exception_of_the_callback_ends_the_run_unchanged() -> None:
    class Cancelled(Exception):
        pass

    def cancel(info: StepInfo) -> None:
        if info.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        sample_reference(Calm(), drawn(0), steps="10", class_labels=LABELS, callback=cancel)


@pytest.mark.parametrize("broken_step", [0, 3])
def test_nan_stops_the_run_at_its_step(broken_step: int) -> None:
    model, calls = Calm(), list[int]()

    def breaks(latents: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        calls.append(int(timesteps[0]))
        out = model(latents, timesteps, labels)
        return out * math.nan if len(calls) == broken_step + 1 else out

    with pytest.raises(NonFiniteError, match=f"step {broken_step + 1} of 10"):
        sample_reference(breaks, drawn(0), steps="10", class_labels=LABELS)
    assert len(calls) == broken_step + 1


@pytest.mark.parametrize("was_training", [True, False])
def test_labels_are_not_dropped_and_the_models_mode_is_kept(was_training: bool) -> None:
    model = tiny_latte(class_dropout_prob=0.99)
    expected = sample_reference(model, drawn(0), steps="5", class_labels=LABELS)
    model.train(was_training)
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(sample_reference(model, drawn(0), steps="5", class_labels=LABELS), expected)
    assert [module.training for module in model.modules()] == modes


def test_mode_is_kept_when_the_run_breaks() -> None:
    model = tiny_latte().train()
    with pytest.raises(NonFiniteError):
        sample_reference(model, drawn(0) * math.nan, steps="5", class_labels=LABELS)
    assert model.training


@pytest.mark.parametrize(
    ("shape", "warnings"),
    [((1, 4, 3, 8, 8), 0), ((1, 4, 5, 8, 8), 1), ((1, 4, 3, 8, 12), 1), ((1, 4, 1, 4, 4), 1)],
)
def test_other_lengths_and_sizes_are_said_to_be_unproven_once(
    shape: tuple[int, ...], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "latte"):
        result = sample_reference(tiny_latte(), drawn(0, shape), steps="3", class_labels=1)
    assert result.shape == shape
    assert [r.getMessage().count("unproven") for r in caplog.records] == [1] * warnings


def test_switching_temporal_attention_off_makes_frames_independent() -> None:
    def run(latents: Tensor) -> Tensor:
        return sample_reference(
            tiny_latte(), latents, "ddim", "5", 3.0, LABELS, temporal_attention=False
        )

    changed = drawn(0)
    changed[:, :, 2] += 1
    torch.testing.assert_close(run(changed)[:, :, :2], run(drawn(0))[:, :, :2])


@pytest.mark.parametrize("steps", ["4", "5,3", "ddim10"])
def test_model_without_learned_variance_takes_the_larger_bound(steps: str) -> None:
    """As the authors' process does (FIXED_LARGE); the logits that say so are 1."""
    narrow = tiny_latte(learn_sigma=False)

    def told(latents: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        noise_pred = narrow(latents, timesteps, class_labels)
        return torch.cat([noise_pred, torch.ones_like(noise_pred)], 1)

    options: dict[str, Any] = {"steps": steps, "class_labels": LABELS, "noise": fixed_noise}
    found = sample_reference(narrow, drawn(0), **options)
    expected = sample_reference(told, drawn(0), **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


Case = tuple[dict[str, Any], type[Exception], str]
REFUSED: list[Case] = [
    ({"steps": "fast"}, InvalidInputError, "steps is 'fast'.*'250'"),
    ({"steps": "ddim300"}, InvalidInputError, "no whole stride"),
    ({"method": "euler"}, InvalidInputError, "method is 'euler'.*ddpm, ddim"),
    ({"eta": 1.5}, InvalidInputError, "eta is 1.5"),
    ({"eta": -0.5, "method": "ddim"}, InvalidInputError, "eta is -0.5"),
    ({"guidance_scale": math.nan}, InvalidInputError, "guidance_scale is nan"),
    ({"seed": -1}, InvalidInputError, "seed is -1"),
    ({"seed": [1, 2, 3]}, InvalidInputError, "3 seeds were given for 2 videos"),
    ({"noise_order": "x"}, InvalidInputError, "noise_order is 'x'"),
    ({"class_labels": None}, InvalidInputError, "no class label was given"),
    ({"class_labels": None, "guidance_scale": 4.0}, InvalidInputError, "no class label was given"),
    ({"class_labels": [0, 6]}, InvalidInputError, "class label 6 is out of range"),
    ({"class_labels": [0.5, 1.0]}, InvalidInputError, "whole numbers"),
    ({"class_labels": [0, 1, 2]}, IncompatibleInputsError, r"shape \(3,\) were given for 2 videos"),
    ({"latents": drawn(0)[0]}, IncompatibleInputsError, "latents have shape"),
    ({"latents": drawn(0)[:, :3]}, IncompatibleInputsError, "latents have shape"),
]


@pytest.mark.parametrize(("changes", "error", "says"), REFUSED)
def test_what_cannot_be_used_is_refused_before_the_first_step(
    changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    steps = list[StepInfo]()
    given = {"latents": drawn(0), "class_labels": LABELS, "callback": steps.append, **changes}
    with pytest.raises(error, match=says):
        sample_reference(tiny_latte(), **given)
    assert not steps


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_labels": 1}, "has no classes"),
        ({"guidance_scale": 2.0}, "Use a guidance scale of 1"),
    ],
)
def test_unconditional_model_refuses_label_and_guidance(options: dict[str, Any], says: str) -> None:
    model = tiny_latte(conditioning="none", num_classes=0)
    with pytest.raises(IncompatibleInputsError, match=says):
        sample_reference(model, drawn(0), **options)


def test_text_to_video_model_is_sent_to_its_pipeline() -> None:
    with pytest.raises(IncompatibleInputsError, match="Use Pipeline"):
        sample_reference(tiny_model(), drawn(0))


@pytest.mark.parametrize(("steps", "most"), [("50", 0.2), ("1000", 0.02)])
def test_inversion_finds_the_noise_that_ddim_leads_back_from(steps: str, most: float) -> None:
    """For data drawn from N(0, 1/4) the ODE is solved by x(a) = clean * sqrt(4 - 3 a)."""
    products, clean, seen = formula_products(), 0.5 * drawn(7), list[StepInfo]()

    def model(latents: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        alpha = products[int(timesteps[0])]
        return latents * (math.sqrt(1 - alpha) / (alpha / 4 + 1 - alpha))

    noise = invert_reference(model, clean, steps, callback=seen.append)
    back = sample_reference(model, noise, "ddim", steps)
    assert [info.timestep for info in seen] == formula_timesteps(int(steps))[:-1]
    assert (noise - 2 * clean).abs().max() < most
    assert (back - clean).abs().max() < most


def test_inversion_needs_two_timesteps() -> None:
    with pytest.raises(InvalidInputError, match="single timestep"):
        invert_reference(Calm(), drawn(0), "1", LABELS)
