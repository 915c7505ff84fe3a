"""The layouts of latents: frames as a batch (T, 4, h, w), as ComfyUI's nodes pass them, and videos
(B, 4, T, h, w), as a transformer takes them.

A batch that ComfyUI makes of several conditionings has these outermost: (conds * T, 4, h, w).
"""

from __future__ import annotations

import comfy.ldm.common_dit
from einops import rearrange
from torch import Tensor


def fold_frames(x: Tensor, conds: int) -> Tensor:
    """(conds * T, 4, h, w) -> (conds, 4, T, h, w); a 5-D latent is returned as it is."""
    if x.ndim == 5:
        return x
    if x.shape[0] % conds:
        conds = 1
    return rearrange(x, "(b f) c h w -> b c f h w", b=conds)


def unfold(x: Tensor, ndim: int) -> Tensor:
    """Undo `fold_frames` if the latent came with four dimensions."""
    return x if ndim == 5 else rearrange(x, "b c f h w -> (b f) c h w")


def pad_to_patch(videos: Tensor, patch: int, tubelet: int = 1) -> Tensor:
    """Extend rows and columns to whole patches, frames to whole tubelets; the caller crops."""
    sizes = (tubelet, patch, patch)
    if not any(side % size for side, size in zip(videos.shape[2:], sizes, strict=True)):
        return videos
    return comfy.ldm.common_dit.pad_to_patch_size(videos, sizes)


def one_per_video(timestep: Tensor, videos: int) -> Tensor:
    """ComfyUI repeats the timestep for each row of the batch; keep one for each video."""
    steps = timestep.flatten()
    return steps[:: steps.shape[0] // videos] if steps.shape[0] > videos else steps


def one_for_all(timestep: Tensor, conds: int, videos: int) -> Tensor:
    """Return one timestep for all conditionings of one video, (1,); else one for each video.

    ComfyUI stacks conditionings under the same timesteps (`calc_cond_batch`).
    """
    return timestep.flatten()[:1] if videos == conds else one_per_video(timestep, videos)


def rows_for_videos(rows: Tensor, conds: int, videos: int) -> Tensor:
    """Let the single row of each cond serve all its videos; conds are outermost."""
    if rows.shape[0] == conds and conds < videos and videos % conds == 0:
        return rows.repeat_interleave(videos // conds, dim=0)
    return rows
