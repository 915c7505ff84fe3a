"""Nodes that several example workflows have."""

from __future__ import annotations

from .graphs import Graph, Node

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


def starter_loaders(vae: str = "temporal") -> list[Node]:
    """Return our three loaders on the starter."""
    return [
        Node("LatteModelLoader", (300, 90), ["starter", "default"]),
        Node("LatteTextEncoderLoader", (300, 90), ["starter", "default"]),
        Node("LatteVAELoader", (300, 90), ["starter", vae]),
    ]


def latte_middle(prompt: str, size: list[int], sampler: Node) -> tuple[Node, Node, Node, Node]:
    """Return our text encode, empty latent, sampler and decode nodes."""
    return (
        Node("LatteTextEncode", (400, 340), [prompt, "", True, True], color=GREEN),
        Node("LatteEmptyLatent", (300, 110), size),
        sampler,
        Node("LatteVAEDecode", (300, 90), [0]),
    )


def join_latte(graph: Graph, loaders: list[Node], middle: tuple[Node, Node, Node, Node]) -> None:
    """Join loaders, text encode, empty latent, sampler and decode."""
    encode, empty, sampler, decode = middle
    model, clip, vae = loaders
    own = model.kind.startswith("Latte")
    graph.link(clip, "clip" if own else "CLIP", encode, "clip")
    graph.link(model, "model" if own else "MODEL", sampler, "model")
    graph.link(encode, "positive", sampler)
    graph.link(encode, "negative", sampler)
    graph.link(empty, "latent", sampler, "latent_image")
    graph.link(sampler, "latent", decode, "samples")
    graph.link(vae, "vae" if own else "VAE", decode, "vae")
