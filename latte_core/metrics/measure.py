"""Measuring: samples through a feature network to one number, with the protocol that made it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import IncompatibleInputsError, InvalidInputError
from .clips import Clips, SideReport
from .features import Features
from .frechet import frechet_distance, require_samples
from .inception_score import inception_score, require_splits
from .kernel_distance import kernel_distance, require_subset
from .protocol import FID, FVD, IS, KID, MetricProtocol
from .statistics import FeatureStatistics

FRAMES_AT_ONCE = 128  # of all clips in a batch, as in the reference
PICTURES_AT_ONCE = 32
Size = tuple[int, int]
Network = Callable[[Tensor], Tensor]
Advance = Callable[[], object]
"""Called after each sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A number and everything that decides it.

    Args:
        value: the distance or score.
        std: its spread over subsets or parts, where the metric has any.
        protocol: how it was measured.
        features: the network.
        size: height and width of the frames.
        real, fake: what was compared.
    """

    value: float
    std: float | None
    protocol: MetricProtocol
    features: Features
    size: Size
    real: SideReport | None
    fake: SideReport

    def number(self) -> str:
        """Return the metric's name and value."""
        spread = "" if self.std is None else f" +- {self.std:.6g}"
        scale = " (times 1000)" if self.protocol.metric == KID else ""
        return f"{self.protocol.metric.upper()} {self.value:.6g}{spread}{scale}"

    def line(self) -> str:
        """Return how it was measured, in one line."""
        pieces = [
            f"protocol {self.protocol.title()}",
            *(() if self.real is None else (_real_words(self.protocol, self.real),)),
            _fake_words(self.protocol, self.fake),
            f"{self.size[1]} x {self.size[0]} pixels",
            f"features {self.features.describe()}",
        ]
        return "; ".join(pieces)

    def to_dict(self) -> dict[str, Any]:
        """Return everything for a JSON file."""
        return {
            "metric": self.protocol.metric,
            "value": self.value,
            "std": self.std,
            "protocol": {
                **self.protocol.to_dict(),
                "height": self.size[0],
                "width": self.size[1],
                "changed": self.protocol.changes(),
            },
            "real": None if self.real is None else self.real.to_dict(),
            "fake": self.fake.to_dict(),
            "features": {
                "network": self.features.kind.name,
                "file": self.features.file,
                "sha256": self.features.digest,
                "comparable_with_published": self.features.is_published,
            },
            "line": self.line(),
        }


def measure(
    protocol: MetricProtocol,
    features: Features,
    *,
    fake: Clips,
    real: Clips | None = None,
    batch_size: int | None = None,
    advance: Advance | None = None,
) -> Measurement:
    """Measure one number.

    Args:
        protocol: how.
        features: a network that fits the metric.
        fake: made samples.
        real: samples of the data set; None for an Inception Score.
        batch_size: samples that go through the network at once; changes the last bits only.
        advance: called after each sample; an exception it raises ends the run unchanged.

    Raises:
        IncompatibleInputsError: for a network that does not fit the metric, a missing real side,
            or frames of different sizes.
        InvalidInputError: for too few samples.
        NonFiniteError: if the network gives NaN or infinity.
    """
    check_fit(protocol, features)
    if (real is None) != (protocol.metric == IS):
        raise IncompatibleInputsError(
            "An Inception Score looks at the fake side alone."
            if real is not None
            else f"{protocol.name} compares with real videos. Give their folder (--real)."
        )
    run = _Run(protocol, features, batch_size or _batch_for(protocol), advance)
    value, std = run.compare(real, fake)
    assert run.size is not None
    return Measurement(
        value=value,
        std=std,
        protocol=protocol,
        features=features,
        size=run.size,
        real=None if real is None else real.report(),
        fake=fake.report(),
    )


def check_fit(protocol: MetricProtocol, features: Features) -> None:
    """Refuse, before the work begins, a network or a number of samples that cannot give a result.

    Raises:
        IncompatibleInputsError: for the network.
        InvalidInputError: for the number of samples, naming how many are needed.
    """
    kind, wanted = features.kind, "pictures" if protocol.uses_pictures else "clips"
    if kind.sees not in (wanted, "both") or (protocol.metric == IS and not kind.classifies):
        use = {FVD: "i3d, or random", FID: "inception, or random", KID: "inception, or random"}
        fits = use.get(protocol.metric, "inception" if protocol.uses_pictures else "c3d")
        raise IncompatibleInputsError(
            f"{protocol.name} cannot be measured with {kind.title}. Give the weights of {fits}."
        )
    if protocol.metric in (FVD, FID):
        require_samples("the fake side (--num)", protocol.num, features.num_features)
    elif protocol.metric == KID:
        require_subset(protocol.num, protocol.num, protocol.subset_size)
    else:
        require_splits(protocol.num, protocol.num_splits)


