"""Draw captioned clips of one moving shape: the data the starter model is trained on.

A clip is F frames of one object on a plain dark background. The object keeps its size, moves at
constant speed in one direction (or stands still) and never leaves the picture. Edges are drawn from
signed distances, so that they are clean at sub-pixel positions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.62, 0.18, 0.85),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = ("circle", "square", "triangle")
# unit velocity as (x, y), y down as in pictures
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}
BACKGROUND = (0.06, 0.06, 0.08)
OBJECT_SIZES = (14.0, 22.0)  # pixels across, in a 64-pixel picture
TRAVELS = (20.0, 36.0)  # pixels between the first and the last frame
MARGIN = 1.0  # pixels kept free at the border
CLIP_FRAMES = 16
CLIP_SIDE = 64

MOVING_WORDINGS = (
    "a {color} {shape} moving {direction}",
    "a {color} {shape} moves {direction}",
    "{color} {shape} moving {direction}",
    "the {color} {shape} is moving {direction}",
    "a {color} {shape} going {direction}",
    "a {shape} that is {color} moving {direction}",
    "a video of a {color} {shape} moving {direction}",
)
STILL_WORDINGS = (
    "a {color} {shape} standing still",
    "a still {color} {shape}",
    "{color} {shape} standing still",
    "the {color} {shape} is not moving",
    "a {color} {shape} that does not move",
    "a {shape} that is {color} standing still",
    "a video of a {color} {shape} standing still",
)
PARTIAL_MOVING = (
    "a {shape} moving {direction}",
    "moving {direction}",
    "something moving {direction}",
)
PARTIAL_STILL = ("a {shape} standing still", "standing still", "something standing still")
PARTIAL_LOOKS = ("{color}", "a {color} {shape}", "{shape}", "a {color} shape", "{color} {shape}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """What one clip shows.

    Args:
        color, shape, direction: keys of COLORS, SHAPES and DIRECTIONS.
        size: pixels across.
        start: (x, y) centre in the first frame, in pixels.
        travel: pixels from the first to the last frame; 0 for "still".
    """

    color: str
    shape: str
    direction: str
    size: float
    start: tuple[float, float]
    travel: float


def make_clip_spec(
    rng: random.Random,
    *,
    color: str | None = None,
    shape: str | None = None,
    direction: str | None = None,
    side: int = CLIP_SIDE,
    spread: float = 1.0,
) -> ClipSpec:
    """Draw a random clip description; given parts are kept.

    Args:
        rng: draws.
        color, shape, direction: keys of COLORS, SHAPES, DIRECTIONS, or None for any.
        side: of the picture in pixels.
        spread: how much size, travel and place vary: 1 is all of their ranges, 0 is their middles,
            so that colour, shape and direction alone decide every frame.
    """
    color = color or rng.choice(list(COLORS))
    shape = shape or rng.choice(SHAPES)
    direction = direction or rng.choice(list(DIRECTIONS))

    def draw(low: float, high: float) -> float:
        return (low + high) / 2 + spread * (rng.uniform(low, high) - (low + high) / 2)

    size = draw(*OBJECT_SIZES)
    travel = 0.0 if direction == "still" else draw(*TRAVELS)
    low, high = size / 2 + MARGIN, side - size / 2 - MARGIN

    def place(step: int) -> float:
        before, after = (travel if step < 0 else 0.0), (travel if step > 0 else 0.0)
        return draw(low + before, high - after)

    step_x, step_y = DIRECTIONS[direction]
    return ClipSpec(
        color=color,
        shape=shape,
        direction=direction,
        size=size,
        start=(place(step_x), place(step_y)),
        travel=travel,
    )


def make_caption(spec: ClipSpec, rng: random.Random) -> str:
    """Describe a clip: often in the plain wording, else in another, sometimes only in part."""
    is_still = spec.direction == "still"
    draw = rng.random()
    if draw < 0.45:
        wording = (STILL_WORDINGS if is_still else MOVING_WORDINGS)[0]
    elif draw < 0.85:
        wording = rng.choice(STILL_WORDINGS if is_still else MOVING_WORDINGS)
    elif draw < 0.93:
        wording = rng.choice(PARTIAL_LOOKS)
    else:
        wording = rng.choice(PARTIAL_STILL if is_still else PARTIAL_MOVING)
    return wording.format(color=spec.color, shape=spec.shape, direction=spec.direction)


def base_prompt(color: str, shape: str, direction: str) -> str:
    """Return the plain wording, such as "a blue square moving up"."""
    wording = (STILL_WORDINGS if direction == "still" else MOVING_WORDINGS)[0]
    return wording.format(color=color, shape=shape, direction=direction)


def all_captions() -> list[str]:
    """Return every caption that `make_caption` can produce, sorted."""
    captions: set[str] = set()
    for color in COLORS:
        for shape in SHAPES:
            for direction in DIRECTIONS:
                is_still = direction == "still"
                wordings = (
                    STILL_WORDINGS + PARTIAL_STILL if is_still else MOVING_WORDINGS + PARTIAL_MOVING
                )
                captions.update(
                    wording.format(color=color, shape=shape, direction=direction)
                    for wording in wordings + PARTIAL_LOOKS
                )
    return sorted(captions)


def signed_distance(shape: str, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """Return the distance in pixels of points (x, y) to the outline, negative inside.

    The square and the circle are `size` across; the triangle points up, `size` wide and high.
    """
    half = size / 2
    if shape == "circle":
        return (x.square() + y.square()).sqrt() - half
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - half
    # The slanted side runs from (0, -half) to (half, half): normal (2, -1) / sqrt 5.
    slanted = (2 * x.abs() - (y + half)) / 5**0.5
    return torch.maximum(slanted, y - half)


def draw_frames(specs: Sequence[ClipSpec], progress: Tensor, side: int = CLIP_SIDE) -> Tensor:
    """Draw chosen moments of clips.

    Args:
        specs: N clips.
        progress: (N, F) moments, 0 = first frame, 1 = last frame.
        side: picture side in pixels.

    Returns:
        (N, F, 3, side, side) float32 in [0, 1].
    """
    grid = torch.arange(side, dtype=torch.float32) + 0.5
    background = torch.tensor(BACKGROUND).view(3, 1, 1)
    clips: list[Tensor] = []
    for spec, moments in zip(specs, progress, strict=True):
        step_x, step_y = DIRECTIONS[spec.direction]
        center_x = (spec.start[0] + step_x * spec.travel * moments).view(-1, 1, 1)
        center_y = (spec.start[1] + step_y * spec.travel * moments).view(-1, 1, 1)
        x = (grid - center_x).expand(-1, side, -1)  # F side side
        y = (grid.view(-1, 1) - center_y).expand(-1, -1, side)
        distance = signed_distance(spec.shape, x, y, torch.tensor(spec.size))
        cover = (0.5 - distance).clamp(0, 1).unsqueeze(1)  # F 1 side side
        color = torch.tensor(COLORS[spec.color]).view(3, 1, 1)
        clips.append(background + cover * (color - background))
    return torch.stack(clips)


def draw_clips(
    specs: Sequence[ClipSpec], num_frames: int = CLIP_FRAMES, side: int = CLIP_SIDE
) -> Tensor:
    """Draw whole clips: (N, F, 3, side, side) float32 in [0, 1]."""
    moments = torch.linspace(0, 1, num_frames) if num_frames > 1 else torch.zeros(1)
    return draw_frames(specs, moments.expand(len(specs), num_frames), side)
