"""The example workflows as data.

`python -m tests.support.workflows.examples`, run from the folder of the pack, writes their files
again. Steps and guidance come from the card of the starter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import class_examples, training_example
from .example_parts import (
    GREEN,
    RED,
    join_latte,
    latte_middle,
    latte_sampler,
    note,
    save_nodes,
    starter_loaders,
)
from .graphs import MUTED, Graph, Node

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "example_workflows"
CARD = ROOT / "latte_core" / "assets" / "starter" / "card.json"
CLASS_CARD = ROOT / "latte_core" / "assets" / "class_starter" / "card.json"
LATTE_1 = "https://huggingface.co/maxin-cn/Latte-1"
FLUX_T5 = "https://huggingface.co/comfyanonymous/flux_text_encoders"
UPSCALER = "RealESRGAN_x4plus.safetensors"
UPSCALER_URL = f"https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/{UPSCALER}"

STARTER_NOTE = """\
## Latte: {title}, at once

Press **Run**. The *starter* model comes with this pack, so nothing has to be downloaded, \
and a clip takes seconds.

It draws one coloured shape that moves:

- colours: red, green, blue, yellow, purple, white
- shapes: circle, square, triangle
- movement: left, right, up, down, still

Write for example *a blue square moving up* as the prompt.

{more}"""
FULL_MODEL = """\
For real scenes use the full model, Latte-1: open the example **text_to_video_latte1**."""
TEXT_TO_VIDEO_MORE = f"""\
The clip is 64 x 64 pixels, 16 frames; **Upscale Image By** makes it four times as large.

{FULL_MODEL}"""
TEXT_TO_IMAGE_MORE = f"""\
A picture is a video of **1 frame**. The same works with Latte-1; for pictures of Latte-0 switch \
**temporal_attention** off in *Latte Sampler*, as its authors do.

{FULL_MODEL}"""
STOCK_MORE = f"""\
Only the three loaders are Latte's own. All the rest is plain ComfyUI: Latte is a native MODEL, \
CLIP and VAE here, so LoRA, merging, EasyCache and context windows go in between as usual.

- **batch_size** of Empty Latent Image is the number of frames.
- **euler** with **ddim_uniform** walks almost the same steps as Latte Sampler.

{FULL_MODEL}"""
ACCELERATED_MORE = f"""\
*Latte Accelerate* between loader and sampler computes every second step in full. In the others \
the blocks add again what they added before, so the clip changes a little.

- **mode**: quality stays closest to the clip without it, fast saves most, off switches it off. \
Queue the same seed with off to compare; the log says how many steps were computed.
- It works with KSampler and SamplerCustomAdvanced, too, and before or behind LoRAs.
- *Latte Calibrate* measures which steps suit your model best and writes a **schedule** for it.

{FULL_MODEL}"""
COMBINE_MORE = f"""\
This graph needs the pack **ComfyUI-VideoHelperSuite** for *Video Combine*.

**Group 5 is muted.** To enlarge with a model instead of plain scaling:

1. save [{UPSCALER}]({UPSCALER_URL}) (64 MB) in `models/upscale_models`
2. press R, so that the list is read again, and choose the file in *Load Upscale Model*
3. select the nodes of group 5 and press Ctrl + M"""
LATTE_1_NOTE = f"""\
## Latte-1, the full text-to-video model

512 x 512 pixels, 16 frames, 8 frames per second. Save these files under the names given here; \
on the model page two of them have the same name.

| file | folder in models | size |
|---|---|---|
| [latte-1_transformer.safetensors]({LATTE_1}/resolve/main/transformer/\
diffusion_pytorch_model.safetensors) | diffusion_models | {{transformer}} |
| [t5xxl_fp16.safetensors]({FLUX_T5}/resolve/main/t5xxl_fp16.safetensors) | text_encoders | \
9.8 GB |
| [latte-1_vae.safetensors]({LATTE_1}/resolve/main/vae/\
diffusion_pytorch_model.safetensors) | vae | {{vae}} |

