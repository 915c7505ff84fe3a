"""The prepared sets of a run; folders of videos are made into sets in the run's own folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from ..data.frame_sampling import STYLES
from ..data.prepare import PrepareSettings, PrepareStep, prepare_set
from ..data.sets.format import SET_FILE
from ..errors import InvalidInputError
from .run_folder import RunFolder
from .train_config import TrainConfig

TOLD_EVERY = 10  # steps of preparing between two entries of status.json

logger = logging.getLogger("latte")

StopAsked = Callable[[], bool]


class PreparingStoppedError(Exception):
    """A run was asked to end while its videos were being prepared; no fault, and never shown."""


def prepared_sets(
    config: TrainConfig, folder: RunFolder, device: torch.device, should_stop: StopAsked
) -> list[Path]:
    """Return the folder of each prepared set of a run, preparing what is not prepared yet.

    Args:
        config: `data` names sets, or folders of videos.
        folder: of the run; sets that are made go into it.
        device: to encode on.
        should_stop: asked after each clip; what is prepared by then is kept.

    Raises:
        PreparingStoppedError: if asked to.
        InvalidInputError: for data that does not exist.
        LatteError: whatever `prepare_set` finds wrong with the videos.
    """
    found: list[Path] = []
    for number, name in enumerate(config.data):
        source = Path(name)
        if not source.is_dir():
            raise InvalidInputError(
                f"There is no folder {source.name} to train on. Give a folder of videos, or a set "
                "made by: python -m latte_core prepare"
            )
        if (source / SET_FILE).is_file():
            found.append(source)
        else:
            target = folder.path / f"data-{number}"
            found.append(prepare(source, target, config, folder, device, should_stop))
    return found


def prepare(
    source: Path,
    target: Path,
    config: TrainConfig,
    folder: RunFolder,
    device: torch.device,
    should_stop: StopAsked,
) -> Path:
    """Make a set of a folder of videos with the models of the run, and return its folder."""
    if (target / SET_FILE).is_file():
        return target
    logger.info("Preparing the videos of %s.", source.name)
    style = config.frame_choice if config.frame_choice in STYLES else STYLES[0]
    settings = PrepareSettings(
        num_frames=config.num_frames,
        interval=config.interval if style == STYLES[1] else 1,
        has_flips=config.flip,
    )

    def tell(step: PrepareStep) -> None:
        if should_stop() or folder.is_stop_requested():
            raise PreparingStoppedError
        if step.done % TOLD_EVERY == 0:
            folder.write_status(
                "preparing",
                num_steps=config.num_steps,
                message=f"{step.what}: {step.done} of {step.total}",
            )

    made = prepare_set(source, target, config.model, settings, device=device, callback=tell)
    if made.skipped:
        logger.warning(
            "%d of the %d clips of %s cannot be used and are left out. The first: %s",
            len(made.skipped),
            len(made.skipped) + len(made),
            source.name,
            made.skipped[0].reason,
        )
    return target
