"""The files in example_workflows/, checked without ComfyUI."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.pack import listed_nodes
from latte_test_support.workflows import examples
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "example_workflows"
FILES = {path.stem: path for path in sorted(EXAMPLES.glob("*.json"))}
RECORDED: dict[str, Any] = json.loads(
    (ROOT / "tests" / "data" / "example_nodes.json").read_text(encoding="utf-8")
)
TITLE_BAR = 30
PYTHON_TYPES = {
    "INT": int,
    "FLOAT": (int, float),
    "STRING": str,
    "BOOLEAN": bool,
    "COMBO": str,
}
PACKS = {"comfy-core", "latte-video", "comfyui-videohelpersuite"}
MODEL_FOLDERS = {"diffusion_models", "text_encoders", "vae"}
MAX_PICTURE_BYTES = 200_000

needs_starter = pytest.mark.skipif(
    not examples.CARD.exists(), reason="latte_core/assets/starter is not there"
)
each_example = pytest.mark.parametrize("name", FILES)


def load(name: str) -> dict[str, Any]:
    """Return an example workflow."""
    return json.loads(FILES[name].read_text(encoding="utf-8"))


def real_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes that ComfyUI runs: all but the notes."""
    return [node for node in workflow["nodes"] if node["type"] != "MarkdownNote"]


