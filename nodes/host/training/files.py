"""What a run leaves for ComfyUI: pictures for a node, and weights in the folders of models."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....latte_core.checkpoint.reading.reader import DIGEST_KEY, read_header
from ....latte_core.checkpoint.writing.writer import unwritable
from ....latte_core.errors import CheckpointError
from ....latte_core.files import atomic_write
from ....latte_core.training.plot import draw_losses
from ....latte_core.training.run_folder import RunFolder
from ....latte_core.video.pictures import load_pillow, read_picture
from .folders import RUNS
from .run import RunView

logger = logging.getLogger("latte")

SHELF = "latte"  # folder inside models/loras and models/diffusion_models
# Where a result lies in result/, what it is called, and the folder of models it is copied to.
RESULTS = (
    ("lora.safetensors", "LoRA", "loras"),
    ("transformer/diffusion_pytorch_model.safetensors", "model", "diffusion_models"),
)
EMPTY_SIDE = 64  # pixels of the picture that stands where there are no samples yet
EMPTY_GREY = 0.5


def show(view: RunView) -> tuple[Tensor, Tensor, list[dict[str, str]]]:
    """Return loss picture and sample sheet, (1, H, W, 3) in [0, 1], and what the page shows.

    The page gets copies in ComfyUI's temp folder, which stay as they are while the run goes on.
    """
    import folder_paths

    shelf = Path(folder_paths.get_temp_directory()) / RUNS
    shelf.mkdir(parents=True, exist_ok=True)
    stem = f"{view.name}_{time.time_ns()}"
    loss = shelf / f"{stem}_loss.png"
    source = RunFolder(view.folder).loss_picture
    if source.is_file():
        shutil.copyfile(source, loss)
    else:
        draw_losses(loss, [])
    shown = [loss]
    sheet = torch.full((1, EMPTY_SIDE, EMPTY_SIDE, 3), EMPTY_GREY)
    if view.sample is not None:
        shown.append(shelf / f"{stem}_sample.png")
        shutil.copyfile(view.sample, shown[-1])
        sheet = read_frames(shown[-1])
    entries = [{"filename": one.name, "subfolder": RUNS, "type": "temp"} for one in shown]
    return read_frames(loss), sheet, entries


def read_frames(path: Path) -> Tensor:
    """Return a picture as an IMAGE: (1, H, W, 3) in [0, 1]."""
    return read_picture(path)[None].to(torch.float32) / 255


class NewestPicture:
    """Gives a node's preview of a run: its newest picture, each once."""

    def __init__(self) -> None:
        self.seen: tuple[int, Path] | None = None

    def __call__(self, view: RunView) -> Any:
        """Return what ComfyUI's progress bar takes as a preview, None if nothing is new."""
        pictures = [RunFolder(view.folder).loss_picture, view.sample]
        there = [one for one in pictures if one is not None and one.is_file()]
        newest = max(((one.stat().st_mtime_ns, one) for one in there), default=None)
        if newest is None or newest == self.seen:
            return None
        self.seen = newest
        with load_pillow().open(newest[1]) as picture:
            return ("PNG", picture.convert("RGB"), None)


def publish(view: RunView) -> str:
    """Copy the result of a run that has ended to where ComfyUI's loaders list it.

    Returns:
        A sentence that says under which name; empty while there is no result.

    Raises:
        CheckpointError: if it cannot be written there.
    """
    if not view.has_result:
        return ""
    for place, kind, category in RESULTS:
        source = RunFolder(view.folder).result / place
        if source.is_file():
            target = models_folder(category) / SHELF / f"{view.name}.safetensors"
            copy_weights(source, target)
            return f"Loaders list its {kind} as {Path(SHELF) / target.name} (models/{category})."
    return ""


def models_folder(category: str) -> Path:
    """Return ComfyUI's folder of a kind of models, the one of that name where it has several."""
    import folder_paths

    folders = [Path(one) for one in folder_paths.get_folder_paths(category)]
    return next((one for one in folders if one.name == category), folders[0])


def copy_weights(source: Path, target: Path) -> None:
    """Copy a weights file, whole or not at all, unless its copy is there.

    Raises:
        CheckpointError: if it cannot be written.
    """
    digest = digest_in(source)
    if digest is not None and digest == digest_in(target):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        raise unwritable(target, source.stat().st_size, error) from error
    logger.info("Latte: %s/%s was written into %s.", SHELF, target.name, target.parent.parent.name)


def digest_in(path: Path) -> str | None:
    """Return the digest of the weights that a file of this package states; None without one."""
    with suppress(CheckpointError):
        return read_header(path).metadata.get(DIGEST_KEY) if path.is_file() else None
    return None
