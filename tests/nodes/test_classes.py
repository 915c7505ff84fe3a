"""Classes in the nodes without ComfyUI: their names, their conditioning, detection, sentences."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from latte_test_support.pack import load_pack
from latte_test_support.tiny.latte import NO_CLASSES, TEXT, tiny_latte_config, tiny_latte_weights

PACK = load_pack()
NAMES = ["red circle", "blue circle", "red square", "blue square", "green square"]
UCF_WIDTH = {"hidden_size": 384, "num_heads": 6, "depth": 2, "num_classes": 101}


def part(name: str) -> ModuleType:
    """Return a module of the pack."""
    return importlib.import_module(f"{PACK.__name__}.{name}")


def call(node: str, **inputs: Any) -> tuple[Any, ...]:
    """Run a node."""
    cls = PACK.NODE_CLASS_MAPPINGS[node]
    return getattr(cls(), cls.FUNCTION)(**inputs)


def config(**changes: Any) -> Any:
    """Return the pack's own config of a tiny model."""
    return part("latte_core.config.latte").LatteConfig.from_dict(tiny_latte_config(**changes))


def class_widget() -> tuple[list[str], dict[str, Any]]:
    """Return the names that Latte Class Label lists, and what it says about them."""
    return PACK.NODE_CLASS_MAPPINGS["LatteClassLabel"].INPUT_TYPES()["required"]["class_name"]


def test_ucf101_is_listed_in_the_order_of_its_labels() -> None:
    names, _ = class_widget()
    ucf101 = part("latte_core.config.ucf101").UCF101_CLASSES
    assert names[:101] == list(ucf101)
    assert names.index("Playing Guitar") == 62
    assert names.index("Hammer Throw") + 1 == names.index("Hammering")


def test_the_class_starter_is_listed_and_chosen_first() -> None:
    names, options = class_widget()
    assert len(names) == 101 + 18 == len(set(names))
    assert options["default"] == names[101] == "red circle"


@pytest.mark.parametrize("content", [None, "[1, 2]", "{", "[]"])
def test_names_that_cannot_be_read_are_left_out(class_starter: Path, content: str | None) -> None:
    path = class_starter / "classes.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    names, options = class_widget()
    assert len(names) == 101
    assert options["default"] == names[0]


def test_a_pack_without_class_starter_offers_none(class_starter: Path) -> None:
    (class_starter / "transformer" / "config.json").unlink()
    paths = part("nodes.host.base.paths")
    assert paths.options("diffusion_models") == ["starter"]
    error = part("latte_core.errors").InvalidInputError
    with pytest.raises(error, match="class_starter"):
        paths.locate("class-starter", "diffusion_models", "model_name")


@pytest.mark.parametrize("category", ["vae", "text_encoders"])
def test_the_class_starter_is_a_transformer_alone(category: str) -> None:
    paths = part("nodes.host.base.paths")
    assert paths.options(category) == ["starter"]
    with pytest.raises(part("latte_core.errors").InvalidInputError, match="none of the 0 files"):
        paths.locate("class-starter", category, "widget")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"class_name": "Archery", "class_number": -1}, "Archery"),
        ({"class_name": "Archery", "class_number": 57}, 57),
        ({"class_name": "Archery", "class_number": 0}, 0),
    ],
)
def test_a_number_wins_over_the_name(inputs: dict[str, Any], expected: int | str) -> None:
    positive, negative = call("LatteClassLabel", **inputs)
    assert positive[0][1] == {"latte_class": expected}
    assert negative[0][1] == {"latte_class": "any class"}
    assert positive[0][0].shape == (1, 1, 1), "stock nodes expect a tensor"


@pytest.mark.parametrize("number", [-2, 1_000_001, 1.0, True, "3"])
def test_numbers_that_are_no_class_are_refused(number: Any) -> None:
    with pytest.raises(part("latte_core.errors").InvalidInputError, match="class_number"):
        call("LatteClassLabel", class_name="Archery", class_number=number)


def find(label: int | str, names: list[str], **changes: Any) -> int:
    """Return the label that a conditioning means."""
    conditions = part("nodes.host.base.conditions")
    options = conditions.class_conditioning(label)[0][1]
    return conditions.find_label(config(**changes), names, options, "positive", "Latte Sampler")


@pytest.mark.parametrize(
    ("label", "expected"),
    [("Red_Square", 2), ("red square", 2), (0, 0), (4, 4), (5, 5), ("any class", 5)],
)
def test_names_and_numbers_become_labels(label: int | str, expected: int) -> None:
    assert find(label, NAMES) == expected


@pytest.mark.parametrize(
    ("label", "names", "words"),
    [
        (6, NAMES, ["6", "0 to 4", "5 means any"]),
        ("red circles", NAMES, ['Did you mean "red circle"', "class_name"]),
        ("Archery", [], ["without names", "0 to 4", "class_number"]),
    ],
)
def test_a_class_that_there_is_not_ends_in_its_sentence(
    label: int | str, names: list[str], words: list[str]
) -> None:
    with pytest.raises(part("latte_core.errors").InvalidInputError) as caught:
        find(label, names)
    words = [*words, '"positive" input of Latte Sampler', '"model" input', "5 classes"]
    assert [word for word in words if word not in str(caught.value)] == []


