"""Nodes that several example workflows have."""

from __future__ import annotations

from .graphs import Node

GREEN, RED, DARK = ("#232", "#353"), ("#322", "#533"), ("#222", "#000")


def note(text: str, size: tuple[int, int], title: str = "Read me") -> Node:
    """Return a note in the dark colours of ComfyUI's own templates."""
    return Node("MarkdownNote", size, [text], title=title, color=DARK)


def latte_sampler(
    seed: int, steps: int, cfg: float, *, step_string: str = "", temporal: bool = True
) -> Node:
    """Return our sampler, by DDIM."""
    widgets = [seed, "randomize", steps, cfg, 1.0, 0.0, "ddim", step_string, "comfyui", temporal]
    return Node("LatteSampler", (300, 350), widgets)


def save_nodes(prefix: str, fps: int) -> tuple[Node, Node]:
    """Return Create Video and Save Video."""
    return (
        Node("CreateVideo", (300, 110), [fps]),
        Node("SaveVideo", (400, 500), [prefix, "auto", "auto"]),
    )
