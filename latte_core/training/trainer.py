"""The training loop: updates of the weights, their average, checkpoints, reports and samples."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, NonFiniteError
from .denoiser import Denoiser
from .ema import Average
from .events import EventWriter
from .examples import Batch, Examples, collate
from .export import write_result
from .learning_rate import rate_at
from .objective import Objective
from .optimizer import make_adamw
from .plot import LossPlot
from .prepared import StopAsked
from .preview import Preview
from .run_folder import RunFolder
from .sharding import (
    cut,
    is_spread,
    load_optimizer_state,
    optimizer_state,
    part_of,
    whole_of,
)
from .subject import Subject, is_end
from .train_config import TrainConfig
from .train_data import TrainData
from .workers import Workers

logger = logging.getLogger("latte")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened since the last report.

    Args:
        step: updates made so far.
        loss, squared, variational: means; `loss` is what was minimised.
        norm: of the last gradient, before it was limited.
        rate: learning rate of the last update.
        clips_per_second: over all processes.
    """

    step: int
    loss: float
    squared: float
    variational: float
    norm: float
    rate: float
    clips_per_second: float


def never() -> bool:
    """Let the run go on to its end."""
    return False


class Trainer:
    """One run, resumed from its folder where it is there.

    Args:
        config: the run's settings.
        subject: what is trained, on the device of `workers`.
        data: what it is trained on.
        workers: the processes of the run.
        folder: of the run; opened by the caller.
        on_report: told every report, in the first process.

    Raises:
        InvalidInputError: if the batch cannot be split evenly.
    """

    def __init__(
        self,
        config: TrainConfig,
        subject: Subject,
        data: TrainData,
        workers: Workers,
        folder: RunFolder,
        on_report: Callable[[Report], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.subject = subject
        self.data = data
        self.workers = workers
        self.folder = folder
        self.on_report = on_report
        self.objective = Objective(
            weighting=config.weighting, variational_weight=config.variational_weight
        ).to(workers.device)
        self.examples = Examples(data, config, has_null_class=subject.has_null_class)
        self.share, self.micro = split_batch(config, workers.size)
        denoiser = Denoiser(
            subject.transformer,
            checkpoint_activations=config.checkpoint_activations,
            images_through_temporal=config.images_through_temporal,
        ).train()
        optimizer = make_adamw(
            parameter_groups(subject, config.slow_ends),
            0.0,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.network, self.optimizer = workers.prepare(denoiser, optimizer)
        self.trained = subject.trained()  # FSDP has put parts in the place of whole weights
        self.is_sharded = any(is_spread(value) for value in self.trained.values())
        self.average = Average(self.trained, config.ema_decay, warm_up=config.ema_warm_up)
        self.step = 0
        self.seen: list[Tensor] = []  # (3,) loss, squared, variational of updates since a report
        self.since = time.monotonic()
        self.plot = LossPlot(folder.log_file, folder.loss_picture)
        self.preview: Preview | None = None
        self.events: EventWriter | None = None

    def run(self, should_stop: StopAsked = never) -> bool:
        """Train to the end, or until asked to stop; either way with a checkpoint and the result.

        Args:
            should_stop: asked before each update, in every process.

        Returns:
            Whether the run is finished.

        Raises:
            NonFiniteError: if the loss is NaN or infinite; the last checkpoint stays as it is.
        """
        self.resume()
        if self.is_first and self.config.sample_every:
            self.preview = self.make_preview()
        if self.is_first:
            self.events = EventWriter(self.folder.path / "events")
        self.since = time.monotonic()
        with closing_batches(self.batches()) as batches:
            while self.step < self.config.num_steps:
                if self.workers.any(should_stop() or self.folder.is_stop_requested()):
                    break
                self.update(next(batches))
                self.after_update()
        return self.finish()

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.workers.rank == 0

    def resume(self) -> None:
        """Take up the newest checkpoint of the folder."""
        state = self.folder.load()
        if self.is_first:
            # A killed run may have reported updates after its last checkpoint.
            self.folder.trim_log(0 if state is None else int(state["step"]))
            self.plot.read()
        if state is None:
            return
        with torch.no_grad():
            for name, value in self.trained.items():
                part_of(value.detach()).copy_(cut(state["model"][name], value.detach()))
        self.average.load_state_dict(state["ema"], self.trained)
        load_optimizer_state(self.network, self.optimizer, state["optimizer"])
        self.workers.load_state_dict(state["workers"])
        self.step = int(state["step"])
        if self.is_first:
            logger.info("Going on from update %d.", self.step)

    def batches(self) -> Iterator[list[Batch]]:
        """Yield the parts of each update, the next one made while this one is computed."""
        with ThreadPoolExecutor(1, thread_name_prefix="latte-batches") as pool:
            waiting: Future[list[Batch]] = pool.submit(self.make_parts, self.step)
            step = self.step
            while True:
                parts = waiting.result()
                step += 1
                if step < self.config.num_steps:
                    waiting = pool.submit(self.make_parts, step)
                yield parts

    def make_parts(self, step: int) -> list[Batch]:
        """Return this process's share of an update, in parts of `micro` clips."""
        first = step * self.config.batch_size + self.workers.rank * self.share
        starts = range(first, first + self.share, self.micro)
        parts = [
            collate([self.examples.make(k) for k in range(start, start + self.micro)])
            for start in starts
        ]
        return parts if self.workers.device.type == "cpu" else [part.pinned() for part in parts]

    def update(self, parts: list[Batch]) -> None:
        """Take one step along the gradient of the mean loss of all clips of all processes."""
        config = self.config
        rate = config.learning_rate * rate_at(
            self.step,
            config.num_steps,
            schedule=config.schedule,
            warm_up=config.warm_up,
            final_decay=config.final_decay,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, device=self.workers.device)
        for number, part in enumerate(parts):
            batch = part.to(self.workers.device)
            with self.workers.collecting(self.network, number == len(parts) - 1):
                losses = self.losses(batch)
                # Processes average their gradients, so each brings the mean of its own share.
                self.workers.backward(losses[0].sum() / self.share)
            sums += torch.stack([one.detach().sum() for one in losses])
        limit = config.clip_norm if self.step >= config.clip_from else 0.0
        self.norm = self.workers.step(self.optimizer, list(self.trained.values()), limit)
        self.average.update(self.trained, self.step)
        self.seen.append(sums / self.share)
        self.rate = rate
        self.step += 1

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return (b,) loss, squared error and variational term of a batch."""
        noisy = self.objective.add_noise(batch.latents, batch.noise, batch.timesteps)
        with self.workers.autocast():
            prediction = self.network(noisy, batch)
        found = self.objective.losses(prediction, batch.latents, batch.noise, batch.timesteps)
        return found.total, found.squared, found.variational

    def after_update(self) -> None:
        """Report, save and make samples where it is time."""
        config = self.config
        is_last = self.step == config.num_steps
        if self.step % config.log_every == 0 or is_last:
            self.report()
        if config.sample_every and self.step % config.sample_every == 0 and not is_last:
            self.sample()
        if self.step % config.save_every == 0 and not is_last:
            self.save()

    def make_preview(self) -> Preview | None:
        """Return what makes samples; the weights have to be whole for it."""
        if self.is_sharded:
            logger.info("No samples are made in a run whose weights are spread over processes.")
            return None
        return Preview(self.subject, self.config, self.data)

    def report(self) -> None:
        """Write means since the last report to the log, the plot and TensorBoard's events."""
        if not self.seen:
            return
        found = self.workers.mean(torch.stack(self.seen).mean(dim=0)).cpu()  # waits once
        means = [float(one) for one in found]
        seconds = time.monotonic() - self.since
        count = len(self.seen)
        self.seen, self.since = [], time.monotonic()
        if not all(math.isfinite(value) for value in means):
            raise NonFiniteError(
                f"The loss is {means[0]} at update {self.step}. The last checkpoint is kept. Lower "
                "learning_rate, set clip_norm with clip_from 0, or use precision float32."
            )
        if not self.is_first:
            return
        report = Report(
            step=self.step,
            loss=means[0],
            squared=means[1],
            variational=means[2],
            norm=float(self.norm),
            rate=self.rate,
            clips_per_second=count * self.config.batch_size / max(seconds, 1e-9),
        )
        values = {name: getattr(report, name) for name in Report.__dataclass_fields__}
        self.folder.append_log(values)
        self.plot.draw()
        if self.events is not None:
            self.events.add(values)
        left = (self.config.num_steps - self.step) * seconds / count
        self.folder.write_status(
            "running", num_steps=self.config.num_steps, seconds_left=round(left), **values
        )
        self.on_report(report)

    def sample(self) -> None:
        """Make samples with the averaged weights."""
        if self.preview is not None:
            with self.averaged():
                self.preview.write(self.folder.samples, f"step-{self.step:08d}")
        self.workers.wait()
        self.since = time.monotonic()

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Put the averaged weights in place of the trained ones, and these back afterwards."""
        has_average = self.config.ema_decay > 0
        self.subject.transformer.eval()
        if has_average:
            self.average.swap(self.trained)
        try:
            yield
        finally:
            if has_average:
                self.average.swap(self.trained)
            self.subject.transformer.train()

    def save(self) -> None:
        """Write a checkpoint."""
        state = {
            "model": {name: whole_of(value.detach()) for name, value in self.trained.items()},
            "ema": self.average.state_dict(self.trained),
            "optimizer": optimizer_state(self.network, self.optimizer),
            "workers": self.workers.state_dict(),
            "step": self.step,
        }
        if self.is_first:
            self.folder.save(self.step, state, self.config.keep)
        self.workers.wait()

    def finish(self) -> bool:
        """End a run: report, checkpoint, samples and the trained weights."""
        is_finished = self.step >= self.config.num_steps
        self.report()
        if self.step not in self.folder.steps():
            self.save()
        with self.averaged():
            weights = {
                name: whole_of(value.detach())
                for name, value in self.subject.transformer.named_parameters()
            }
            if self.is_first:
                names = self.data.class_names if self.subject.task == "class" else ()
                write_result(self.folder, self.subject, self.config, self.step, weights, names)
            if self.preview is not None and self.step:
                self.preview.write(self.folder.samples, f"step-{self.step:08d}")
        if self.is_first:
            state = "finished" if is_finished else "stopped"
            last = self.folder.status()
            kept = {key: last[key] for key in ("loss", "seconds_left") if key in last}
            self.folder.write_status(state, step=self.step, num_steps=self.config.num_steps, **kept)
        if self.events is not None:
            self.events.close()
        self.workers.wait()
        return is_finished


def parameter_groups(subject: Subject, slow_ends: float) -> list[dict[str, Any]]:
    """Return the trained parameters in groups with a `share` of the learning rate each."""
    trained = subject.trained().items()
    ends = [value for name, value in trained if is_end(name)]
    inner = [value for name, value in trained if not is_end(name)]
    groups = [{"params": inner, "share": 1.0}, {"params": ends, "share": slow_ends}]
    return [group for group in groups if group["params"]]


@contextmanager
def closing_batches(batches: Iterator[list[Batch]]) -> Generator[Iterator[list[Batch]]]:
    """End the thread that makes batches, however the run ends."""
    try:
        yield batches
    finally:
        close: Any = getattr(batches, "close", None)
        if close is not None:
            close()


def split_batch(config: TrainConfig, num_processes: int) -> tuple[int, int]:
    """Return the clips of one process in an update, and how many of them go in at once.

    Raises:
        InvalidInputError: if one of the two does not divide evenly.
    """
    share, left = divmod(config.batch_size, num_processes)
    micro = config.micro_batch or share
    if left or not share or share % micro:
        raise InvalidInputError(
            f"batch_size {config.batch_size} cannot be split over {num_processes} processes into "
            f"parts of {micro or 'equal size'}. Choose a batch_size that is a multiple of "
            f"{num_processes} x micro_batch."
        )
    return share, micro


def result_of(folder: Path | str) -> Path:
    """Return where a run writes its trained weights."""
    return RunFolder(folder).result


def num_parameters(parameters: dict[str, nn.Parameter]) -> int:
    """Return how many numbers are trained."""
    return sum(value.numel() for value in parameters.values())
