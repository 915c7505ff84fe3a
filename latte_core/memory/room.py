"""What a run takes at the very least, and whether the machine has it: asked before noise is drawn.

Only what every run holds at once is counted, so that nothing is refused that could be made; what
kernels, allocators and copies add is not. Swap space counts as room.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import IncompatibleInputsError
from ..types import LATENT_CHANNELS, PIXELS_PER_CELL, VideoShape
from .estimate import GB, all_bytes

FLOAT = 4  # bytes of a number in noise, latents and frames
CHANNELS = 3  # of a pixel
HIDDEN_ALIVE = 2  # tensors of all tokens that a block needs: its input and what it adds
IN_MAIN_MEMORY = ("cpu", "mps")  # kinds of devices that work in main memory
MEMINFO = Path("/proc/meminfo")
LIMITS = (  # of a container
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunBytes:
    """Bytes that a run cannot do without.

    Args:
        noise: start noise of all videos, in main memory.
        latents: of all videos, in main memory.
        frames: of all videos, in main memory; 0 if they are not decoded.
        work: of a call of the transformer beside its weights, on its device.
    """

    noise: int
    latents: int
    frames: int
    work: int

    @classmethod
    def of(
        cls, shape: VideoShape, *, token_bytes: int, videos: int, is_drawn: bool, is_decoded: bool
    ) -> RunBytes:
        """Count what a run makes.

        Args:
            shape: of all videos.
            token_bytes: of the hidden state of one latent cell.
            videos: of one call of the transformer, guidance included.
            is_drawn: False for start noise that is there.
            is_decoded: False if latents are all that is asked for.
        """
        pixels = shape.num_frames * shape.height * shape.width
        cells = pixels // PIXELS_PER_CELL**2
        latents = FLOAT * LATENT_CHANNELS * cells * shape.batch
        return cls(
            noise=latents * is_drawn,
            latents=latents,
            frames=FLOAT * CHANNELS * pixels * shape.batch * is_decoded,
            work=HIDDEN_ALIVE * token_bytes * cells * videos,
        )


def check_room(shape: VideoShape, needed: RunBytes, device: torch.device) -> None:
    """Refuse a run that the machine cannot hold.

    Args:
        shape: of all videos, for the message.
        needed: by the run.
        device: on which the transformer works.

    Raises:
        IncompatibleInputsError: with what it would take, what there is, and what to do.
    """
    works_here = device.type in IN_MAIN_MEMORY
    sampling = needed.noise + needed.work * works_here
    main = max(sampling, needed.noise + needed.latents + needed.frames)
    parts = {"noise": needed.noise, "latents": needed.latents, "frames": needed.frames}
    if works_here:
        parts["a call of the model"] = needed.work
    host = main_memory()
    if host is not None and main > host:
        told = ", ".join(f"{name} {_size(count)}" for name, count in parts.items() if count)
        _refuse(shape, f"{_size(main)} of main memory ({told})", f"{_size(host)} are free")
    room = all_bytes(device)
    if room is None:
        return
    # Windows lends a card main memory.
    room += (host or 0) * (os.name == "nt")
    if needed.work > room:
        _refuse(shape, f"{_size(needed.work)} on {device}", f"it has {_size(room)}")


def main_memory() -> int | None:
    """Return the bytes of main memory and swap space that a process could get; None if unknown.

    Elsewhere than on Linux, where swap space grows, it is twice the memory there is.
    """
    if not MEMINFO.is_file():
        return _twice_all()
    found = _meminfo()
    if found is None:
        return None
    limits = [limit for path in LIMITS if (limit := _limit(path)) is not None]
    return min([found, *limits])


def _meminfo() -> int | None:
    try:
        lines = [line.split() for line in MEMINFO.read_text(encoding="ascii").splitlines()]
        kilobytes = {line[0]: int(line[1]) for line in lines}
        return 1024 * (kilobytes["MemAvailable:"] + kilobytes.get("SwapFree:", 0))
    except (OSError, ValueError, LookupError):
        return None


def _limit(path: Path) -> int | None:
    """Return a container's limit; None for none, which is a word or beyond all machines."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _twice_all() -> int | None:
    try:
        return 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _size(count: int) -> str:
    return f"{count / GB:.1f} GB"


def _refuse(shape: VideoShape, needed: str, found: str) -> None:
    videos = "1 video" if shape.batch == 1 else f"{shape.batch} videos"
    raise IncompatibleInputsError(
        f"{videos} of {shape.num_frames} frames at {shape.height} x {shape.width} pixels cannot be "
        f"made here: at least {needed} would be taken, but {found}. Nothing was made. Ask for "
        "fewer frames, a smaller size, or fewer videos at once."
    )