class _Run:
    """One measurement while it runs."""

    def __init__(
        self,
        protocol: MetricProtocol,
        features: Features,
        batch_size: int,
        advance: Advance | None,
    ) -> None:
        self.protocol, self.features = protocol, features
        self.batch_size, self.advance = batch_size, advance
        self.size: Size | None = None

    def compare(self, real: Clips | None, fake: Clips) -> tuple[float, float | None]:
        """Return the value, and its spread where there is one."""
        protocol = self.protocol
        if real is None:
            made = self._answers(fake, self.features.probabilities)
            score = inception_score(
                made, num_splits=protocol.num_splits, shuffle_seed=protocol.shuffle_seed
            )
            return score.mean, score.std
        if protocol.metric == KID:
            distance = kernel_distance(
                self._answers(real, self.features),
                self._answers(fake, self.features),
                generator=torch.Generator("cpu").manual_seed(protocol.seed),
                num_subsets=protocol.num_subsets,
                subset_size=protocol.subset_size,
            )
            return distance.mean, distance.std
        return frechet_distance(self._statistics(real), self._statistics(fake)), None

    def _statistics(self, clips: Clips) -> FeatureStatistics:
        statistics = FeatureStatistics(self.features.num_features)
        with closing(self._batches(clips, self.features)) as batches:
            for values in batches:
                statistics.add(values)
        return statistics

    def _answers(self, clips: Clips, network: Network) -> Tensor:
        with closing(self._batches(clips, network)) as batches:
            return torch.cat(list(batches))

    def _batches(self, clips: Clips, network: Network) -> Generator[Tensor]:
        """Yield the network's answers, one batch at a time."""
        waiting: list[Tensor] = []
        for clip in clips:
            self._check_size(clip, clips)
            waiting.append(clip)
            if len(waiting) == self.batch_size:
                yield network(torch.stack(waiting))
                waiting.clear()
            if self.advance is not None:
                self.advance()
        if waiting:
            yield network(torch.stack(waiting))
        if clips.report().samples == 0:
            raise InvalidInputError(
                f"{clips.report().source} gave no samples: its {clips.report().videos} videos are "
                f"all shorter than {self.protocol.title()} needs, or cannot be read."
            )

    def _check_size(self, clip: Tensor, clips: Clips) -> None:
        height, width = clip.shape[1:3]
        if self.size is None:
            self.size = (height, width)
        elif self.size != (height, width):
            raise IncompatibleInputsError(
                f"{clips.report().source} holds frames of {width} x {height} pixels, but others "
                f"have {self.size[1]} x {self.size[0]}. Give videos of one size, or --size to cut "
                "and resize all of them, real and fake."
            )


def _batch_for(protocol: MetricProtocol) -> int:
    if protocol.uses_pictures:
        return PICTURES_AT_ONCE
    return max(1, FRAMES_AT_ONCE // protocol.num_frames)


def _real_words(protocol: MetricProtocol, side: SideReport) -> str:
    if protocol.uses_pictures:
        return f"real {_source(side)}, frames drawn with seed {protocol.seed}{_left_out(side)}"
    words = f"real {_source(side)}, {protocol.num_frames} frames {protocol.real_step} apart"
    return f"{words} from a start drawn with seed {protocol.seed}{_left_out(side)}"


def _fake_words(protocol: MetricProtocol, side: SideReport) -> str:
    if protocol.uses_pictures:
        return f"fake {_source(side)}, frames drawn with seed {protocol.seed}{_left_out(side)}"
    apart = f" {protocol.subsample} apart" if protocol.subsample > 1 else ""
    return f"fake {_source(side)}, the first {protocol.num_frames} frames{apart}{_left_out(side)}"


def _source(side: SideReport) -> str:
    details = ", ".join(f"{key} {value}" for key, value in (side.details or {}).items())
    made = f" ({details})" if details else ""
    return f"{side.source}{made}, {side.samples} samples of {side.videos} videos"


def _left_out(side: SideReport) -> str:
    reasons = ((side.too_short, "too short"), (side.damaged, "not readable"))
    return "".join(f", {count} {why} and left out" for count, why in reasons if count)
