"""The public face of latte_core: names, arguments, order, defaults. Additions are welcome, changes
are not: an edit of the recorded lists below breaks somebody's script.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.pipeline import TRANSFORMER, write_tiny_latte

import latte_core
from latte_core import errors
from latte_core.model.latte.transformer import Latte
from latte_core.model.t2v.transformer import LatteT2V

REQUIRED = inspect.Parameter.empty

CALL: dict[str, Any] = {
    "prompt": REQUIRED,
    "negative_prompt": "",
    "num_frames": 16,
    "height": None,
    "width": None,
    "num_steps": 50,
    "guidance_scale": 7.5,
    "sampler": "ddim",
    "seed": 0,
    "eta": 0.0,
    "noise_order": "comfyui",
    "latents": None,
    "prompt_embeds": None,
    "negative_embeds": None,
    "clean_caption": True,
    "mask_feature": True,
    "temporal_attention": True,
    "vae": "temporal",
    "decode_chunk": None,
    "output": "frames",
    "callback": None,
}
LOAD: dict[str, Any] = {"path": REQUIRED, "config": None, "dtype": torch.float32, "device": "cpu"}
SAMPLE: dict[str, Any] = {
    "model": REQUIRED,
    "latents": REQUIRED,
    "method": "ddpm",
    "steps": "250",
    "guidance_scale": 1.0,
    "class_labels": None,
    "eta": 0.0,
    "seed": 0,
    "noise": None,
    "callback": None,
}
OPEN: dict[str, Any] = {"folder": REQUIRED, "dtype": None, "device": None}
CLASS_FORWARD: dict[str, Any] = {"latents": REQUIRED, "timesteps": REQUIRED, "class_labels": None}
FORWARD = ["latents", "timesteps", "context", "attention_mask", "enable_temporal_attention"]
NAMES = {
    "CheckpointError",
    "CorruptCheckpointError",
    "IncompatibleInputsError",
    "InvalidInputError",
    "LatteError",
    "LatteT2VConfig",
    "MissingDependencyError",
    "NonFiniteError",
    "Pipeline",
    "PipelineResult",
    "UnknownArchitectureError",
    "UnsafeCheckpointError",
    "VideoWriteError",
    "WeightMismatchError",
    "__version__",
    "load_transformer",
    "sample_reference",
}
PARENTS = {
    "InvalidInputError": ("LatteError", ValueError),
    "IncompatibleInputsError": ("InvalidInputError", ValueError),
    "CheckpointError": ("LatteError", ValueError),
    "UnsafeCheckpointError": ("CheckpointError", ValueError),
    "CorruptCheckpointError": ("CheckpointError", ValueError),
    "UnknownArchitectureError": ("CheckpointError", ValueError),
    "WeightMismatchError": ("CheckpointError", ValueError),
    "NonFiniteError": ("LatteError", ArithmeticError),
    "MissingDependencyError": ("LatteError", ImportError),
    "VideoWriteError": ("LatteError", OSError),
}


def check_frozen(function: Callable[..., Any], recorded: dict[str, Any]) -> None:
    """The recorded arguments come first, in order, as recorded; others need a default."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    first, more = parameters[: len(recorded)], parameters[len(recorded) :]
    assert {p.name: p.default for p in first} == recorded
    assert [p.name for p in first] == list(recorded)
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in first)
    assert all(p.default is not REQUIRED for p in more), "a new argument without a default"


def test_every_public_name_is_there() -> None:
    assert set(latte_core.__all__) == NAMES
    assert set(dir(latte_core)) >= NAMES
    assert all(getattr(latte_core, name) is not None for name in NAMES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = latte_core.Pipelin


def test_load_transformer_keeps_its_arguments() -> None:
    check_frozen(latte_core.load_transformer, LOAD)


def test_sample_reference_keeps_its_arguments() -> None:
    check_frozen(latte_core.sample_reference, SAMPLE)


def test_pipeline_keeps_its_arguments() -> None:
    check_frozen(latte_core.Pipeline.from_pretrained, OPEN)
    check_frozen(latte_core.Pipeline.__call__, CALL)


def test_transformer_keeps_its_arguments() -> None:
    parameters = inspect.signature(LatteT2V.forward).parameters
    assert list(parameters)[1:6] == FORWARD
    assert parameters["attention_mask"].default is None
    assert parameters["enable_temporal_attention"].default is True


def test_class_transformer_keeps_its_arguments() -> None:
    check_frozen(Latte.forward, CLASS_FORWARD)


def test_class_transformer_gives_noise_and_variance_for_any_count_and_shape() -> None:
    model = tiny_latte()
    with torch.no_grad():
        out = model(torch.randn(2, 4, 5, 4, 6), torch.tensor([10, 500]), torch.tensor([0, 5]))
    assert out.shape == (2, 8, 5, 4, 6)


@pytest.mark.parametrize(("name", "parents"), PARENTS.items())
def test_errors_keep_their_places_in_the_tree(name: str, parents: tuple[str, type]) -> None:
    error = getattr(latte_core, name)
    assert issubclass(error, getattr(errors, parents[0]))
    assert issubclass(error, parents[1])


def test_from_config_builds_on_the_current_default_device() -> None:
    with torch.device("meta"):
        model = LatteT2V.from_config(TRANSFORMER)
    assert {value.device.type for value in model.parameters()} == {"meta"}


def test_transformer_gives_noise_and_variance_for_any_count_and_shape() -> None:
    model = LatteT2V.from_config(TRANSFORMER)
    latents, context = (
        torch.randn(2, 4, 3, 4, 6),
        torch.randn(2, 5, TRANSFORMER["caption_channels"]),
    )
    with torch.no_grad():
        out = model(latents, torch.tensor([10, 500]), context, torch.ones(2, 5))
    assert out.shape == (2, 8, 3, 4, 6)


def test_result_has_frames_and_latents_for_one_prompt_and_for_several(tmp_path: Path) -> None:
    assert {field.name for field in fields(latte_core.PipelineResult)} >= {"frames", "latents"}
    pipeline = latte_core.Pipeline.from_pretrained(write_tiny_latte(tmp_path))
    size = {"num_frames": 2, "height": 32, "width": 48, "num_steps": 1}

    one = pipeline("a red circle", **size)
    two = pipeline(["a red circle", "a blue square"], seed=[1, 2], vae="image", **size)
    latents = pipeline("a red circle", output="latents", **size)

    assert one.frames is not None and one.frames.shape == (2, 32, 48, 3)
    assert one.frames.dtype == torch.float32 and 0 <= one.frames.min() <= one.frames.max() <= 1
    assert two.frames is not None and two.frames.shape == (2, 2, 32, 48, 3)
    assert one.latents.shape == (1, 4, 2, 4, 6) and two.latents.shape == (2, 4, 2, 4, 6)
    assert latents.frames is None and torch.equal(latents.latents, one.latents)


@pytest.mark.parametrize("name", ["acceleration", "memory", "sampling", "video"])
def test_packages_list_the_public_names_that_are_imported_when_asked_for(name: str) -> None:
    package = import_module(f"latte_core.{name}")
    assert set(dir(package)) >= set(package.__all__)
    assert all(getattr(package, one) is not None for one in package.__all__)
