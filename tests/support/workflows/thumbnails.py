"""Make the pictures that ComfyUI's template browser shows for the example workflows.

Run it from the folder of the pack, where the starter is:

    python -m tests.support.workflows.thumbnails [--latte1 SCREENSHOT | --run FOLDER]

A clip becomes four of its frames, made with the prompt, seed and settings of the example itself.
The page asks for NAME.jpg and nothing else, so that an animation cannot be shown there. Latte-1
itself is too large to run for a picture: its example shows its graph, cut from the screenshot
that tests/comfyui/test_front_end.py leaves as text_to_video_latte1_start.png. The training example
shows the losses and the newest samples of a run of it, a folder of output/latte_training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from latte_core import Pipeline
from latte_core.acceleration.settings import parse_cache
from latte_core.pipelines.classes.pipeline import ClassPipeline

from .examples import FOLDER

CLIPS = (
    *("text_to_video", "text_to_video_accelerated"),
    *("text_to_video_stock_nodes", "text_to_video_upscale_combine"),
)
CLASS_CLIPS = ("class_conditional", "unconditional", "variant_comparison")
PICTURE = "text_to_image"
ANY_CLASS = 18  # of the class starter
GRAPH = "text_to_video_latte1"
TRAINING = "train_motion_lora"
SIDE = 512
BORDER = 4
WIDE = (640, 360)


def first_values(name: str) -> dict[str, list[Any]]:
    """Return the widget values of the first node of each kind in an example."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    values: dict[str, list[Any]] = {}
    for node in workflow["nodes"]:
        values.setdefault(node["type"], node["widgets_values"])
    return values


def settings_of(name: str) -> dict[str, Any]:
    """Return prompt, seed, steps, guidance, size and cache from an example's widgets."""
    values = first_values(name)
    encode = values.get("LatteTextEncode") or values["CLIPTextEncode"]
    sampler = values.get("LatteSampler") or values["KSampler"]
    width, height, frames = values.get("LatteEmptyLatent") or values["EmptyLatentImage"]
    mode = values.get("LatteAccelerate", [None])[0]
    return {
        "prompt": encode[0],
        "seed": sampler[0],
        "num_steps": sampler[2],
        "guidance_scale": sampler[3],
        "width": width,
        "height": height,
        "num_frames": frames,
        "cache": None if mode is None else parse_cache(mode),
    }


def class_settings_of(name: str) -> dict[str, Any]:
    """Return class, seed, steps, guidance and size from the widgets of a class example."""
    values = first_values(name)
    sampler = values.get("LatteSampler") or values["KSampler"]
    width, height, frames = values["LatteEmptyLatent"]
    label = values.get("LatteClassLabel", [ANY_CLASS])[0]
    return {
        "class_labels": label,
        "seed": sampler[0],
        "method": "ddim",
        "steps": sampler[2],
        "guidance_scale": sampler[3],
        "width": width,
        "height": height,
        "num_frames": frames,
    }


def sheet(frames: Tensor) -> Image.Image:
    """Return four frames of a clip, first to last, in two rows."""
    chosen = torch.linspace(0, len(frames) - 1, 4).round().long()
    cell = SIDE // 2 - BORDER
    canvas = Image.new("RGB", (SIDE, SIDE), "#555555")
    for place, index in enumerate(chosen.tolist()):
        pixels = (frames[index].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        picture = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.LANCZOS)
        row, column = divmod(place, 2)
        half = BORDER // 2
        canvas.paste(picture, (half + column * SIDE // 2, half + row * SIDE // 2))
    return canvas


def single(frame: Tensor) -> Image.Image:
    """Return one frame, enlarged."""
    pixels = (frame.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def run_picture(folder: Path) -> Image.Image:
    """Return the losses of a run above its newest samples."""
    newest = max((folder / "samples").glob("*.png"))
    canvas = Image.new("RGB", (SIDE, SIDE), "#555555")
    for place, path in enumerate((folder / "loss.png", newest)):
        with Image.open(path) as picture:
            half = picture.convert("RGB").resize((SIDE, SIDE // 2), Image.Resampling.LANCZOS)
        canvas.paste(half, (0, place * SIDE // 2))
    return canvas


def save(name: str, picture: Image.Image) -> None:
    """Write the picture of an example."""
    picture.convert("RGB").save(FOLDER / f"{name}.jpg", quality=90, optimize=True)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--latte1", type=Path, help="screenshot of the Latte-1 example, 16:9")
    parser.add_argument("--starter", default="starter", help="another folder than the starter's")
    parser.add_argument("--run", type=Path, help="folder of a run of the training example")
    options = parser.parse_args()
    if options.run is not None:
        save(TRAINING, run_picture(options.run))
        return
    pipeline = Pipeline.from_pretrained(options.starter)
    for name in CLIPS:
        result = pipeline(**settings_of(name))
        assert result.frames is not None
        save(name, sheet(result.frames))
    picture = pipeline(**settings_of(PICTURE), vae="image").frames
    assert picture is not None
    save(PICTURE, single(picture[0]))
    classes = ClassPipeline.from_pretrained("class-starter")
    for name in CLASS_CLIPS:
        made = classes(**class_settings_of(name)).frames
        assert made is not None
        save(name, sheet(made))
    if options.latte1 is not None:
        with Image.open(options.latte1) as screenshot:
            save(GRAPH, screenshot.resize(WIDE, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
