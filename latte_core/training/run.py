"""Train: from a config to the trained weights, in one process or in many."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import LatteError
from .prepared import PreparingStoppedError, StopAsked, prepared_sets
from .run_folder import RunFolder
from .subject import Subject, num_parameters, open_subject
from .train_config import TrainConfig
from .train_data import TrainData
from .trainer import Report, Trainer, never
from .workers import Workers, find_workers

# What may differ when a run is gone on with: how long it is, how far its updates go, which is what
# helps one that broke down, and what it only shows or keeps.
CHANGEABLE = frozenset(
    (
        *("output", "data", "num_steps", "micro_batch", "checkpoint_activations"),
        *("learning_rate", "schedule", "warm_up", "final_decay"),
        *("clip_norm", "clip_from", "precision"),
        *("log_every", "save_every", "keep"),
        *("sample_every", "sample_prompts", "sample_steps", "sample_guidance"),
    )
)

logger = logging.getLogger("latte")


def ignore(_: Report) -> None:
    """Do nothing with a report."""


def train(
    config: TrainConfig,
    *,
    device: torch.device | str | None = None,
    should_stop: StopAsked = never,
    on_report: Callable[[Report], None] = ignore,
    workers: Workers | None = None,
) -> Path:
    """Run a training to its end, or go on with one that was stopped or killed.

    In processes that `accelerate launch` or `torchrun` started, each calls this.

    Args:
        config: see `TrainConfig`.
        device: left out: the accelerator if there is one, else the CPU.
        should_stop: asked before each update; the run then ends with a checkpoint.
        on_report: told the losses every `log_every` updates.
        workers: the processes; left out: those that this one was started with.

    Returns:
        The folder or file of the trained weights.

    Raises:
        InvalidInputError, CheckpointError: for a config, model or data that cannot be used.
        NonFiniteError: if the training breaks down.
        CheckpointError: if the disk is full, or the folder cannot be written to.
    """
    workers = workers or find_workers(config.precision, device)
    folder = RunFolder(config.output)
    try:
        if workers.rank == 0:
            folder.open(config.to_dict(), CHANGEABLE)
            folder.write_status("preparing", num_steps=config.num_steps)
        workers.wait()
        subject = open_subject(config, workers.device)
        data = open_data(config, subject, workers, folder, should_stop)
        trainer = Trainer(config, subject, data, workers, folder, on_report)
        if workers.rank == 0:
            tell(config, subject, data, workers)
        trainer.run(should_stop)
    except PreparingStoppedError:
        if workers.rank == 0:
            folder.write_status("stopped", step=0, num_steps=config.num_steps)
    except LatteError as error:
        if workers.rank == 0:
            folder.write_failure(str(error))
        raise
    except OSError as error:
        failed = folder.unwritten(error)
        if workers.rank == 0:
            folder.write_failure(str(failed))
        raise failed from error
    finally:
        workers.close()
    return folder.result


def open_data(
    config: TrainConfig,
    subject: Subject,
    workers: Workers,
    folder: RunFolder,
    should_stop: StopAsked,
) -> TrainData:
    """Open the prepared sets of a run; folders of videos are prepared first, by one process.

    Raises:
        PreparingStoppedError: in every process, if the first was asked to stop.
    """
    is_stopped = False
    if workers.rank == 0:
        try:
            prepared_sets(config, folder, workers.device, should_stop)
        except PreparingStoppedError:
            is_stopped = True
    if workers.any(is_stopped):
        raise PreparingStoppedError
    return TrainData.open(
        prepared_sets(config, folder, workers.device, never),
        config,
        task=subject.task,
        text_width=subject.text_width,
        num_classes=subject.num_classes,
        class_names=subject.class_names,
    )


def tell(config: TrainConfig, subject: Subject, data: TrainData, workers: Workers) -> None:
    """Log what is trained on what."""
    what = "an adapter" if config.lora is not None else "all weights"
    count = num_parameters(subject.trained())
    logger.info(
        "Training %s (%.2f M numbers) from %s on %d clips, %s, %d at a time in %d process%s.",
        what,
        count / 1e6,
        subject.base.name,
        len(data),
        subject.task,
        config.batch_size,
        workers.size,
        "" if workers.size == 1 else "es",
    )
    if data.too_short:
        logger.info("%d clips have too few frames and are left out.", data.too_short)
