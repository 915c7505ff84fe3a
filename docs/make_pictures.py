"""Make the pictures of docs/images with the starters, and the scores in both READMEs.

Run it from the folder of the pack: python -m docs.make_pictures
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from latte_core import ClassPipeline, Pipeline
from latte_core.video import enlarge

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
ASSETS = ROOT / "latte_core" / "assets"
READMES = (ROOT / "README.md", ROOT / "README.zh.md")
SCORE = re.compile(r"(<!-- (score|class-score):(\w+) -->).*?(<!-- end -->)")

CLIPS = {
    "blue_square_up": "a blue square moving up",
    "red_circle_left": "a red circle moving left",
    "yellow_triangle_right": "a yellow triangle moving right",
    "purple_circle_down": "a purple circle moving down",
}
SHEET = (*CLIPS.values(), "a white square standing still", "a green triangle moving left")
SEED = 1
SHEET_FRAMES = range(0, 16, 2)
ENLARGED = 4
CELL = 64
LABEL = 20
CLASS_COLUMNS = 6


def make_clip(pipeline: Pipeline, prompt: str) -> Tensor:
    """Return the frames of a prompt, (F, H, W, 3), made as the starter is run best."""
    best = pipeline.defaults
    result = pipeline(
        prompt,
        num_frames=best.num_frames,
        num_steps=best.num_steps,
        guidance_scale=best.guidance_scale,
        sampler=best.sampler,
        seed=SEED,
    )
    assert result.frames is not None
    return result.frames


def pictures(frames: Tensor) -> list[Image.Image]:
    """Return frames as pictures."""
    return [
        Image.fromarray((frame * 255).round().to(torch.uint8).numpy())
        for frame in frames.clamp(0, 1)
    ]


def save_clip(path: Path, frames: Tensor, fps: float, enlarged: int) -> None:
    """Write an endless animation."""
    first, *rest = pictures(enlarge(frames, enlarged))
    duration = round(1000 / fps)
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, quality=80)


def contact_sheet(clips: dict[str, Tensor]) -> Image.Image:
    """Return one row of frames for each prompt, under its words."""
    height = LABEL + CELL
    sheet = Image.new("RGB", (CELL * len(SHEET_FRAMES), height * len(clips)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (prompt, frames) in enumerate(clips.items()):
        draw.text((2, row * height + 4), prompt, fill="black")
        for column, picture in enumerate(pictures(frames[list(SHEET_FRAMES)])):
            sheet.paste(picture, (column * CELL, row * height + LABEL))
    return sheet


def class_grid(pipeline: ClassPipeline) -> Tensor:
    """Return one clip of every class, colours across and shapes down: (F, H, W, 3)."""
    names = list(pipeline.class_names)
    made = pipeline(names, seed=[SEED] * len(names)).frames
    assert made is not None
    cells = made.unflatten(0, (CLASS_COLUMNS, -1))  # colours, shapes, F H W 3
    return torch.cat([torch.cat(list(row), dim=2) for row in cells.transpose(0, 1)], dim=1)


def score_texts(card: dict[str, Any]) -> dict[str, str]:
    """Return the numbers of a card as a README shows them."""
    shares = {
        name: f"{value:.1%}" for name, value in card["scores"].items() if isinstance(value, float)
    }
    steps = card.get("num_steps", card.get("steps"))
    plain = {"clips": f"{card['scores']['clips']:.0f}", "num_steps": f"{steps}"}
    return {**shares, **plain, "guidance_scale": f"{card['guidance_scale']:g}"}


def with_scores(text: str, card: dict[str, Any], class_card: dict[str, Any]) -> str:
    """Return a README with the numbers between its score marks taken from the cards."""
    values = {"score": score_texts(card), "class-score": score_texts(class_card)}
    return SCORE.sub(lambda found: f"{found[1]}{values[found[2]][found[3]]}{found[4]}", text)


def main() -> None:
    """Write pictures and scores."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    pipeline = Pipeline.from_pretrained("starter")
    fps = pipeline.defaults.fps
    clips = {prompt: make_clip(pipeline, prompt) for prompt in SHEET}
    for name, prompt in CLIPS.items():
        save_clip(IMAGES / f"{name}.webp", clips[prompt], fps, ENLARGED)
    contact_sheet(clips).save(IMAGES / "contact_sheet.png", optimize=True)
    grid = class_grid(ClassPipeline.from_pretrained("class-starter"))
    save_clip(IMAGES / "class_grid.webp", grid, fps, 2)
    cards = [
        json.loads((ASSETS / name / "card.json").read_text(encoding="utf-8"))
        for name in ("starter", "class_starter")
    ]
    for path in READMES:
        path.write_text(with_scores(path.read_text(encoding="utf-8"), *cards), encoding="utf-8")


if __name__ == "__main__":
    main()