If you already have a t5xxl file (fp16, fp8 or scaled fp8), choose it: they all fit.

The loaders are ComfyUI's own; the type of *Load CLIP* is **pixart**. \
The other nodes follow the authors' settings: 50 steps, guidance 7.5.

Less memory: weight_dtype fp8_e4m3fn in *Load Diffusion Model*, device cpu in *Load CLIP*.

Licence of the weights: Apache-2.0 ([model page]({LATTE_1}))."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a card."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_card() -> dict[str, Any]:
    """Return the starter's own defaults: steps, guidance, size, frames, fps."""
    return read_json(CARD)


def text_to_video(card: dict[str, Any]) -> Graph:
    """The first graph: our nodes on the starter, enlarged and saved."""
    graph = Graph("text_to_video")
    graph.add_note(
        note(STARTER_NOTE.format(title="text to video", more=TEXT_TO_VIDEO_MORE), (400, 310))
    )
    loaders = starter_loaders()
    size = [card["width"], card["height"], card["num_frames"]]
    sampler = latte_sampler(1, card["num_steps"], card["guidance_scale"])
    middle = latte_middle("a blue square moving up", size, sampler)
    scale = Node("ImageScaleBy", (300, 90), ["lanczos", 4.0])
    create, save = save_nodes("video/Latte", card["fps"])
    graph.add_group("1. Load the starter", [loaders])
    graph.add_group("2. Prompt", [[middle[0]]])
    graph.add_group("3. Sample", [[middle[1], middle[2]]])
    graph.add_group("4. Decode and save", [[middle[3], scale, create], [save]])
    join_latte(graph, loaders, middle)
    graph.link(middle[3], "images", scale, "image")
    graph.link(scale, "IMAGE", create, "images")
    graph.link(create, "VIDEO", save, "video")
    return graph


def text_to_video_accelerated(card: dict[str, Any]) -> Graph:
    """The first graph with a step cache on its model."""
    graph = Graph("text_to_video_accelerated")
    title = "text to video, accelerated"
    graph.add_note(note(STARTER_NOTE.format(title=title, more=ACCELERATED_MORE), (400, 440)))
    loaders = starter_loaders()
    accelerate = Node("LatteAccelerate", (300, 190), ["balanced", "auto", 0.0, "auto", "auto"])
    size = [card["width"], card["height"], card["num_frames"]]
    sampler = latte_sampler(6, card["num_steps"], card["guidance_scale"])
    middle = latte_middle("a red square moving down", size, sampler)
    scale = Node("ImageScaleBy", (300, 90), ["lanczos", 4.0])
    create, save = save_nodes("video/Latte_accelerated", card["fps"])
    graph.add_group("1. Load the starter", [loaders])
    graph.add_group("2. Accelerate", [[accelerate]])
    graph.add_group("3. Prompt", [[middle[0]]])
    graph.add_group("4. Sample", [[middle[1], middle[2]]])
    graph.add_group("5. Decode and save", [[middle[3], scale, create], [save]])
    graph.link(loaders[0], "model", accelerate)
    join_latte(graph, [accelerate, *loaders[1:]], middle)
    graph.link(middle[3], "images", scale, "image")
    graph.link(scale, "IMAGE", create, "images")
    graph.link(create, "VIDEO", save, "video")
    return graph


