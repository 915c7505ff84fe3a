"""Tell from pixels what a clip of moving shapes shows: colours, shapes, directions and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .drawing import signed_distance
from .scene_parts import BACKGROUNDS, COLORS, DEFAULT_SIZE, DIRECTIONS, SHAPES

VISIBLE = 0.2  # colour distance from the background that makes a pixel part of the object
FEWEST_PIXELS = 20
STILL_LIMIT = 8.0  # pixels between first and last frame; drawn clips travel 0 or 16 and more
# pixels across, between the ranges that are drawn
SMALL_LIMIT = 13.25
BIG_LIMIT = 23.0
ALIKE = 0.35  # distance within which a pixel has a drawn colour; mixed edges are farther from all
FEWEST_ALIKE = 12  # pixels of its own colour that a frame of an object has at least


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What was seen of a clip with one object; None where nothing could be told.

    Args:
        color, shape, direction, size_name: keys of COLORS, SHAPES, DIRECTIONS and SIZES.
        size: pixels across; 0 where nothing could be told.
        travel: (x, y) pixels from the first to the last frame.
        background: a key of BACKGROUNDS.
        background_flicker: mean absolute change of background pixels between frames, in 1/255.
    """

    color: str | None
    shape: str | None
    direction: str | None
    size_name: str | None
    size: float
    travel: tuple[float, float]
    background: str
    background_flicker: float


def measure_clip(frames: Tensor) -> Measurement:
    """Measure one clip.

    Args:
        frames: (F, H, W, 3) in [0, 1], F >= 2: one object on a plain background.
    """
    background = border_color(frames)
    distance = length(frames - background, 3)  # F H W
    is_object = distance > VISIBLE
    flicker = background_flicker(frames, is_object)
    return measure_object(frames, background, is_object, flicker)


def measure_objects(frames: Tensor) -> list[Measurement]:
    """Measure a clip of objects of different colours: one measurement of each that is seen.

    Args:
        frames: (F, H, W, 3) in [0, 1], F >= 2: objects on a plain background, not touching.
    """
    background = border_color(frames)
    is_object = length(frames - background, 3) > VISIBLE
    flicker = background_flicker(frames, is_object)
    alike = [is_object & (length(frames - torch.tensor(rgb), 3) < ALIKE) for rgb in COLORS.values()]
    seen = [k for k in alike if is_seen(k, FEWEST_ALIKE)]
    if not seen:
        return []
    # A pixel of an edge, of mixed colour, belongs to the object with most pixels around it.
    near = torch.stack([functional.avg_pool2d(k.float(), 9, 1, 4) for k in seen])  # K F H W
    owner = near.argmax(dim=0)
    found = [
        measure_object(frames, background, is_object & (owner == k) & (near[k] > 0), flicker)
        for k in range(len(seen))
    ]
    return [one for one in found if one.color is not None]


