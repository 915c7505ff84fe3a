"""Node ids, inputs, types, defaults and their order are frozen: saved workflows depend on them.

To change one on purpose, edit tests/data/nodes.json in the same commit. New inputs go to the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.pack import listed_nodes, load_pack

ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads((ROOT / "tests" / "data" / "nodes.json").read_text(encoding="utf-8"))
KEPT_OPTIONS = ("default", "min", "max", "step", "round", "multiline", "control_after_generate")
NODES = load_pack().NODE_CLASS_MAPPINGS
NAMES = load_pack().NODE_DISPLAY_NAME_MAPPINGS
COMFY_TYPES = {"MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "SIGMAS", "NOISE", "IMAGE"}


def describe_input(definition: Any) -> dict[str, Any]:
    """Return the type and the options that saved workflows depend on."""
    kind, options = definition
    kept = {key: options[key] for key in KEPT_OPTIONS if key in options}
    return {"type": kind, **kept}


def describe(node: Any) -> dict[str, Any]:
    """Return what is frozen of a node; lists of inputs, because order counts."""
    groups = node.INPUT_TYPES()
    return {
        "inputs": [
            {"name": name, "group": group, **describe_input(definition)}
            for group, definitions in groups.items()
            for name, definition in definitions.items()
        ],
        "outputs": list(node.RETURN_TYPES),
        "output_names": list(node.RETURN_NAMES),
        "display_name": node.DISPLAY_NAME,
        "category": node.CATEGORY,
    }


def test_the_recorded_nodes_are_exactly_the_nodes() -> None:
    new = {node_id: describe(node) for node_id, node in NODES.items() if node_id not in RECORDED}
    assert not new, f"add to tests/data/nodes.json:\n{json.dumps(new, indent=1)}"
    assert list(NODES) == list(RECORDED)
    assert list(NAMES) == list(RECORDED)


@pytest.mark.parametrize("node_id", list(RECORDED))
def test_signature_is_as_recorded(node_id: str) -> None:
    assert json.loads(json.dumps(describe(NODES[node_id]))) == RECORDED[node_id]


@pytest.mark.parametrize("node_id", list(RECORDED))
def test_everything_a_person_reads_is_there(node_id: str) -> None:
    node = NODES[node_id]
    definitions = [item for group in node.INPUT_TYPES().values() for item in group.items()]
    assert len(node.DESCRIPTION) > 40
    assert node.CATEGORY.startswith("Latte/")
    assert len(node.SEARCH_ALIASES) >= 3
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    for name, (_, options) in definitions:
        assert len(options["tooltip"]) > 10, name


@pytest.mark.parametrize("node_id", list(RECORDED))
def test_function_takes_the_inputs_by_name(node_id: str) -> None:
    node = NODES[node_id]
    function = getattr(node, node.FUNCTION)
    names = [name for group in node.INPUT_TYPES().values() for name in group]
    assert list(function.__code__.co_varnames[1 : function.__code__.co_argcount]) == names


@pytest.mark.parametrize("node_id", list(RECORDED))
def test_numbers_have_a_range_and_ids_a_prefix(node_id: str) -> None:
    assert node_id.startswith("Latte")
    for group in NODES[node_id].INPUT_TYPES().values():
        for name, (kind, options) in group.items():
            if kind in ("INT", "FLOAT"):
                assert options["min"] <= options["default"] <= options["max"], name
            if isinstance(kind, str):
                assert kind in COMFY_TYPES | {"INT", "FLOAT", "STRING", "BOOLEAN"}, name


def test_inputs_that_saved_graphs_do_not_name_are_optional() -> None:
    """Graphs of the first version, as sent to the server, name no other input of the sampler."""
    groups = NODES["LatteSampler"].INPUT_TYPES()
    first = ["model", "positive", "negative", "latent_image"]
    first += ["seed", "steps", "cfg", "denoise", "eta"]
    assert list(groups["required"]) == first
    function = NODES["LatteSampler"].sample
    assert len(function.__defaults__) == len(groups["optional"])
    options = [options["default"] for _, options in groups["optional"].values()]
    assert list(function.__defaults__) == options


def test_validation_of_comfyui_is_never_switched_off() -> None:
    assert not [name for name, node in NODES.items() if hasattr(node, "VALIDATE_INPUTS")]


def test_a_scanner_can_read_the_mapping_from_the_source() -> None:
    assert listed_nodes() == list(RECORDED)


def test_each_node_stands_in_a_file_of_its_own_in_the_folder_of_its_menu() -> None:
    places = [node.__module__.partition(".nodes.")[2].split(".") for node in NODES.values()]
    assert [place[0] for place in places] == [
        node.CATEGORY.removeprefix("Latte/") for node in NODES.values()
    ]
    assert len({tuple(place) for place in places}) == len(NODES)


def test_no_text_input_is_used_as_a_path() -> None:
    texts = {
        (node_id, name)
        for node_id, node in NODES.items()
        for group in node.INPUT_TYPES().values()
        for name, (kind, _) in group.items()
        if kind == "STRING"
    }
    prompts = {("LatteTextEncode", "prompt"), ("LatteTextEncode", "negative_prompt")}
    prompts |= {("LatteTrain", "sample_prompts")}
    # Names of runs become one folder of one fixed place, whatever is typed (test_training.py).
    names = {
        ("LatteTrain", "run_name"),
        ("LatteTrainingStatus", "run"),
        ("LatteStopTraining", "run"),
        ("LatteCalibrate", "file_name"),  # likewise one file of one fixed place
    }
    assert texts == prompts | names | {("LatteSampler", "step_string")}


def test_no_web_route_is_registered() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "nodes").rglob("*.py")]
    assert not [text for text in sources if "PromptServer" in text or "routes." in text]