def text_to_video_stock_nodes(card: dict[str, Any]) -> Graph:
    """Our loaders, and ComfyUI's own nodes for everything else."""
    graph = Graph("text_to_video_stock_nodes")
    graph.add_note(note(STARTER_NOTE.format(title="text to video", more=STOCK_MORE), (400, 370)))
    loaders = starter_loaders()
    positive = Node(
        "CLIPTextEncode",
        (400, 150),
        ["a red circle moving right"],
        title="Positive prompt",
        color=GREEN,
    )
    negative = Node("CLIPTextEncode", (400, 150), [""], title="Negative prompt", color=RED)
    empty = Node(
        "EmptyLatentImage", (300, 110), [card["width"], card["height"], card["num_frames"]]
    )
    seed = [11, "randomize"]
    sampler = Node(
        "KSampler",
        (300, 270),
        [*seed, card["num_steps"], card["guidance_scale"], "euler", "ddim_uniform", 1.0],
    )
    decode = Node("VAEDecode", (300, 60))
    create, save = save_nodes("video/Latte_stock", card["fps"])
    graph.add_group("1. Load the starter", [loaders])
    graph.add_group("2. Prompt", [[positive, negative]])
    graph.add_group("3. Sample", [[empty, sampler]])
    graph.add_group("4. Decode and save", [[decode, create], [save]])
    model, clip, vae = loaders
    graph.link(clip, "clip", positive)
    graph.link(clip, "clip", negative)
    graph.link(model, "model", sampler)
    graph.link(positive, "CONDITIONING", sampler, "positive")
    graph.link(negative, "CONDITIONING", sampler, "negative")
    graph.link(empty, "LATENT", sampler, "latent_image")
    graph.link(sampler, "LATENT", decode, "samples")
    graph.link(vae, "vae", decode)
    graph.link(decode, "IMAGE", create, "images")
    graph.link(create, "VIDEO", save, "video")
    return graph


def latte_1_loaders() -> list[Node]:
    """Return ComfyUI's own loaders on the files of Latte-1, with the links to get them."""
    transformer, vae = "latte-1_transformer.safetensors", "latte-1_vae.safetensors"
    text = "t5xxl_fp16.safetensors"
    source = f"{LATTE_1}/resolve/main"
    name = "diffusion_pytorch_model.safetensors"

    def link(file: str, url: str, directory: str) -> list[dict[str, str]]:
        return [{"name": file, "url": url, "directory": directory}]

    return [
        Node(
            "UNETLoader",
            (340, 90),
            [transformer, "default"],
            models=link(transformer, f"{source}/transformer/{name}", "diffusion_models"),
        ),
        Node(
            "CLIPLoader",
            (340, 110),
            [text, "pixart", "default"],
            models=link(text, f"{FLUX_T5}/resolve/main/{text}", "text_encoders"),
        ),
        Node("VAELoader", (340, 60), [vae], models=link(vae, f"{source}/vae/{name}", "vae")),
    ]


def text_to_video_latte1() -> Graph:
    """ComfyUI's own loaders on Latte-1, then the authors' settings."""
    graph = Graph("text_to_video_latte1")
    text = LATTE_1_NOTE.format(transformer="4.2 GB", vae="335 MB")
    graph.add_note(note(text, (520, 350)))
    loaders = latte_1_loaders()
    middle = latte_middle(
        "a red fox walks through fresh snow in a pine forest at sunrise, slow motion",
        [512, 512, 16],
        latte_sampler(42, 50, 7.5),
    )
    create, save = save_nodes("video/Latte-1", 8)
    graph.add_group("1. Load Latte-1", [loaders])
    graph.add_group("2. Prompt", [[middle[0]]])
    graph.add_group("3. Sample", [[middle[1], middle[2]]])
    graph.add_group("4. Decode and save", [[middle[3], create], [save]])
    join_latte(graph, loaders, middle)
    graph.link(middle[3], "images", create)
    graph.link(create, "VIDEO", save, "video")
    return graph


def combine(prefix: str, fps: int, height: int, mode: int = 0) -> Node:
    """Return VideoHelperSuite's combine node, writing H.264; its preview needs 300 of `height`."""
    values = {
        "frame_rate": fps,
        "loop_count": 0,
        "filename_prefix": prefix,
        "format": "video/h264-mp4",
        "pix_fmt": "yuv420p",
        "crf": 19,
        "save_metadata": True,
        "trim_to_audio": False,
        "pingpong": False,
        "save_output": True,
    }
    return Node("VHS_VideoCombine", (300, height), values, mode=mode)


