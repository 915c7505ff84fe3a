"""The public face of latte_core: names, arguments, order, defaults. Additions are welcome, changes
are not: an edit of the recorded lists below breaks somebody's script.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.pack import ROOT
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.pipeline import TRANSFORMER, write_tiny_latte

import latte_core
from latte_core import Latte, LatteT2V, errors
from latte_core.training.run import ignore, never

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
    "cache": None,
    "batch_size": 1,
}
CLASS_CALL: dict[str, Any] = {
    "class_labels": None,
    "num_frames": None,
    "height": None,
    "width": None,
    "method": None,
    "steps": None,
    "guidance_scale": None,
    "eta": 0.0,
    "seed": 0,
    "noise_order": "comfyui",
    "latents": None,
    "temporal_attention": True,
    "decode_chunk": None,
    "output": "frames",
    "callback": None,
    "cache": None,
    "batch_size": 1,
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
OPEN: dict[str, Any] = {
    "folder": REQUIRED,
    "dtype": None,
    "device": None,
    "memory": "auto",
    "embedding_cache": "memory",
    "precision": None,
    "text_precision": None,
}
CLASS_OPEN: dict[str, Any] = {
    "folder": REQUIRED,
    "vae": None,
    "config": None,
    "dtype": None,
    "device": None,
    "memory": "auto",
    "precision": None,
}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # positional, keyword-only
    "load_lora": ({"path": REQUIRED, "strength": 1.0}, {}),
    "set_precision": ({"name": REQUIRED}, {}),
    "use_kernels": ({"is_used": True}, {"is_timed": True}),
    "fuse_qkv": ({"is_used": True}, {}),
    "compile": ({}, {"autotune": False}),
    "use_cuda_graph": ({"is_used": True}, {}),
    "decode": ({"latents": REQUIRED}, {"decode_chunk": None}),
}
TRAIN: dict[str, Any] = {
    "device": None,
    "should_stop": never,
    "on_report": ignore,
    "workers": None,
}
TRAIN_KEYS: dict[str, Any] = {
    "model": "starter",
    "architecture": None,
    "initialize_from": None,
    "pass_through": False,
    "lora": None,
    "num_frames": 16,
    "interval": 3,
    "frame_choice": "linspace",
    "num_images": 0,
    "images_through_temporal": False,
    "flip": False,
    "weighting": "none",
    "variational_weight": 1.0,
    "timestep_draw": "uniform",
    "num_steps": 1_000_000,
    "batch_size": 40,
    "micro_batch": 0,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "warm_up": 0,
    "final_decay": 0.0,
    "betas": (0.9, 0.999),
    "weight_decay": 0.0,
    "slow_ends": 1.0,
    "clip_norm": 0.1,
    "clip_from": 20_000,
    "ema_decay": 0.9999,
    "ema_warm_up": False,
    "drop_condition": 0.1,
    "precision": "float32",
    "checkpoint_activations": False,
    "seed": 3407,
    "log_every": 100,
    "save_every": 10_000,
    "keep": 2,
    "sample_every": 0,
    "sample_prompts": (),
    "sample_steps": 20,
    "sample_guidance": 4.0,
}
CLASS_FORWARD: dict[str, Any] = {"latents": REQUIRED, "timesteps": REQUIRED, "class_labels": None}
FORWARD = ["latents", "timesteps", "context", "attention_mask", "enable_temporal_attention"]
NAMES = {
    "CheckpointError",
    "ClassPipeline",
    "CorruptCheckpointError",
    "IncompatibleInputsError",
    "InvalidInputError",
    "Latte",
    "LatteConfig",
    "LatteError",
    "LatteT2V",
    "LatteT2VConfig",
    "MissingDependencyError",
    "NonFiniteError",
    "Pipeline",
    "PipelineResult",
    "TrainConfig",
    "UnknownArchitectureError",
    "UnsafeCheckpointError",
    "VideoWriteError",
    "WeightMismatchError",
    "__version__",
    "load_transformer",
    "parse_cache",
    "read_tensors",
    "sample_reference",
    "train",
    "write_safetensors",
    "write_video",
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
PAGES = [
    *ROOT.glob("README*.md"),
    *(page for folder in ("docs", "nodes", "web") for page in (ROOT / folder).rglob("*.md")),
]
DOTTED = re.compile(r"\blatte_core\.(\w+)")
IMPORTED = re.compile(r"\bfrom latte_core import (\([^)]*\)|[^\n]*)")


def check_frozen(
    function: Callable[..., Any],
    recorded: Mapping[str, Any],
    keywords: Mapping[str, Any] | None = None,
) -> None:
    """The recorded arguments come first, in order, as recorded; others need a default.

    Args:
        function: whose arguments are checked.
        recorded: those that may be given by place.
        keywords: those that are given by name alone, in any order.
    """
    words = {name: inspect.signature(function).parameters[name] for name in keywords or {}}
    assert all(word.kind is inspect.Parameter.KEYWORD_ONLY for word in words.values())
    assert {name: word.default for name, word in words.items()} == (keywords or {})
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


def names_taken(page: str) -> set[str]:
    """Return what a page takes from the package: attributes, and names that it imports."""
    lists = [re.findall(r"\w+", names) for names in IMPORTED.findall(page)]
    return {*DOTTED.findall(page), *(name for names in lists for name in names)}


def test_pages_take_names_from_the_package_itself() -> None:
    taken = {
        path.relative_to(ROOT).as_posix(): names_taken(path.read_text(encoding="utf-8"))
        for path in PAGES
    }
    assert {name: names - NAMES for name, names in taken.items() if names - NAMES} == {}
    assert {"Pipeline", "ClassPipeline", "write_video"} <= taken["README.md"]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("from latte_core.video import write_video", {"video"}),
        ("`latte_core.training.run.train` in Python", {"training"}),
        ("from latte_core import read_tensors, train\n\nx = 1", {"read_tensors", "train"}),
        ("from latte_core import (\n    Pipeline,\n)", {"Pipeline"}),
        ("python -m latte_core sample; see latte_core/types.py", set()),
    ],
)
def test_names_that_a_page_takes_are_found(page: str, expected: set[str]) -> None:
    assert names_taken(page) == expected


def test_load_transformer_keeps_its_arguments() -> None:
    check_frozen(latte_core.load_transformer, LOAD)


def test_sample_reference_keeps_its_arguments() -> None:
    check_frozen(latte_core.sample_reference, SAMPLE)


def test_pipeline_keeps_its_arguments() -> None:
    check_frozen(latte_core.Pipeline.from_pretrained, OPEN)
    check_frozen(latte_core.Pipeline.__call__, CALL)
    check_frozen(latte_core.Pipeline.decode, {"latents": REQUIRED}, {"vae": "temporal"})


def test_class_pipeline_keeps_its_arguments() -> None:
    check_frozen(latte_core.ClassPipeline.from_pretrained, CLASS_OPEN)
    check_frozen(latte_core.ClassPipeline.__call__, CLASS_CALL)


@pytest.mark.parametrize("kind", ["Pipeline", "ClassPipeline"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_of_both_pipelines_keep_their_arguments(kind: str, method: str) -> None:
    check_frozen(getattr(getattr(latte_core, kind), method), *METHODS[method])


def test_training_keeps_its_arguments_and_keys() -> None:
    check_frozen(latte_core.train, {"config": REQUIRED}, TRAIN)
    config = latte_core.TrainConfig(data=("set",), output="run")
    assert {key: getattr(config, key) for key in TRAIN_KEYS} == TRAIN_KEYS


def test_files_and_caches_keep_their_arguments() -> None:
    video = {"path": REQUIRED, "frames": REQUIRED, "fps": 8}
    weights = {"path": REQUIRED, "tensors": REQUIRED, "metadata": None}
    check_frozen(latte_core.write_video, video, {"metadata": None})
    check_frozen(latte_core.read_tensors, {"path": REQUIRED})
    check_frozen(latte_core.write_safetensors, weights)
    check_frozen(latte_core.parse_cache, {"text": REQUIRED})


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