MODELS: dict[str, dict[str, Any]] = {"class": {"class_dropout_prob": 0.0}, "none": NO_CLASSES}
GIVEN = {
    "text": {},
    "class": {"latte_class": 3},
    "nothing": {"latte_unconditional": True},
}
RIGHT = {"t2v": "text", "class": "class", "none": "nothing"}
NODES = {"t2v": "Latte Text Encode", "class": "Latte Class Label", "none": "Latte Unconditional"}


@pytest.mark.parametrize("socket", ["positive", "negative"])
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("model", RIGHT)
def test_only_what_a_model_reads_may_arrive(model: str, given: str, socket: str) -> None:
    conditions = part("nodes.host.base.conditions")
    of_text = part("latte_core.config.t2v").LatteT2VConfig()
    settings = of_text if model == "t2v" else config(**MODELS[model])
    if RIGHT[model] == given:
        conditions.check_kind(settings, GIVEN[given], socket, "KSampler")
        return
    with pytest.raises(part("latte_core.errors").IncompatibleInputsError) as caught:
        conditions.check_kind(settings, GIVEN[given], socket, "KSampler")
    words = [f'"{socket}" input of KSampler', '"model" input', NODES[model]]
    assert [word for word in words if word not in str(caught.value)] == []


def test_no_condition_means_any_class_where_there_is_one() -> None:
    conditions = part("nodes.host.base.conditions")
    conditions.check_kind(config(), GIVEN["nothing"], "positive", "KSampler")
    found = conditions.find_label(config(), [], GIVEN["nothing"], "positive", "KSampler")
    assert found == config().null_class


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 7},
        NO_CLASSES,
        {"variant": 3},
        {"patch_size": 4},
        {"tubelet_size": 3},
        {"has_temporal": False, "num_frames": 1, "num_classes": 1000},
        TEXT,
    ],
)
def test_detection_reads_models_without_text(changes: dict[str, Any], prefix: str) -> None:
    detection = part("nodes.host.base.detection")
    expected = config(**changes)
    weights = tiny_latte_weights(prefix=prefix, **changes)
    found = detection.detect(weights, prefix, {"config": json.dumps(expected.to_dict())})
    assert found["image_model"] == "latte"
    assert "num_res_blocks" not in found
    kind = part("latte_core.config.latte").LatteConfig
    assert detection.config_from_settings(found, kind) == expected
    detection.check_complete(tiny_latte_weights(**changes), expected)


def test_names_of_classes_travel_with_the_config() -> None:
    detection = part("nodes.host.base.detection")
    weights: dict[str, Any] = dict(tiny_latte_weights())
    assert not detection.can_guess(config(), weights, NAMES)
    weights["latte_config"] = detection.config_to_tensor(config(), NAMES)
    assert detection.detect(weights)["class_names"] == NAMES
    weights["latte_config"] = detection.config_to_tensor(config(), NAMES[:2])
    assert detection.detect(weights)["class_names"] == [], "a list of another length"


def test_released_files_need_no_config() -> None:
    detection = part("nodes.host.base.detection")
    weights = tiny_latte_weights(**UCF_WIDTH)
    found = detection.detect(weights)
    assert found["num_heads"] == 6
    assert found["class_names"][100] == "Yo Yo"
    kind = part("latte_core.config.latte").LatteConfig
    expected = detection.config_from_settings(found, kind)
    assert detection.can_guess(expected, weights, found["class_names"])
    assert not detection.can_guess(expected, weights, [str(n) for n in range(101)])


def test_an_incomplete_class_model_is_refused_by_name() -> None:
    detection = part("nodes.host.base.detection")
    weights = tiny_latte_weights()
    del weights["blocks.3.mlp.fc2.bias"]
    error = part("latte_core.errors").WeightMismatchError
    with pytest.raises(error, match=r"blocks\.3\.mlp\.fc2\.bias"):
        detection.check_complete(weights, config())


@pytest.mark.parametrize(
    ("changes", "shape", "words"),
    [
        ({}, (3, 4, 9, 8), ["72 pixels high", "multiple of 16", "64 and 80"]),
        ({"patch_size": 4}, (3, 4, 8, 6), ["48 pixels wide", "multiple of 32", "32 and 64"]),
        ({"patch_size": 8}, (1, 4, 3, 4, 8), ["32 pixels high", "nearest sizes are 64."]),
        ({"tubelet_size": 3}, (1, 4, 4, 8, 8), ["4 frames", "joins 3", "3 and 6"]),
        ({"tubelet_size": 3}, (2, 4, 8, 8), ["2 frames", "nearest numbers are 3."]),
    ],
)
def test_sizes_between_patches_name_the_nearest(
    changes: dict[str, Any], shape: tuple[int, ...], words: list[str]
) -> None:
    check = part("nodes.host.base.sockets").check_latent_size
    with pytest.raises(part("latte_core.errors").InvalidInputError) as caught:
        check(torch.zeros(shape), "latent_image", config(**changes), "Latte Sampler")
    words = [*words, '"latent_image" input of Latte Sampler']
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("changes", "shape"), [({"patch_size": 8}, (3, 4, 8, 16)), ({"tubelet_size": 3}, (6, 4, 8, 8))]
)
def test_whole_patches_and_tubelets_pass(changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    check = part("nodes.host.base.sockets").check_latent_size
    check(torch.zeros(shape), "latent_image", config(**changes), "Latte Sampler")
