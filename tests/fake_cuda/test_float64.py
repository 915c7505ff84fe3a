"""R56: what runs on a device asks it for no float64, which some devices do not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from latte_fake_cuda import fake_cuda
from latte_test_support.card_runs import card_for, make_class, make_text
from latte_test_support.comfy.model import host_modules
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latte_core.metrics.inception_score import inception_score
from latte_core.metrics.kernel_distance import squared_discrepancy
from latte_core.metrics.layers import resize_as_tensorflow
from latte_core.metrics.statistics import FeatureStatistics
from latte_core.sampling import SAMPLER_NAMES

pytestmark = [
    pytest.mark.fake_cuda,
    pytest.mark.usefixtures("tiny_tensors_are_streamed_too"),
]
SIGMAS = [14.6, 3.2, 0.7, 0.0]


class NoFloat64(TorchDispatchMode):
    """Fail where an operator of the device reads or makes float64, copies to the host included.

    Such a copy may change the type before it leaves the device.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        if any(one.is_cuda for one in known):
            doubles = [one for one in known if one.dtype == torch.float64]
            # A number without axes on the host is a Python float, which takes the tensor's type.
            assert not [one for one in doubles if one.is_cuda or one.ndim], f"{func}: float64"
        return result


@contextmanager
def device_without_float64() -> Iterator[None]:
    """Have a card that knows no float64."""
    with fake_cuda(), NoFloat64():
        yield


def test_watch_sees_float64_however_it_comes_about() -> None:
    values = torch.ones(3)
    with device_without_float64():
        on_card = values.to("cuda")
        for ask in (
            on_card.double,
            on_card[0].double,
            lambda: on_card.to("cpu", torch.float64),
            lambda: torch.ones(3, dtype=torch.float64, device="cuda"),
            lambda: values.double().to("cuda"),
        ):
            with pytest.raises(AssertionError, match="float64"):
                ask()
        assert on_card.cpu().double().tolist() == [1, 1, 1]


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_text_pipeline_needs_no_float64(text_folder: Path, sampler: str) -> None:
    with card_for() as card, NoFloat64():
        made = make_text(text_folder, card, sampler=sampler)
        assert made.frames is not None


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("noise_order", ["comfyui", "reference"])
def test_class_pipeline_needs_no_float64(
    class_folders: dict[int, Path], method: str, noise_order: str
) -> None:
    given: dict[str, Any] = {"method": method, "noise_order": noise_order, "class_labels": 1}
    with card_for() as card, NoFloat64():
        made = make_class(class_folders[1], card, **given)
        assert made.frames is not None


@pytest.mark.parametrize("vae", ["temporal", "image"])
def test_decoding_in_tiles_needs_no_float64(text_folder: Path, vae: str) -> None:
    with card_for("6") as card, NoFloat64():
        assert make_text(text_folder, card, memory="6", vae=vae).frames is not None


def run_sampler(part: Any, method: str, device: str) -> Tensor:
    """Return what a sampler function of ComfyUI makes with a model that halves its input."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4, 4, 4, generator=generator).to(device)
    host = part("run.sampler_functions")

    def model(scaled: Tensor, sigma: Tensor, **more: Any) -> Tensor:
        options = more.get("model_options", {}).get("transformer_options", {})
        collector = options.get(host.VARIANCE_COLLECTOR)
        if collector is not None:
            collector.put([0], torch.zeros_like(scaled))
        return scaled / (2 + sigma[:, None, None, None])

    model.noise, model.latent_image = noise, None  # type: ignore[attr-defined]
    inner = SimpleNamespace(manual_cast_dtype=torch.float32)
    model.inner_model = SimpleNamespace(inner_model=inner)  # type: ignore[attr-defined]
    sigmas = torch.tensor(SIGMAS).to(device)
    if method == "ddim":
        return host.sample_ddim(model, noise, sigmas, eta=0.5, step_noise=torch.ones)
    return host.sample_ddpm(model, noise, sigmas, step_noise=torch.ones)


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_sampler_of_comfyui_needs_no_float64(method: str) -> None:
    with host_modules() as part:
        expected = run_sampler(part, method, "cpu")
        with device_without_float64():
            found = run_sampler(part, method, "cuda").cpu()
    assert torch.equal(found, expected)


def test_metrics_need_no_float64() -> None:
    planes = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = resize_as_tensorflow(planes, 5)
    with device_without_float64():
        on_card = planes.to("cuda")
        assert torch.equal(resize_as_tensorflow(on_card, 5).cpu(), expected)
        rows = on_card.flatten(1)
        FeatureStatistics(rows.shape[1]).add(rows)
        inception_score(rows.softmax(1), num_splits=1)
        squared_discrepancy(rows, rows.flip(1))
