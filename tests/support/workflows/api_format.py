"""Turn a workflow file (UI format 0.4) into what ComfyUI's /prompt takes, by its /object_info."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MUTED, BYPASSED = 2, 4
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO}
SEEDS = {"seed", "noise_seed"}
ABSENT = object()

Spec = list[Any]


def is_widget(spec: Spec) -> bool:
    """Whether an input is set by a widget: a list of choices, or a plain value."""
    return isinstance(spec[0], list) or spec[0] in WIDGET_TYPES


def options_of(spec: Spec) -> dict[str, Any]:
    """Return the options dictionary of an input."""
    return spec[1] if len(spec) > 1 else {}


def inputs_of(schema: dict[str, Any]) -> dict[str, Spec]:
    """Return input name -> spec, in the order in which the page makes widgets."""
    order = schema["input_order"]
    return {
        name: schema["input"][part][name]
        for part in ("required", "optional")
        for name in order.get(part, [])
    }


def widget_names(schema: dict[str, Any]) -> list[str]:
    """Return the widgets of a node in saved order, `control_after_generate` included."""
    names: list[str] = []
    for name, spec in inputs_of(schema).items():
        if not is_widget(spec):
            continue
        names.append(name)
        if options_of(spec).get("control_after_generate") or (name in SEEDS and spec[0] == "INT"):
            names.append("control_after_generate")
    return names


def signature_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the sockets, widgets and outputs of a node with their types; every choice is COMBO.

    This is what tests/data/example_nodes.json records, from the oldest ComfyUI supported.
    """
    types = {
        name: "COMBO" if isinstance(spec[0], list) or spec[0] == DYNAMIC_COMBO else spec[0]
        for name, spec in inputs_of(schema).items()
    }
    types["control_after_generate"] = "COMBO"
    sockets = {name for name, spec in inputs_of(schema).items() if not is_widget(spec)}
    outputs = zip(schema["output_name"], schema["output"], strict=True)
    return {
        "inputs": {name: types[name] for name in inputs_of(schema) if name in sockets},
        "widgets": [[name, types[name]] for name in widget_names(schema)],
        "outputs": [list(pair) for pair in outputs],
    }


def default_of(spec: Spec) -> Any:
    """Return the value a fresh widget has."""
    options = options_of(spec)
    if "default" in options:
        return options["default"]
    if isinstance(spec[0], list):
        return spec[0][0] if spec[0] else ABSENT
    if spec[0] == DYNAMIC_COMBO:
        return options["options"][0]["key"]
    return ABSENT


def values_by_name(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return widget name -> saved value; a list is read by position, a dictionary by name."""
    saved = node["widgets_values"]
    if isinstance(saved, dict):
        return dict(saved)
    return dict(zip(widget_names(schema), saved, strict=False))


def dynamic_inputs(name: str, spec: Spec, value: str, saved: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that appear below a dynamic choice, under dotted names.

    A file of an older ComfyUI holds the inner value under its plain name, as its own input then.
    """
    chosen = next(option for option in options_of(spec)["options"] if option["key"] == value)
    found: dict[str, Any] = {}
    for inner, inner_spec in chosen["inputs"].get("required", {}).items():
        dotted = f"{name}.{inner}"
        found[dotted] = saved.get(dotted, saved.get(inner, default_of(inner_spec)))
    return found


def widget_inputs(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of one node that its widgets set."""
    saved = values_by_name(node, schema)
    inputs: dict[str, Any] = {}
    for name, spec in inputs_of(schema).items():
        if not is_widget(spec):
            continue
        value = saved.get(name, default_of(spec))
        if value is ABSENT:
            continue
        inputs[name] = value
        if spec[0] == DYNAMIC_COMBO and not options_of(spec).get("hidden"):
            inputs.update(dynamic_inputs(name, spec, value, saved))
    if isinstance(node["widgets_values"], dict):
        inputs = saved | inputs  # a pack's own widgets, which its schema does not name
    return inputs


def active_nodes(workflow: dict[str, Any], object_info: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes that run: not the muted ones, not the notes.

    Raises:
        ValueError: if a node is bypassed, which this converter does not follow.
    """
    for node in workflow["nodes"]:
        if node["mode"] == BYPASSED:
            raise ValueError(f"node {node['id']} ({node['type']}) is bypassed")
        if node["mode"] != MUTED and node["type"] in object_info:
            yield node


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Return {node id: {class_type, inputs}} for /prompt."""
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for node in active_nodes(workflow, object_info):
        inputs = widget_inputs(node, object_info[node["type"]])
        for slot in node["inputs"]:
            if slot["link"] is not None:
                inputs[slot["name"]] = list(links[slot["link"]])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
