"""Build workflow files (UI format 0.4): nodes, links by name, groups laid out in columns."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

MUTED = 2
GAP = 60  # between nodes; a title bar of 30 lies above each node
GROUP_TITLE = 80  # from a group's upper edge to its first node
GROUP_PAD = 20
GROUP_GAP = 40
GROUP_COLOR = "#3f789e"
CORE_VERSION = "0.8.0"  # the oldest ComfyUI supported: files are written as its page writes them
FRONT_END_VERSION = "1.35.9"

Slots = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Kind:
    """The sockets of a node id, the pack it comes from, and the widgets that are linked."""

    inputs: Slots
    outputs: Slots
    pack: str = "comfy-core"
    version: str = CORE_VERSION
    widgets: Slots = ()

    @property
    def slots(self) -> Slots:
        """What a link may lead to."""
        return (*self.inputs, *self.widgets)


LATTE = ("latte-video", "0.3.0")
VHS = ("comfyui-videohelpersuite", "1.7.9")
GUIDED: Slots = (
    ("model", "MODEL"),
    ("positive", "CONDITIONING"),
    ("negative", "CONDITIONING"),
    ("latent_image", "LATENT"),
)
KINDS: dict[str, Kind] = {
    "LatteModelLoader": Kind((), (("model", "MODEL"),), *LATTE),
    "LatteTextEncoderLoader": Kind((), (("clip", "CLIP"),), *LATTE),
    "LatteVAELoader": Kind((), (("vae", "VAE"),), *LATTE),
    "LatteTextEncode": Kind(
        (("clip", "CLIP"),),
        (("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("report", "STRING")),
        *LATTE,
    ),
    "LatteClassLabel": Kind(
        (), (("positive", "CONDITIONING"), ("negative", "CONDITIONING")), *LATTE
    ),
    "LatteUnconditional": Kind(
        (), (("positive", "CONDITIONING"), ("negative", "CONDITIONING")), *LATTE
    ),
    "LatteEmptyLatent": Kind((), (("latent", "LATENT"),), *LATTE),
    "LatteSampler": Kind(GUIDED, (("latent", "LATENT"),), *LATTE),
    "LatteVAEDecode": Kind((("samples", "LATENT"), ("vae", "VAE")), (("images", "IMAGE"),), *LATTE),
    "LatteLoraLoader": Kind(
        (("model", "MODEL"),), (("model", "MODEL"), ("report", "STRING")), *LATTE
    ),
    "LatteAccelerate": Kind((("model", "MODEL"),), (("model", "MODEL"),), *LATTE),
    "LatteTrain": Kind((), (("run", "STRING"),), *LATTE),
    "LatteTrainingStatus": Kind(
        (),
        (("loss", "IMAGE"), ("sample", "IMAGE"), ("status", "STRING")),
        *LATTE,
        widgets=(("run", "STRING"),),
    ),
    "LatteStopTraining": Kind((), (("status", "STRING"),), *LATTE),
    "UNETLoader": Kind((), (("MODEL", "MODEL"),)),
    "CLIPLoader": Kind((), (("CLIP", "CLIP"),)),
    "VAELoader": Kind((), (("VAE", "VAE"),)),
    "CLIPTextEncode": Kind((("clip", "CLIP"),), (("CONDITIONING", "CONDITIONING"),)),
    "EmptyLatentImage": Kind((), (("LATENT", "LATENT"),)),
    "KSampler": Kind(GUIDED, (("LATENT", "LATENT"),)),
    "VAEDecode": Kind((("samples", "LATENT"), ("vae", "VAE")), (("IMAGE", "IMAGE"),)),
    "ImageScaleBy": Kind((("image", "IMAGE"),), (("IMAGE", "IMAGE"),)),
    "UpscaleModelLoader": Kind((), (("UPSCALE_MODEL", "UPSCALE_MODEL"),)),
    "ImageUpscaleWithModel": Kind(
        (("upscale_model", "UPSCALE_MODEL"), ("image", "IMAGE")), (("IMAGE", "IMAGE"),)
    ),
    "CreateVideo": Kind((("images", "IMAGE"), ("audio", "AUDIO")), (("VIDEO", "VIDEO"),)),
    "SaveVideo": Kind((("video", "VIDEO"),), ()),
    "SaveImage": Kind((("images", "IMAGE"),), ()),
    "VHS_VideoCombine": Kind(
        (
            ("images", "IMAGE"),
            ("audio", "AUDIO"),
            ("meta_batch", "VHS_BatchManager"),
            ("vae", "VAE"),
        ),
        (("Filenames", "VHS_FILENAMES"),),
        *VHS,
    ),
    "PreviewAny": Kind((("source", "*"),), ()),
    "MarkdownNote": Kind((), ()),
}
OPTIONAL = {"audio", "meta_batch"}


@dataclass
class Node:
    """One node: its id, widget values and size; the graph gives it a number and a place."""

    kind: str
    size: tuple[int, int]
    values: list[Any] | dict[str, Any] = field(default_factory=list)
    title: str | None = None
    models: list[dict[str, str]] | None = None
    mode: int = 0
    color: tuple[str, str] | None = None
    number: int = 0
    pos: tuple[int, int] = (0, 0)

    def is_optional(self, slot: str) -> bool:
        """Whether the socket may stay open; drawn as a ring then."""
        return slot in OPTIONAL or (slot == "vae" and self.kind == "VHS_VideoCombine")


class Graph:
    """Nodes in titled groups from left to right, joined by named sockets."""

    def __init__(self, name: str) -> None:
        self.id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"latte-video/example_workflows/{name}"))
        self.nodes: list[Node] = []
        self.links: list[tuple[int, Node, int, Node, int, str]] = []
        self.groups: list[dict[str, Any]] = []
        self.right = 0

    def add_note(self, node: Node) -> None:
        """Place a note left of the groups."""
        width, height = node.size
        self._add(node, -width - GROUP_GAP, GROUP_TITLE)

    def add_group(self, title: str, columns: list[list[Node]]) -> None:
        """Place columns of nodes in a new group right of the last one."""
        width = self._place(title, columns, self.right, 0)
        self.right += width + GROUP_GAP

    def add_group_below(self, title: str, columns: list[list[Node]]) -> None:
        """Place columns of nodes in a new group under the last one; call it after all others."""
        self._even_out()
        left, top, _, height = self.groups[-1]["bounding"]
        self._place(title, columns, left, top + height + GROUP_GAP)

    def _place(self, title: str, columns: list[list[Node]], left: int, top: int) -> int:
        x, bottom = left + GROUP_PAD, 0
        for column in columns:
            y = top + GROUP_TITLE
            for node in column:
                self._add(node, x, y)
                y += node.size[1] + GAP
            bottom = max(bottom, y - GAP + GROUP_PAD)
            x += max(node.size[0] for node in column) + GAP
        width = x - GAP + GROUP_PAD - left
        self.groups.append(
            {
                "id": len(self.groups) + 1,
                "title": title,
                "bounding": [left, top, width, bottom - top],
                "color": GROUP_COLOR,
                "font_size": 24,
                "flags": {},
            }
        )
        return width

    def _even_out(self) -> None:
        """Give the groups of the upper row the height of the tallest."""
        row = [group["bounding"] for group in self.groups if group["bounding"][1] == 0]
        height = max(bounding[3] for bounding in row)
        for bounding in row:
            bounding[3] = height

    def _add(self, node: Node, x: int, y: int) -> None:
        node.number, node.pos = len(self.nodes) + 1, (x, y)
        self.nodes.append(node)

    def link(self, source: Node, output: str, target: Node, slot: str | None = None) -> None:
        """Join an output to an input of the same name, or of the name `slot`."""
        outputs = [name for name, _ in KINDS[source.kind].outputs]
        inputs = [name for name, _ in KINDS[target.kind].slots]
        kind = KINDS[source.kind].outputs[outputs.index(output)][1]
        wire = (source, outputs.index(output), target, inputs.index(slot or output), kind)
        self.links.append((len(self.links) + 1, *wire))

    def to_json(self) -> dict[str, Any]:
        """Return the workflow as the page saves it."""
        self._even_out()
        order = self._order()
        return {
            "id": self.id,
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": [self._node_json(node, order[node.number]) for node in self.nodes],
            "links": [
                [number, source.number, out_slot, target.number, in_slot, kind]
                for number, source, out_slot, target, in_slot, kind in self.links
            ],
            "groups": self.groups,
            "config": {},
            "extra": {
                "ds": {"scale": 0.6, "offset": [560, 160]},
                "frontendVersion": FRONT_END_VERSION,
            },
            "version": 0.4,
        }

    def _order(self) -> dict[int, int]:
        """Number the nodes so that each comes after what it takes from."""
        order: dict[int, int] = {}
        waiting = list(self.nodes)
        while waiting:
            ready = [
                node
                for node in waiting
                if all(
                    source.number in order
                    for _, source, _, target, _, _ in self.links
                    if target is node
                )
            ]
            for node in ready:
                order[node.number] = len(order)
                waiting.remove(node)
        return order

    def _node_json(self, node: Node, order: int) -> dict[str, Any]:
        kind = KINDS[node.kind]
        properties: dict[str, Any] = {}
        if node.kind != "MarkdownNote":
            properties = {
                "cnr_id": kind.pack,
                "ver": kind.version,
                "Node name for S&R": node.kind,
            }
        if node.models is not None:
            properties["models"] = node.models
        entry: dict[str, Any] = {
            "id": node.number,
            "type": node.kind,
            "pos": list(node.pos),
            "size": list(node.size),
            "flags": {},
            "order": order,
            "mode": node.mode,
            "inputs": [
                self._input_json(node, slot, name, type_)
                for slot, (name, type_) in enumerate(kind.slots)
                if name in dict(kind.inputs) or self._is_linked(node, slot)
            ],
            "outputs": [
                {"name": name, "type": type_, "links": self._links_from(node, slot)}
                for slot, (name, type_) in enumerate(kind.outputs)
            ],
            "properties": properties,
            "widgets_values": node.values,
        }
        if node.title is not None:
            entry["title"] = node.title
        if node.color is not None:
            entry["color"], entry["bgcolor"] = node.color
        return entry

    def _input_json(self, node: Node, slot: int, name: str, type_: str) -> dict[str, Any]:
        links = [link[0] for link in self.links if link[3] is node and link[4] == slot]
        entry: dict[str, Any] = {"name": name, "type": type_, "link": links[0] if links else None}
        if node.is_optional(name):
            entry["shape"] = 7
        if name in dict(KINDS[node.kind].widgets):
            entry["widget"] = {"name": name}
        return entry

    def _is_linked(self, node: Node, slot: int) -> bool:
        return any(link[3] is node and link[4] == slot for link in self.links)

    def _links_from(self, node: Node, slot: int) -> list[int] | None:
        return [link[0] for link in self.links if link[1] is node and link[2] == slot] or None
