"""The example workflow that trains a motion LoRA, watches it and uses it."""

from __future__ import annotations

from typing import Any

from .example_parts import (
    join_latte,
    latte_middle,
    latte_sampler,
    note,
    save_nodes,
    starter_loaders,
)
from .graphs import MUTED, Graph, Node

DATA = "my_videos"  # folder in ComfyUI's input folder
RUN = "my_motion"
PROMPTS = (
    "a blue square moving up",
    "a red circle moving left",
    "a yellow triangle moving down",
    "a green square standing still",
)
NOTE = f"""\
## Latte: train a motion LoRA

**1. Videos.** Put a folder *{DATA}* with videos into ComfyUI's input folder, each with its \
caption in a .txt file of the same name. To try it without any, run this in the folder of this pack:

`python -m latte_core draw-clips ../../input/{DATA} --num 50`

Then press R, and choose the folder in *Latte Train*.

**2. Run.** The training goes on in a process of its own. *Latte Training Status* waits for it \
here, with the newest pictures; **Cancel** ends the waiting, not the training. Set **wait** to \
*no* to use ComfyUI for other things meanwhile, and press Run again to look.

**To stop early:** mute groups 1 and 2 (Ctrl + M), unmute group 3, Run. Later the training goes on \
if you run group 1 again. Closing ComfyUI ends it with a checkpoint, too.

**3. Use it.** When the training has ended, press R, choose *latte/{RUN}.safetensors* in group 4, \
unmute it and mute the others.

The *starter* is a small model that learns in minutes on a CPU. For the full model choose a \
Latte-1 folder in *Latte Train*, a learning_rate of 0.0001, interval 3, and more steps."""


def train_motion_lora(card: dict[str, Any]) -> Graph:
    """Train on the starter, watch; stopping and using the LoRA are muted."""
    graph = Graph("train_motion_lora")
    graph.add_note(note(NOTE, (460, 560)))
    train = Node("LatteTrain", (360, 520), train_values())
    status = Node("LatteTrainingStatus", (480, 620), [RUN, "until finished", 3600])
    words = Node("PreviewAny", (360, 160))
    stop = Node("LatteStopTraining", (360, 110), [RUN, 60], mode=MUTED)
    last_words = Node("PreviewAny", (360, 160), mode=MUTED)
    graph.add_group("1. Train", [[train]])
    graph.add_group("2. Watch", [[status], [words]])
    graph.add_group("3. Stop, muted", [[stop, last_words]])
    graph.link(train, "run", status)
    graph.link(status, "status", words, "source")
    graph.link(stop, "status", last_words, "source")
    add_use(graph, card)
    return graph


def train_values() -> list[Any]:
    """Return the widgets of Latte Train."""
    what = [DATA, "starter", "motion LoRA (temporal)", RUN]
    return [*what, 200, 4, 0.001, 8, 16, 1, "auto", 0, 50, "\n".join(PROMPTS), False]


def add_use(graph: Graph, card: dict[str, Any]) -> None:
    """Add a group that makes a video with the LoRA."""
    loaders = starter_loaders()
    lora = Node("LatteLoraLoader", (300, 110), [f"latte/{RUN}.safetensors", 1.0])
    size = [card["width"], card["height"], card["num_frames"]]
    sampler = latte_sampler(1, card["num_steps"], card["guidance_scale"])
    middle = latte_middle(PROMPTS[0], size, sampler)
    scale = Node("ImageScaleBy", (300, 90), ["lanczos", 4.0])
    create, save = save_nodes("video/Latte_motion", card["fps"])
    nodes = [*loaders, lora, *middle, scale, create, save]
    for node in nodes:
        node.mode = MUTED
    columns = [[*loaders, lora], [middle[0]], [middle[1], sampler], [middle[3], scale, create]]
    graph.add_group("4. Use the LoRA, muted", [*columns, [save]])
    join_latte(graph, [lora, *loaders[1:]], middle)
    graph.link(loaders[0], "model", lora)
    graph.link(middle[3], "images", scale, "image")
    graph.link(scale, "IMAGE", create, "images")
    graph.link(create, "VIDEO", save, "video")
