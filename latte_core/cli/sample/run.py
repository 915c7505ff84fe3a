"""A `sample` run whose arguments were checked: the model is opened, and every video made."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ...devices import pick_device
from ...pipelines.model_folders import is_class_model
from ...shipped import STARTER
from ..options import dtype_from
from .classes import ClassMaker
from .folder import fill_folder
from .jobs import FRAMES, Maker, plan
from .output import FrameOutput, Output, write_files, write_grid
from .settings import TEXT, Settings, require_kind
from .share import Share
from .targets import known_targets, require_free, targets_of
from .text import TextMaker, either


def make_videos(settings: Settings, arguments: argparse.Namespace, share: Share) -> None:
    """Make and write every video of a run.

    Args:
        settings: of the run.
        arguments: parsed options, which say where the videos go.
        share: which of them this process makes.

    Raises:
        LatteError: for the first thing that cannot be done.
    """
    maker = open_maker(settings, arguments, share.device(arguments.device))
    num = settings.num
    if num is None and arguments.output_dir is not None:
        num = settings.num_for_folder
    jobs = plan(maker.items, num, either(settings.seed, 0))
    output = Output(factor=arguments.upscale, fps=maker.fps)
    if arguments.output_dir is not None:
        ending = arguments.format or ("png" if maker.size[0] == 1 else "mp4")
        if ending == FRAMES:
            output = FrameOutput(factor=arguments.upscale, fps=maker.fps)
        fill_folder(maker, jobs, Path(arguments.output_dir), ending, output, share)
        return
    target = Path(arguments.output)
    if arguments.grid is not None:
        write_grid(maker, jobs, target, output, arguments.grid or None)
        return
    targets = targets_of(arguments, len(jobs))
    if known_targets(settings, arguments) is None:
        require_free(targets, overwrite=arguments.overwrite)
    write_files(maker, jobs, targets, output)


def open_maker(settings: Settings, arguments: argparse.Namespace, device: str | None) -> Maker:
    """Open the model and return what makes videos with it.

    Args:
        settings: of the run.
        arguments: parsed options, of which `--dtype` is read.
        device: where it runs; None for the accelerator if there is one.

    Raises:
        InvalidInputError: for settings that do not fit the model.
        CheckpointError: if the model cannot be loaded.
    """
    dtype = dtype_from(arguments.dtype)
    if dtype is None and settings.half and pick_device(device).type != "cpu":
        dtype = torch.float16
    model = settings.model
    by_class = bool(settings.classes) if model is None else is_class_model(model)
    if by_class:
        return ClassMaker(settings, dtype, device)
    require_kind(settings, TEXT, Path(model or STARTER).name)
    return TextMaker(settings, dtype, device)
