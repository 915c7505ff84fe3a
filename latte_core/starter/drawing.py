"""Draw clips of one or two moving shapes: the data the starter models are trained on.

What a clip shows is described in `scenes.py`. Edges are drawn from signed distances, so that they
are clean at sub-pixel positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .captions import base_prompt, make_caption
from .scene_parts import (
    BACKGROUNDS,
    CLIP_SIDE,
    COLORS,
    DEFAULT_BACKGROUND,
    DIRECTIONS,
    SHAPES,
    UNNAMED_COLORS,
    ClipSpec,
    ObjectSpec,
)
from .scenes import Mixture, make_clip_spec

__all__ = [
    "BACKGROUND",
    "CLIP_FRAMES",
    "CLIP_SIDE",
    "COLORS",
    "DIRECTIONS",
    "SHAPES",
    "ClipSpec",
    "Mixture",
    "base_prompt",
    "draw_clips",
    "draw_frames",
    "make_caption",
    "make_clip_spec",
    "signed_distance",
]

BACKGROUND = BACKGROUNDS[DEFAULT_BACKGROUND]
CLIP_FRAMES = 16
PAINTS = {**COLORS, **UNNAMED_COLORS}


def signed_distance(shape: str, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """Return the distance in pixels of points (x, y) to the outline, negative inside.

    All shapes are `size` across; the triangle and the chevron point up, the bar lies and the pillar
    stands, half as thick, the dome is the upper half of a circle, the arms of the cross are a third
    as wide, those of the ell as well, and the hole of the ring is half as wide.
    """
    half = size / 2
    if shape == "circle":
        return (x.square() + y.square()).sqrt() - half
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - half
    if shape == "diamond":
        return (x.abs() + y.abs() - half) / 2**0.5
    if shape == "ring":
        radius = (x.square() + y.square()).sqrt()
        return torch.maximum(radius - half, half / 2 - radius)
    if shape == "dome":
        lowered = y - half / 2
        return torch.maximum((x.square() + lowered.square()).sqrt() - half, lowered)
    if shape in ("bar", "pillar"):
        along, across = (x.abs(), y.abs()) if shape == "bar" else (y.abs(), x.abs())
        return torch.maximum(along - half, across - half / 2)
    if shape == "ell":
        missing = torch.maximum(-(x + half / 3), y - half / 3)
        return torch.maximum(torch.maximum(x.abs(), y.abs()) - half, -missing)
    if shape == "cross":
        near, far = torch.minimum(x.abs(), y.abs()), torch.maximum(x.abs(), y.abs())
        return torch.maximum(near - half / 3, far - half)
    if shape == "chevron":
        return torch.maximum(triangle_distance(x, y, half), -triangle_distance(x, y - half, half))
    return triangle_distance(x, y, half)


def triangle_distance(x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    """Return the distance to a triangle that points up, twice `half` wide and high."""
    # The slanted side runs from (0, -half) to (half, half): normal (2, -1) / sqrt 5.
    slanted = (2 * x.abs() - (y + half)) / 5**0.5
    return torch.maximum(slanted, y - half)


def draw_cover(thing: ObjectSpec, moments: Tensor, side: int) -> Tensor:
    """Return how much of each pixel an object covers: (F, 1, side, side) in [0, 1]."""
    grid = torch.arange(side, dtype=torch.float32) + 0.5
    step_x, step_y = DIRECTIONS[thing.direction]
    center_x = (thing.start[0] + step_x * thing.travel * moments).view(-1, 1, 1)
    center_y = (thing.start[1] + step_y * thing.travel * moments).view(-1, 1, 1)
    x = (grid - center_x).expand(-1, side, -1)  # F side side
    y = (grid.view(-1, 1) - center_y).expand(-1, -1, side)
    distance = signed_distance(thing.shape, x, y, torch.tensor(thing.size))
    return (0.5 - distance).clamp(0, 1).unsqueeze(1)


def draw_frames(specs: Sequence[ClipSpec], progress: Tensor, side: int = CLIP_SIDE) -> Tensor:
    """Draw chosen moments of clips.

    Args:
        specs: N clips.
        progress: (N, F) moments, 0 = first frame, 1 = last frame.
        side: picture side in pixels.

    Returns:
        (N, F, 3, side, side) float32 in [0, 1].
    """
    clips: list[Tensor] = []
    for spec, moments in zip(specs, progress, strict=True):
        background = torch.tensor(BACKGROUNDS[spec.background]).view(3, 1, 1)
        clip = background.expand(len(moments), 3, side, side)
        for thing in spec.objects:
            color = torch.tensor(PAINTS[thing.color]).view(3, 1, 1)
            # Objects lie apart, so that no pixel belongs to both.
            clip = clip + draw_cover(thing, moments, side) * (color - background)
        clips.append(clip)
    return torch.stack(clips)


def draw_clips(
    specs: Sequence[ClipSpec], num_frames: int = CLIP_FRAMES, side: int = CLIP_SIDE
) -> Tensor:
    """Draw whole clips: (N, F, 3, side, side) float32 in [0, 1]."""
    moments = torch.linspace(0, 1, num_frames) if num_frames > 1 else torch.zeros(1)
    return draw_frames(specs, moments.expand(len(specs), num_frames), side)