def is_seen(is_object: Tensor, fewest: int) -> bool:
    """Return whether at least half of the frames (F, H, W) have enough pixels."""
    enough = is_object.flatten(1).sum(1) >= fewest
    return int(enough.sum()) >= max(2, is_object.shape[0] // 2)


def measure_object(
    frames: Tensor, background: Tensor, is_object: Tensor, flicker: float
) -> Measurement:
    """Measure what the pixels `is_object` (F, H, W) show on a background colour (3,)."""
    on = nearest_name(background, BACKGROUNDS)
    if not is_seen(is_object, FEWEST_PIXELS):
        return Measurement(
            color=None,
            shape=None,
            direction=None,
            size_name=None,
            size=0.0,
            travel=(0.0, 0.0),
            background=on,
            background_flicker=flicker,
        )
    distance = length(frames - background, 3) * around(is_object)
    seen = is_object.flatten(1).sum(1) >= FEWEST_PIXELS  # F
    # Near its full contrast a pixel shows the object's own colour, not a mixed edge.
    solid = distance > 0.8 * distance.flatten(1).quantile(0.995, dim=1).view(-1, 1, 1)
    color = frames[solid & is_object].median(dim=0).values  # 3
    contrast = length(color - background, 0)
    cover = (distance / contrast).clamp(0, 1) * (distance > VISIBLE / 2)  # F H W
    travel = fit_travel(cover, seen)
    shape = nearest_shape(cover[seen])
    size = float(size_across(shape, cover[seen]).median())
    return Measurement(
        color=nearest_name(color, COLORS),
        shape=shape,
        direction=name_direction(travel),
        size_name=name_size(size),
        size=size,
        travel=travel,
        background=on,
        background_flicker=flicker,
    )


def around(is_object: Tensor) -> Tensor:
    """Return 1.0 for pixels (F, H, W) of an object and those next to it, 0.0 elsewhere."""
    return functional.max_pool2d(is_object.float(), 3, 1, 1)


def border_color(frames: Tensor) -> Tensor:
    """Return the median colour (3,) of the outermost pixels of all frames."""
    top_bottom = frames[:, [0, -1]].reshape(-1, 3)
    left_right = frames[:, :, [0, -1]].reshape(-1, 3)
    return torch.cat([top_bottom, left_right]).median(dim=0).values


def background_flicker(frames: Tensor, is_object: Tensor) -> float:
    """Return the mean change between frames of pixels away from the object in both, in 1/255."""
    near = functional.max_pool2d(is_object.float().unsqueeze(1), 7, 1, 3).squeeze(1) > 0
    both = ~near[1:] & ~near[:-1]
    change = (frames[1:] - frames[:-1]).abs().mean(dim=3)
    return float(change[both].mean()) * 255 if bool(both.any()) else float("nan")


def centroids(cover: Tensor) -> Tensor:
    """Return (F, 2) centres (x, y) of the object in pixels."""
    rows = torch.arange(cover.shape[1], dtype=torch.float32) + 0.5
    columns = torch.arange(cover.shape[2], dtype=torch.float32) + 0.5
    total = cover.sum(dim=(1, 2)).clamp(min=1e-6)
    x = (cover * columns).sum(dim=(1, 2)) / total
    y = (cover * rows.view(-1, 1)).sum(dim=(1, 2)) / total
    return torch.stack([x, y], dim=1)


def fit_travel(cover: Tensor, seen: Tensor) -> tuple[float, float]:
    """Fit a straight line through the centres and return its length in x and y over the clip."""
    time = torch.linspace(0, 1, cover.shape[0])[seen]
    path = centroids(cover)[seen]
    time = time - time.mean()
    slope = (time.view(-1, 1) * path).sum(dim=0) / time.square().sum()
    return float(slope[0]), float(slope[1])


def name_direction(travel: tuple[float, float]) -> str:
    """Return the direction whose axis carries most of the travel, or "still"."""
    x, y = travel
    if max(abs(x), abs(y)) < STILL_LIMIT:
        return "still"
    along = {name: x * step_x + y * step_y for name, (step_x, step_y) in DIRECTIONS.items()}
    return max(along, key=lambda name: along[name])


def length(vectors: Tensor, dim: int) -> Tensor:
    """Return the Euclidean length along one dimension."""
    return vectors.square().sum(dim).sqrt()


def nearest_name(color: Tensor, names: Mapping[str, tuple[float, float, float]]) -> str:
    """Return the name of the colour nearest to (3,)."""
    distances = {name: float(length(color - torch.tensor(rgb), 0)) for name, rgb in names.items()}
    return min(distances, key=lambda name: distances[name])


def name_size(size: float) -> str:
    """Return the key of SIZES for an object so many pixels across."""
    if size < SMALL_LIMIT:
        return "small"
    return "big" if size > BIG_LIMIT else DEFAULT_SIZE


def size_across(shape: str, cover: Tensor) -> Tensor:
    """Return (F, 1, 1) how many pixels across a shape is that has the area of `cover`."""
    per_square = {"circle": torch.pi / 4, "square": 1.0, "triangle": 0.5}[shape]
    return (cover.sum(dim=(1, 2)) / per_square).sqrt().view(-1, 1, 1)


def nearest_shape(cover: Tensor) -> str:
    """Return the shape that, drawn at equal area and centre, differs least from `cover`."""
    errors = {shape: float(shape_error(shape, cover)) for shape in SHAPES}
    return min(errors, key=lambda name: errors[name])


def shape_error(shape: str, cover: Tensor) -> Tensor:
    """Return the mean squared difference of `cover` and the shape drawn at its place and area."""
    area = cover.sum(dim=(1, 2))
    size = size_across(shape, cover)
    center = centroids(cover)
    rows = torch.arange(cover.shape[1], dtype=torch.float32) + 0.5
    columns = torch.arange(cover.shape[2], dtype=torch.float32) + 0.5
    x = columns.view(1, 1, -1) - center[:, 0].view(-1, 1, 1)
    y = rows.view(1, -1, 1) - center[:, 1].view(-1, 1, 1)
    if shape == "triangle":  # its centre of mass lies a sixth of its height below its middle
        y = y + size / 6
    cells = (t.expand(cover.shape) for t in (x, y, size))
    drawn = (0.5 - signed_distance(shape, *cells)).clamp(0, 1)
    return ((drawn - cover).square().sum(dim=(1, 2)) / area.clamp(min=1e-6)).mean()
