"""Section 2: both starters by every sampler, against the latents of the CPU; a sheet of both."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor

from gpu_sections.session import Found, Session

PROMPT = "a red circle moving left"
SHOWN = (0, 5, 10, 15)  # frames of a video on the sheet
LABEL_WIDTH, GAP, HEAD = 190, 4, 20
INK = (40, 40, 40)
NEAR = 1e-2  # of the largest latent: float32 on two kinds of device, over a whole run


@dataclass
class Row:
    """One video of the sheet, made twice: (F, H, W, 3) in [0, 1]."""

    name: str
    on_cpu: Tensor
    on_card: Tensor


def run(session: Session, found: Found) -> None:
    """Make each video on both devices, compare latents, and draw the sheet."""
    rows: list[Row] = []
    for kind, subject in (("text", TextStarter), ("class", ClassStarter)):
        pair = session.attempt({}, kind, lambda subject=subject: open_both(session, subject))
        if pair is None:
            found[kind] = "the starter could not be opened"
            continue
        samplers: Found = {}
        found[kind] = samplers
        for name in pair[0].names[: session.sizes.samplers]:
            session.attempt(
                samplers, name, lambda name=name, pair=pair: compare(session, pair, name, rows)
            )
    made = session.attempt(found, "sheet", lambda: draw(session, rows))
    if made is not None:
        session.record.setdefault("files", []).append(made)


class TextStarter:
    """The text starter on a device: the ten samplers, and the reference's order of noise."""

    kind = "text"

    def __init__(self, device: str) -> None:
        self.pipeline: Any = import_core("pipelines.text.pipeline").Pipeline.from_pretrained(
            "starter", device=device, dtype=torch.float32
        )
        names = import_core("sampling.registry").SAMPLER_NAMES
        self.names = (*names, "ddim, reference's noise", "ddpm, reference's noise")

    def make(self, name: str, steps: int) -> Tensor:
        """Return latents."""
        sampler, _, order = name.partition(", ")
        made = self.pipeline(
            PROMPT,
            sampler=sampler,
            num_steps=steps,
            guidance_scale=self.pipeline.defaults.guidance_scale,
            noise_order="reference" if order else "comfyui",
            output="latents",
        )
        return made.latents


class ClassStarter:
    """The class starter on a device, sampled as the authors do by both of their methods."""

    kind = "class"

    def __init__(self, device: str) -> None:
        self.pipeline: Any = import_core(
            "pipelines.classes.pipeline"
        ).ClassPipeline.from_pretrained("class-starter", device=device, dtype=torch.float32)
        self.names = import_core("sampling.reference").METHODS

    def make(self, name: str, steps: int) -> Tensor:
        """Return latents."""
        made = self.pipeline(
            0,
            method=name,
            steps=f"ddim{steps}" if name == "ddim" else str(steps),
            noise_order="reference",
            output="latents",
        )
        return made.latents


def open_both(session: Session, subject: Any) -> tuple[Any, Any]:
    """Return a starter on the CPU and on the card."""
    return subject("cpu"), subject(session.card.device)


def compare(session: Session, pair: tuple[Any, Any], name: str, rows: list[Row]) -> Found:
    """Make one video on both devices; return seconds and how far the latents are apart."""
    steps = session.sizes.sampler_steps
    start = time.perf_counter()
    expected = pair[0].make(name, steps)
    cpu_seconds = time.perf_counter() - start
    latents, seconds = session.card.wall(lambda: pair[1].make(name, steps))
    largest = float(expected.abs().max())
    apart = float((latents.cpu() - expected).abs().max())
    found = {
        "max_difference": apart,
        "largest_latent": largest,
        "is_near": apart <= NEAR * largest,
        "seconds_cpu": round(cpu_seconds, 3),
        "seconds": round(seconds, 3),
        "steps": steps,
    }
    if "diffusers" in session.missing:
        return found
    both = zip(pair, (expected, latents), strict=True)
    frames = [one.pipeline.decode(made)[0] for one, made in both]
    rows.append(Row(f"{pair[0].kind}, {name}", *frames))
    return found | {
        "psnr_of_frames": round(import_core("pipelines.calibration.calibration").psnr(*frames), 2)
    }


def draw(session: Session, rows: list[Row]) -> str:
    """Write the sheet: a video in each row, the CPU's frames and then the card's."""
    pillow: Any = importlib.import_module("PIL.Image")
    pens: Any = importlib.import_module("PIL.ImageDraw")
    height, width = rows[0].on_cpu.shape[1:3]
    columns = 2 * len(SHOWN)
    size = LABEL_WIDTH + columns * (width + GAP) + 4 * GAP, HEAD + len(rows) * (height + GAP)
    sheet = pillow.new("RGB", size, (255, 255, 255))
    pen = pens.Draw(sheet)
    right = LABEL_WIDTH + len(SHOWN) * (width + GAP) + 4 * GAP
    for left, told in ((LABEL_WIDTH, "the CPU"), (right, session.record["device"])):
        pen.text((left, 3), told, fill=INK)
    for number, row in enumerate(rows):
        top = HEAD + number * (height + GAP)
        pen.text((4, top + height // 2 - 6), row.name, fill=INK)
        for side, frames in enumerate((row.on_cpu, row.on_card)):
            left = LABEL_WIDTH + side * (len(SHOWN) * (width + GAP) + 4 * GAP)
            for place, index in enumerate(SHOWN):
                frame = frames[min(index, len(frames) - 1)]
                values = (frame * 255).round().to(torch.uint8).contiguous().numpy()
                sheet.paste(pillow.fromarray(values), (left + place * (width + GAP), top))
    path = session.beside(".sheet.png")
    sheet.save(path, format="PNG")
    return path.name
