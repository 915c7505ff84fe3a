"""Clips on disk for tests of training data: moving bars, as videos and as folders of pictures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from torch import Tensor

from latte_core.video import write_video
from latte_core.video.ffmpeg import ffmpeg_path
from latte_core.video.frame_folder import write_frame_folder


def bar_frames(num_frames: int, height: int = 24, width: int = 32, *, seed: int = 0) -> Tensor:
    """Return (F, H, W, 3) uint8: noise that is fixed by the seed, and a bar that moves."""
    generator = torch.Generator().manual_seed(seed)
    ground = torch.randint(0, 120, (height, width, 3), dtype=torch.uint8, generator=generator)
    frames = ground.expand(num_frames, -1, -1, -1).clone()
    for index in range(num_frames):
        left = index % (width - 4)
        frames[index, :, left : left + 4] = 255 - 7 * (index % 16)
    return frames


def write_frames(folder: Path, num_frames: int, **options: int) -> Path:
    """Write a clip as a folder of PNG pictures, which keep every byte."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_frame_folder(folder, bar_frames(num_frames, **options))
    return folder


def write_clip(path: Path, num_frames: int, **options: int) -> Path:
    """Write a clip as a video file."""
    return write_video(path, bar_frames(num_frames, **options).float() / 255)


def cut_without_encoding(source: Path, target: Path, seconds: float) -> Path:
    """Leave out the beginning; frames that the first one shown depends on stay in the file."""
    command = [ffmpeg_path(), "-v", "error", "-ss", str(seconds), "-i", str(source)]
    subprocess.run([*command, "-c", "copy", "-y", str(target)], check=True)
    return target


def write_large_video(path: Path, width: int, height: int, num_frames: int = 1) -> Path:
    """Write a black video of any size, quickly."""
    source = f"color=black:s={width}x{height}:r=8"
    command = [ffmpeg_path(), "-v", "error", "-f", "lavfi", "-i", source]
    subprocess.run(
        [*command, "-frames:v", str(num_frames), "-c:v", "mjpeg", "-y", str(path)], check=True
    )
    return path
