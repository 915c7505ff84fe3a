"""The training loop: updates of the weights, their average, checkpoints, reports and samples."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import CorruptCheckpointError, NonFiniteError
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
from .run_log import Report
from .sharding import (
    cut,
    is_spread,
    load_optimizer_state,
    optimizer_state,
    part_of,
    whole_of,
)
from .soundness import MEASURED, broken, check_updates, first_not_finite, ruin
from .state import take_up
from .subject import Subject, parameter_groups
from .train_config import TrainConfig
from .train_data import TrainData
from .workers import Workers, split_batch

logger = logging.getLogger("latte")


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
            seed=config.seed,
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
        self.seen: list[Tensor] = []  # (4,) loss, squared, variational, norm since a report
        self.parts: list[Batch] = []  # of the last update
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
            NonFiniteError: if the run breaks down; the last checkpoint stays as it is.
            CorruptCheckpointError: if the checkpoint to go on from is damaged.
        """
        self.resume()
        if self.is_first and self.config.sample_every:
            self.preview = self.make_preview()
        if self.is_first:
            self.events = EventWriter(self.folder.path / "events")
        self.since = time.monotonic()
        with closing(self.batches()) as batches:
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
        """Take up the newest checkpoint of the folder.

        Raises:
            CorruptCheckpointError: if it is damaged, saying what can be gone on from.
        """
        try:
            state = self.folder.load()
            if state is not None:
                self.take_up(state)
        except CorruptCheckpointError as error:
            raise self.folder.unusable(error) from error
        if not self.is_first:
            return
        # A killed run may have reported updates after its last checkpoint.
        self.folder.trim_log(self.step)
        self.plot.read()
        if state is not None:
            logger.info("Going on from update %d.", self.step)

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a state that `save` made."""
        path = self.folder.state_file(self.folder.steps()[-1])
        with take_up(path, state, self.trained, self.optimizer):
            with torch.no_grad():
                for name, value in self.trained.items():
                    part_of(value.detach()).copy_(cut(state["model"][name], value.detach()))
            self.average.load_state_dict(state["ema"], self.trained)
            load_optimizer_state(self.network, self.optimizer, state["optimizer"])
            self.workers.load_state_dict(state["workers"])
        self.step = int(state["step"])

    def batches(self) -> Generator[list[Batch]]:
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
        norm = torch.as_tensor(self.norm, dtype=sums.dtype, device=sums.device)
        self.seen.append(torch.cat([sums / self.share, norm.reshape(1)]))
        self.rate, self.parts = rate, parts
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
        found = self.check_updates()
        means = [float(one) for one in found[:, :3].contiguous().mean(dim=0)]
        seconds = time.monotonic() - self.since
        count = len(self.seen)
        self.seen, self.since = [], time.monotonic()
        if not self.is_first:
            return
        report = Report(
            step=self.step,
            loss=means[0],
            squared=means[1],
            variational=means[2],
            norm=float(found[-1, 3]),
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
        if self.seen:
            self.check_updates()
        if self.preview is not None:
            with self.averaged():
                self.write_samples(self.preview)
        self.workers.wait()
        self.since = time.monotonic()

    def write_samples(self, preview: Preview) -> None:
        """Write samples of the weights as they are now."""
        try:
            preview.write(self.folder.samples, f"step-{self.step:08d}")
        except NonFiniteError as error:
            raise broken(self.step, "samples are not finite", self.folder.steps()) from error

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

    def check_updates(self) -> Tensor:
        """Return (N, 4) losses and norm of each update since the last report.

        Raises:
            NonFiniteError: naming the first update that one of them is not finite at.
        """
        found = self.workers.mean(torch.stack(self.seen)).cpu()  # waits once
        # A scaled gradient of float16 may overflow; its update is then left out, as is usual.
        count = 3 if self.config.precision == "float16" else 4
        rows: list[list[float]] = cast(Any, found[:, :count]).tolist()
        check_updates(rows, self.step - len(rows) + 1, self.folder.steps())
        return found

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse to write a state that nothing can go on from; all processes find the same.

        Raises:
            NonFiniteError: naming the update and what is wrong.
        """
        if self.seen:
            self.check_updates()
        name = first_not_finite(state)
        wrong = None if name is None else f"{name} is not finite"
        if wrong is None and self.parts:
            wrong = ruin(dict(zip(MEASURED, self.probe(self.parts[0]), strict=True)))
        if wrong is not None:
            raise broken(self.step, f"after it {wrong}", self.folder.steps())

    def probe(self, part: Batch) -> list[float]:
        """Return losses and gradient of the weights as they are, on clips that are at hand.

        A step too long leaves finite weights whose answers or gradients are not: from there no
        setting helps.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(part.to(self.workers.device))
        torch.autograd.backward(losses[0].mean())
        grads = [part_of(one.grad) for one in self.trained.values() if one.grad is not None]
        norm = torch.stack([grad.float().square().sum() for grad in grads]).sum().sqrt()
        self.optimizer.zero_grad(set_to_none=True)
        found = torch.stack([*(one.detach().mean() for one in losses), norm])
        return [float(one) for one in self.workers.mean(found).cpu()]

    def save(self) -> None:
        """Write a checkpoint."""
        state = {
            "model": {name: whole_of(value.detach()) for name, value in self.trained.items()},
            "ema": self.average.state_dict(self.trained),
            "optimizer": optimizer_state(self.network, self.optimizer),
            "workers": self.workers.state_dict(),
            "step": self.step,
        }
        self.check_state(state)
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
                self.write_samples(self.preview)
        if self.is_first:
            state = "finished" if is_finished else "stopped"
            last = self.folder.status()
            kept = {key: last[key] for key in ("loss", "seconds_left") if key in last}
            self.folder.write_status(state, step=self.step, num_steps=self.config.num_steps, **kept)
        if self.events is not None:
            self.events.close()
        self.workers.wait()
        return is_finished
