"""Section 6: both VAEs, whole, in pieces and in tiles, and a long clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor

from gpu_sections.session import Found, Session, heard
from gpu_sections.weights import VAES

PIECES = (14, 4, 1)  # frames at a time
TILES = (384, 320, 256, 192)  # pixels, as the presets have them
TIMES = 3


def run(session: Session, found: Found) -> None:
    """Measure every way of decoding with each VAE."""
    sizes = session.sizes
    dtype = getattr(torch, sizes.dtypes[0])
    for kind, name in VAES.items():
        into: Found = {}
        found[kind] = into
        vae = session.attempt({}, kind, lambda name=name: open_vae(session, name, dtype))
        if vae is None:
            into["not opened"] = "see the messages above"
            continue
        clip = latents_of(session, sizes.frames)
        ways: dict[str, tuple[Tensor, Found]] = {"as it is": (clip, {})}
        ways |= {f"{count} frames at a time": (clip, {"chunk": count}) for count in PIECES}
        if vae.is_temporal:
            edge = sizes.side * 8
            tiles = {min(one, edge) for one in TILES}  # one in a rehearsal, of a whole frame
            ways |= {f"tiles of {one}": (clip, {"tile": one}) for one in sorted(tiles)}
        ways[f"{sizes.long_clip} frames"] = latents_of(session, sizes.long_clip), {}
        for way, (latents, how) in ways.items():
            session.attempt(
                into,
                way,
                lambda vae=vae, latents=latents, how=how: decode(session, vae, latents, how),
            )


def open_vae(session: Session, name: str, dtype: torch.dtype) -> Any:
    """Return a VAE of random weights on the card."""

    def read(path: Path) -> Any:
        return import_core("checkpoint.reading.reader").read_tensors(path).tensors

    return import_core("vae.frames").VideoVAE.from_folder(
        session.models.part(name), read=read, dtype=dtype, device=session.card.device
    )


def latents_of(session: Session, frames: int) -> Tensor:
    """Return latents of one video."""
    draws = torch.Generator().manual_seed(5)
    side = session.sizes.side
    return torch.randn(1, 4, frames, side, side, generator=draws)


def decode(session: Session, vae: Any, latents: Tensor, how: Found) -> Found:
    """Decode a few times; return seconds, memory, how many pieces it took, and what was said."""
    pieces: list[int] = []
    is_long = latents.shape[2] > session.sizes.frames
    with heard() as notices:
        memory = session.card.memory_of(
            lambda: vae.decode(latents, callback=lambda *told: pieces.append(1), **how)
        )
        seconds = min(
            session.card.wall(lambda: vae.decode(latents, **how))[1]
            for _ in range(1 if is_long else min(TIMES, session.sizes.rounds))
        )
    facts: Found = {"ms": round(1000 * seconds, 2), "pieces": len(pieces), **memory}
    return facts | ({"notices": notices.lines} if notices.lines else {})
