"""What a drawn clip can show, by name and in numbers."""

from __future__ import annotations

from dataclasses import dataclass

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.62, 0.18, 0.85),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = ("circle", "square", "triangle")
# No caption has a word for these: they show that a shape keeps its name in any colour, and a colour
# in any shape. None is near one that has a word.
UNNAMED_COLORS: dict[str, tuple[float, float, float]] = {
    "orange": (0.95, 0.50, 0.10),
    "pink": (0.95, 0.55, 0.75),
    "cyan": (0.10, 0.85, 0.90),
    "teal": (0.05, 0.48, 0.50),
    "lime": (0.55, 0.85, 0.15),
    "olive": (0.45, 0.45, 0.08),
    "magenta": (0.90, 0.15, 0.58),
}
UNNAMED_SHAPES = ("diamond", "cross", "bar", "pillar", "ring", "ell", "dome", "chevron")
# unit velocity as (x, y), y down as in pictures
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.06, 0.06, 0.08),
    "gray": (0.42, 0.42, 0.42),
    "navy": (0.04, 0.10, 0.36),
    "brown": (0.36, 0.22, 0.08),
}
DEFAULT_BACKGROUND = "black"
# pixels across, in a 64-pixel picture
SIZES: dict[str, tuple[float, float]] = {
    "small": (10.0, 12.5),
    "medium": (14.0, 22.0),
    "big": (24.0, 28.0),
}
DEFAULT_SIZE = "medium"
TRAVELS = (20.0, 36.0)  # pixels between the first and the last frame
PAIR_TRAVELS = (16.0, 30.0)  # of two objects, which need room for each other
MARGIN = 1.0  # pixels kept free at the border
GAP = 3.0  # pixels between two objects at every moment
CLIP_SIDE = 64

Look = tuple[str, str]
"""(colour, shape)."""

Kind = tuple[Look, str, str]
"""(look, direction, size name): all of an object that a caption can name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectSpec:
    """One object of a clip.

    Args:
        color, shape, direction, size_name: keys of COLORS, SHAPES, DIRECTIONS and SIZES; colour or
            shape, not both, may be one of those without a name.
        size: pixels across.
        start: (x, y) centre in the first frame, in pixels.
        travel: pixels from the first to the last frame; 0 for "still".
    """

    color: str
    shape: str
    direction: str
    size_name: str
    size: float
    start: tuple[float, float]
    travel: float

    @property
    def is_named(self) -> bool:
        """Whether captions have words for its colour and its shape."""
        return self.color in COLORS and self.shape in SHAPES

    def center(self, progress: float) -> tuple[float, float]:
        """Return the centre (x, y) at a moment, 0 = first frame, 1 = last frame."""
        step_x, step_y = DIRECTIONS[self.direction]
        way = self.travel * progress
        return self.start[0] + step_x * way, self.start[1] + step_y * way


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """What one clip shows; the properties speak of the first object.

    Args:
        objects: one or two.
        background: a key of BACKGROUNDS.
    """

    objects: tuple[ObjectSpec, ...]
    background: str

    @property
    def color(self) -> str:
        """A key of COLORS."""
        return self.objects[0].color

    @property
    def shape(self) -> str:
        """One of SHAPES."""
        return self.objects[0].shape

    @property
    def direction(self) -> str:
        """A key of DIRECTIONS."""
        return self.objects[0].direction

    @property
    def size(self) -> float:
        """Pixels across."""
        return self.objects[0].size

    @property
    def start(self) -> tuple[float, float]:
        """Centre (x, y) in the first frame, in pixels."""
        return self.objects[0].start

    @property
    def travel(self) -> float:
        """Pixels from the first to the last frame."""
        return self.objects[0].travel
