"""What `locales/<language>/nodeDefs.json` must hold, read from the node classes.

Run this file after a text of a node has changed: it writes the English one. Other languages are
written by hand; tests/test_locales.py says what is missing in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


def english(pack: ModuleType) -> dict[str, Any]:
    """Return display name, description, inputs and outputs of every node, by node id."""
    names = pack.NODE_DISPLAY_NAME_MAPPINGS
    return {
        node_id: {
            "display_name": names[node_id],
            "description": node.DESCRIPTION,
            "inputs": inputs(node),
            "outputs": outputs(node),
        }
        for node_id, node in pack.NODE_CLASS_MAPPINGS.items()
    }


def inputs(node: Any) -> dict[str, Any]:
    """Return name and tooltip of every input."""
    groups = node.INPUT_TYPES()
    shown = {**groups.get("required", {}), **groups.get("optional", {})}
    return {
        name: {"name": name, "tooltip": definition[1]["tooltip"]}
        for name, definition in shown.items()
    }


def outputs(node: Any) -> dict[str, Any]:
    """Return name and tooltip of every output, by its number."""
    pairs = zip(node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True)
    return {
        str(index): {"name": name, "tooltip": tooltip}
        for index, (name, tooltip) in enumerate(pairs)
    }


def shape_of(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the keys alone, to compare languages."""
    return {
        key: shape_of(value) if isinstance(value, dict) else None
        for key, value in definitions.items()
    }


def write_english() -> None:
    """Write the English file anew."""
    from pack import load_pack

    text = json.dumps(english(load_pack()), indent=2, ensure_ascii=False)
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    ENGLISH.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_english()