def rectangle(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of a node with its title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


def bounds(group: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of a group."""
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    """Whether two rectangles share an area."""
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]


def lies_inside(
    inner: tuple[float, float, float, float], outer: tuple[float, float, float, float]
) -> bool:
    """Whether a rectangle lies wholly in another."""
    left_top = outer[0] <= inner[0] and outer[1] <= inner[1]
    return left_top and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_there_are_the_examples_of_this_release() -> None:
    assert set(FILES) == {
        "class_conditional",
        "text_to_image",
        "text_to_video",
        "text_to_video_accelerated",
        "text_to_video_stock_nodes",
        "text_to_video_latte1",
        "text_to_video_upscale_combine",
        "train_motion_lora",
        "unconditional",
        "variant_comparison",
    }


@needs_starter
@each_example
def test_file_is_what_its_description_builds_with_the_starters_own_defaults(name: str) -> None:
    built = examples.build_all(examples.read_card())[FILES[name].name]
    assert FILES[name].read_text(encoding="utf-8") == examples.to_text(built), (
        "write the files again: python -m tests.support.workflows.examples"
    )


@each_example
def test_file_has_the_shape_of_ui_format_0_4(name: str) -> None:
    workflow = load(name)
    assert workflow["version"] == 0.4
    assert workflow["last_node_id"] == max(node["id"] for node in workflow["nodes"])
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    numbers = [node["id"] for node in workflow["nodes"]]
    assert len(numbers) == len(set(numbers))
    assert sorted(node["order"] for node in workflow["nodes"]) == list(range(len(numbers)))


@each_example
def test_nodes_are_ours_or_recorded_ones_and_say_which_pack_they_come_from(name: str) -> None:
    for node in real_nodes(load(name)):
        properties = node["properties"]
        assert node["type"] in RECORDED
        assert properties["Node name for S&R"] == node["type"]
        assert properties["cnr_id"] in PACKS and properties["ver"]
        assert (properties["cnr_id"] == "latte-video") == (node["type"] in listed_nodes())


@each_example
def test_sockets_are_those_of_the_recorded_nodes(name: str) -> None:
    for node in real_nodes(load(name)):
        recorded = RECORDED[node["type"]]
        linked = [[slot["name"], slot["type"]] for slot in node["inputs"] if "widget" in slot]
        sockets = {slot["name"]: slot["type"] for slot in node["inputs"] if "widget" not in slot}
        assert sockets == recorded["inputs"]
        assert [one for one in linked if one not in recorded["widgets"]] == []
        assert [[slot["name"], slot["type"]] for slot in node["outputs"]] == recorded["outputs"]


@each_example
def test_widget_values_have_the_recorded_count_and_types(name: str) -> None:
    for node in real_nodes(load(name)):
        values, widgets = node["widgets_values"], RECORDED[node["type"]]["widgets"]
        if isinstance(values, dict):
            values = [values[widget] for widget, _ in widgets]
        assert len(values) == len(widgets), node["type"]
        for value, (widget, kind) in zip(values, widgets, strict=True):
            assert isinstance(value, PYTHON_TYPES[kind]), (node["type"], widget)


@each_example
def test_links_join_sockets_of_one_type_and_are_named_at_both_ends(name: str) -> None:
    workflow = load(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, out_slot, target, in_slot, kind in workflow["links"]:
        output, entry = nodes[source]["outputs"][out_slot], nodes[target]["inputs"][in_slot]
        assert output["type"] == kind
        assert entry["type"] in (kind, "*"), "a star takes anything"
        assert number in output["links"] and entry["link"] == number
        assert nodes[source]["order"] < nodes[target]["order"]


@each_example
def test_every_socket_that_must_be_linked_is(name: str) -> None:
    for node in real_nodes(load(name)):
        open_slots = [slot["name"] for slot in node["inputs"] if slot["link"] is None]
        assert all(slot in {"audio", "meta_batch", "vae"} for slot in open_slots), node["type"]


@each_example
def test_a_seed_is_followed_by_what_happens_to_it(name: str) -> None:
    seeded = [node for node in real_nodes(load(name)) if "Sampler" in node["type"]]
    assert seeded
    assert all(node["widgets_values"][1] == "randomize" for node in seeded)


@each_example
def test_graph_has_a_note_and_numbered_groups_that_do_not_overlap(name: str) -> None:
    workflow = load(name)
    groups = workflow["groups"]
    assert any(node["type"] == "MarkdownNote" for node in workflow["nodes"])
    assert [group["title"][:2] for group in groups] == [f"{n + 1}." for n in range(len(groups))]
    pairs = itertools.combinations(groups, 2)
    assert not [pair for pair in pairs if overlap(bounds(pair[0]), bounds(pair[1]))]


@each_example
def test_nodes_do_not_overlap_and_lie_each_in_one_group(name: str) -> None:
    workflow = load(name)
    pairs = itertools.combinations(workflow["nodes"], 2)
    assert not [pair for pair in pairs if overlap(rectangle(pair[0]), rectangle(pair[1]))]
    for node in real_nodes(workflow):
        inside = [lies_inside(rectangle(node), bounds(group)) for group in workflow["groups"]]
        assert inside.count(True) == 1, node["type"]


@each_example
def test_only_the_group_that_says_so_is_muted(name: str) -> None:
    workflow = load(name)
    muted = [group for group in workflow["groups"] if "muted" in group["title"]]
    for node in real_nodes(workflow):
        is_in = any(lies_inside(rectangle(node), bounds(group)) for group in muted)
        assert node["mode"] == (2 if is_in else 0)


def test_upscale_example_links_its_model_in_the_note() -> None:
    workflow = load("text_to_video_upscale_combine")
    note = next(node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    loader = next(node for node in workflow["nodes"] if node["type"] == "UpscaleModelLoader")
    assert f"/{loader['widgets_values'][0]})" in note["widgets_values"][0]


def test_latte_1_loaders_carry_the_links_to_their_files() -> None:
    workflow = load("text_to_video_latte1")
    note = next(node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    loaders = [node for node in workflow["nodes"] if node["type"].endswith("Loader")]
    assert len(loaders) == len(MODEL_FOLDERS)
    for node in loaders:
        (model,) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0]
        assert model["url"].startswith("https://huggingface.co/")
        assert model["url"].endswith(".safetensors") and model["name"].endswith(".safetensors")
        assert model["url"] in note["widgets_values"][0]
    directories = {node["properties"]["models"][0]["directory"] for node in loaders}
    assert directories == MODEL_FOLDERS


@needs_starter
@each_example
def test_thumbnail_is_a_small_square_or_wide_jpeg_of_the_same_name(name: str) -> None:
    picture = EXAMPLES / f"{name}.jpg"  # the template browser asks for exactly this name
    assert picture.stat().st_size <= MAX_PICTURE_BYTES
    with Image.open(picture) as image:
        width, height = image.size
        assert image.format == "JPEG"
    assert width == height or width * 9 == height * 16
