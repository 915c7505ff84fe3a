"""Presets by the memory of a card: where each part is while it works, and how much it does at once.

The parts work one after the other: text encoder, transformer, VAE. So on small cards each is on the
device in its turn only, and those that are too large even then pass through it block by block.
None of this changes a video by more than rounding, except tiles of the temporal VAE, whose seams
are blended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import InvalidInputError

Place = Literal["resident", "in turn", "streamed", "cpu"]
RESIDENT: Place = "resident"
IN_TURN: Place = "in turn"
STREAMED: Place = "streamed"
CPU: Place = "cpu"
AUTO = "auto"

PHRASES: Mapping[Place, str] = {
    RESIDENT: "stays on the device",
    IN_TURN: "on the device in its turn",
    STREAMED: "streamed block by block",
    CPU: "on the CPU",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Where the parts are, and how much is done at a time.

    Args:
        name: of the preset: the gigabytes of a card that Latte-1 fits in 16 bits.
        text: the text encoder. `resident` never leaves the device; `in turn` is there while it
            works and in main memory otherwise; `streamed` has two blocks there at most; `cpu`
            works on the CPU.
        transformer: the same, but not `cpu`.
        vae: `resident` or `in turn`.
        feed_forward_rows: tokens that the transformer's feed-forward layers take at a time; None
            is all of them.
        decode_frames: frames that an image VAE decodes at a time; None is what usually fits.
        decode_tile: edge in pixels of the tiles that a temporal VAE decodes; None is whole frames.
    """

    name: str
    text: Place = RESIDENT
    transformer: Place = RESIDENT
    vae: Place = RESIDENT
    feed_forward_rows: int | None = None
    decode_frames: int | None = None
    decode_tile: int | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever moved."""
        return {self.text, self.transformer, self.vae} == {RESIDENT}

    def describe(self) -> str:
        """Say in a few words what is where."""
        if self.keeps_all:
            return "everything stays on the device"
        parts = [f"text encoder {PHRASES[self.text]}", f"transformer {PHRASES[self.transformer]}"]
        if self.feed_forward_rows is not None:
            parts.append(f"feed-forward {self.feed_forward_rows} tokens at a time")
        if self.decode_tile is not None:
            parts.append(f"temporal VAE in tiles of {self.decode_tile} pixels")
        return ", ".join(parts)


# From the roomiest to the smallest: the order in which they are tried.
PRESETS: Mapping[str, MemoryPlan] = {
    plan.name: plan
    for plan in (
        MemoryPlan(name="24"),
        MemoryPlan(name="12", text=IN_TURN, transformer=IN_TURN, vae=IN_TURN, decode_tile=384),
        MemoryPlan(
            name="8",
            text=STREAMED,
            transformer=IN_TURN,
            vae=IN_TURN,
            decode_frames=2,
            decode_tile=320,
        ),
        MemoryPlan(
            name="6",
            text=STREAMED,
            transformer=IN_TURN,
            vae=IN_TURN,
            feed_forward_rows=4096,
            decode_frames=1,
            decode_tile=256,
        ),
        MemoryPlan(
            name="4",
            text=CPU,
            transformer=STREAMED,
            vae=IN_TURN,
            feed_forward_rows=4096,
            decode_frames=1,
            decode_tile=192,
        ),
    )
}
MEMORY_CHOICES = (AUTO, *PRESETS)
KEEP_ALL = next(iter(PRESETS))  # for work that is not a run, which keeps its parts where they are


def smaller_than(plan: MemoryPlan) -> MemoryPlan | None:
    """Return the next preset to try when one did not fit, or None after the smallest."""
    names = list(PRESETS)
    if plan.name not in names or plan.name == names[-1]:
        return None
    return PRESETS[names[names.index(plan.name) + 1]]


def check_memory(memory: str | int | MemoryPlan) -> str | MemoryPlan:
    """Return `auto`, the name of a preset, or a plan of the caller's own.

    Raises:
        InvalidInputError: for anything else.
    """
    if isinstance(memory, MemoryPlan):
        return memory
    name = str(memory).strip().lower().removesuffix("gb").strip()
    if name not in MEMORY_CHOICES:
        raise InvalidInputError(
            f"memory is {memory!r}, but it must be auto, or the gigabytes of the card as one of "
            f"{', '.join(PRESETS)}."
        )
    return name