def text_to_video_upscale_combine(card: dict[str, Any]) -> Graph:
    """Two ways to enlarge, written by VideoHelperSuite."""
    graph = Graph("text_to_video_upscale_combine")
    graph.add_note(note(STARTER_NOTE.format(title="text to video", more=COMBINE_MORE), (400, 350)))
    loaders = starter_loaders()
    size = [card["width"], card["height"], card["num_frames"]]
    sampler = latte_sampler(10, card["num_steps"], card["guidance_scale"])
    middle = latte_middle("a yellow triangle moving left", size, sampler)
    scale = Node("ImageScaleBy", (300, 90), ["lanczos", 4.0])
    write = combine("Latte_x4", card["fps"], 640)
    upscaler = Node("UpscaleModelLoader", (300, 60), [UPSCALER], mode=MUTED)
    enlarge = Node("ImageUpscaleWithModel", (300, 60), mode=MUTED)
    write_model = combine("Latte_x4_model", card["fps"], 340, MUTED)
    graph.add_group("1. Load the starter", [loaders])
    graph.add_group("2. Prompt", [[middle[0]]])
    graph.add_group("3. Sample", [[middle[1], middle[2]]])
    graph.add_group("4. Decode, enlarge and save", [[middle[3], scale], [write]])
    graph.add_group_below(
        "5. Upscale Image (using Model), muted", [[upscaler, enlarge], [write_model]]
    )
    join_latte(graph, loaders, middle)
    graph.link(middle[3], "images", scale, "image")
    graph.link(scale, "IMAGE", write, "images")
    graph.link(upscaler, "UPSCALE_MODEL", enlarge, "upscale_model")
    graph.link(middle[3], "images", enlarge, "image")
    graph.link(enlarge, "IMAGE", write_model, "images")
    return graph


def text_to_image(card: dict[str, Any]) -> Graph:
    """One frame of the starter, saved as a picture."""
    graph = Graph("text_to_image")
    graph.add_note(
        note(STARTER_NOTE.format(title="text to image", more=TEXT_TO_IMAGE_MORE), (400, 400))
    )
    loaders = starter_loaders("image")
    steps, cfg = card["num_steps"], card["guidance_scale"]
    sampler = latte_sampler(3, steps, cfg)
    size = [card["width"], card["height"], 1]
    middle = latte_middle("a green triangle standing still", size, sampler)
    scale = Node("ImageScaleBy", (300, 90), ["lanczos", 4.0])
    save = Node("SaveImage", (400, 450), ["Latte_image"])
    graph.add_group("1. Load the starter", [loaders])
    graph.add_group("2. Prompt", [[middle[0]]])
    graph.add_group("3. Sample one frame", [[middle[1], middle[2]]])
    graph.add_group("4. Decode and save", [[middle[3], scale], [save]])
    join_latte(graph, loaders, middle)
    graph.link(middle[3], "images", scale, "image")
    graph.link(scale, "IMAGE", save, "images")
    return graph


def build_all(card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return file name -> workflow."""
    graphs = {
        "text_to_video": text_to_video(card),
        "text_to_video_accelerated": text_to_video_accelerated(card),
        "text_to_video_stock_nodes": text_to_video_stock_nodes(card),
        "text_to_video_latte1": text_to_video_latte1(),
        "text_to_video_upscale_combine": text_to_video_upscale_combine(card),
        "text_to_image": text_to_image(card),
        **class_examples.build(read_json(CLASS_CARD)),
        "train_motion_lora": training_example.train_motion_lora(card),
    }
    return {f"{name}.json": graph.to_json() for name, graph in graphs.items()}


def to_text(workflow: dict[str, Any]) -> str:
    """Return the workflow as the text of its file."""
    return json.dumps(workflow, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, workflow in build_all(read_card()).items():
        (FOLDER / name).write_text(to_text(workflow), encoding="utf-8")
