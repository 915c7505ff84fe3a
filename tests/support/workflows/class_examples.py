"""The example workflows of class-conditional and unconditional models, on the class starter."""

from __future__ import annotations

from typing import Any

from .example_parts import GREEN, latte_sampler, note, save_nodes
from .graphs import MUTED, Graph, Node

CLASSES = """\
## Latte: {title}

Press **Run**. The *class-starter* comes with this pack, so nothing has to be downloaded. It \
draws one coloured shape that moves or stands still; its classes are 6 colours (red, green, blue, \
yellow, purple, white) times 3 shapes (circle, square, triangle).

{more}"""
CONDITIONAL_MORE = """\
Choose the class in group 2: click the name and type to search.

**The real thing:** put *ucf101.pt* into models/diffusion_models and a Stable Diffusion 1.x VAE \
into models/vae. Choose both in group 1 and one of UCF101's 101 names in group 2. As the authors \
do it: 256 x 256 pixels, method **ddpm**, 250 steps, cfg 7."""
UNCONDITIONAL_MORE = """\
Nothing is chosen here: **Latte Unconditional** lets the seed decide. Stock **KSampler** makes the \
video, with cfg 1, since there is nothing to follow more closely. The class starter is a model of \
classes; asked for any of them, it often mixes colours and shapes.

**The real thing:** put *ffs.pt* (faces), *skytimelapse.pt* or *taichi-hd.pt* into \
models/diffusion_models and a Stable Diffusion 1.x VAE into models/vae, choose both in group 1, \
and set 256 x 256 pixels in group 3."""
VARIANTS_MORE = """\
The paper compares four ways to build the transformer:

1. spatial and temporal blocks in turn (all released models)
2. all spatial blocks, then all temporal ones
3. both attentions one after the other in each block
4. both attentions side by side in each block, with half of the heads each

Here each gets the same class, size and seed. **Groups 4 to 6 are muted**, because only variant 1 \
comes with the pack. To make the others (on a CPU some hours each), in the folder of this pack:

`python -m latte_core train-starter ../../models/diffusers/latte-variant-2 --kind class --variant 2`

and the same with 3 and 4. Then press R, choose *latte-variant-2/* in the loader of group 4, \
select the nodes of the group and press Ctrl + M."""


def loaders() -> list[Node]:
    """Return our loaders on the class starter and the starter's VAE."""
    return [
        Node("LatteModelLoader", (300, 90), ["class-starter", "default"]),
        Node("LatteVAELoader", (300, 90), ["starter", "image"]),
    ]


def size(card: dict[str, Any]) -> list[int]:
    """Return the widgets of an empty latent."""
    return [card["width"], card["height"], card["num_frames"]]


def join(
    graph: Graph, told: Node, empty: Node, vae: Node, steps: tuple[Node, Node, Node, Node, Node]
) -> None:
    """Join what the model is told, size and VAE with sampler, decode, scale, create and save."""
    sampler, decode, scale, create, save = steps
    graph.link(told, "positive", sampler)
    graph.link(told, "negative", sampler)
    graph.link(empty, "latent", sampler, "latent_image")
    graph.link(sampler, "latent" if sampler.kind == "LatteSampler" else "LATENT", decode, "samples")
    graph.link(vae, "vae", decode)
    graph.link(decode, "images", scale, "image")
    graph.link(scale, "IMAGE", create, "images")
    graph.link(create, "VIDEO", save, "video")


def one_video(
    graph: Graph, card: dict[str, Any], title: str, told: Node, sampler: Node, prefix: str
) -> Graph:
    """Add the four groups of a graph that makes one video with the class starter."""
    model, vae = loaders()
    empty = Node("LatteEmptyLatent", (300, 110), size(card))
    decode = Node("LatteVAEDecode", (300, 90), [0])
    scale = Node("ImageScaleBy", (300, 90), ["lanczos", 4.0])
    create, save = save_nodes(prefix, card["fps"])
    graph.add_group("1. Load the class starter", [[model, vae]])
    graph.add_group(title, [[told]])
    graph.add_group("3. Sample", [[empty, sampler]])
    graph.add_group("4. Decode and save", [[decode, scale, create], [save]])
    graph.link(model, "model", sampler)
    join(graph, told, empty, vae, (sampler, decode, scale, create, save))
    return graph


def class_conditional(card: dict[str, Any]) -> Graph:
    """A class in the place of a prompt."""
    graph = Graph("class_conditional")
    more = CONDITIONAL_MORE
    graph.add_note(note(CLASSES.format(title="a video of a class", more=more), (400, 430)))
    label = Node("LatteClassLabel", (300, 110), ["purple triangle", -1], color=GREEN)
    sampler = latte_sampler(1, int(card["steps"]), card["guidance_scale"])
    return one_video(graph, card, "2. Class", label, sampler, "video/Latte_class")


def unconditional(card: dict[str, Any]) -> Graph:
    """No condition at all, sampled with a stock sampler."""
    graph = Graph("unconditional")
    more = UNCONDITIONAL_MORE
    graph.add_note(note(CLASSES.format(title="a video of anything", more=more), (400, 430)))
    nothing = Node("LatteUnconditional", (300, 70), color=GREEN)
    widgets = [10, "randomize", int(card["steps"]), 1.0, "euler", "ddim_uniform", 1.0]
    sampler = Node("KSampler", (300, 270), widgets)
    return one_video(graph, card, "2. Condition", nothing, sampler, "video/Latte_unconditional")


def variant_comparison(card: dict[str, Any]) -> Graph:
    """The four variants of the paper on the same class and noise; three of them muted."""
    graph = Graph("variant_comparison")
    more = VARIANTS_MORE
    graph.add_note(note(CLASSES.format(title="the paper's four variants", more=more), (400, 640)))
    vae = Node("LatteVAELoader", (300, 90), ["starter", "image"])
    empty = Node("LatteEmptyLatent", (300, 110), size(card))
    label = Node("LatteClassLabel", (300, 110), ["blue square", -1], color=GREEN)
    graph.add_group("1. VAE and size, for all", [[vae, empty]])
    graph.add_group("2. Class, for all", [[label]])
    for number in range(1, 5):
        model, *steps = variant_nodes(card, number)
        muted = ", muted" if number > 1 else ""
        graph.add_group(f"{number + 2}. Variant {number}{muted}", [[model, *steps]])
        graph.link(model, "model", steps[0])
        sampler, decode, scale, create, save = steps
        join(graph, label, empty, vae, (sampler, decode, scale, create, save))
    return graph


def variant_nodes(card: dict[str, Any], number: int) -> list[Node]:
    """Return loader, sampler, decode, scale, create and save of one variant."""
    name = "class-starter" if number == 1 else f"latte-variant-{number}/"
    create, save = save_nodes(f"video/Latte_variant_{number}", card["fps"])
    nodes = [
        Node("LatteModelLoader", (300, 90), [name, "default"]),
        latte_sampler(1, int(card["steps"]), card["guidance_scale"]),
        Node("LatteVAEDecode", (300, 90), [0]),
        Node("ImageScaleBy", (300, 90), ["lanczos", 4.0]),
        create,
        save,
    ]
    for node in nodes:
        node.mode = MUTED if number > 1 else 0
    return nodes


def build(card: dict[str, Any]) -> dict[str, Graph]:
    """Return name -> graph, with the settings of the class starter's card."""
    return {
        "class_conditional": class_conditional(card),
        "unconditional": unconditional(card),
        "variant_comparison": variant_comparison(card),
    }
