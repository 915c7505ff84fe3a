"""How a metric is measured: the options that decide a number, and the presets of the reference.

The presets follow the tools of the authors (docs/model.md 11). Where those draw at random without a
seed, these draw with one. `fvd2048_128f_subsample8f` does not run there; here its clips span as
many frames as those of `fvd2048_128f`, of which every eighth is kept on both sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from ..checks import MAX_PIXELS, check_integer, check_seed
from ..errors import InvalidInputError
from .inception_score import NUM_SPLITS, SHUFFLE_SEED
from .kernel_distance import NUM_SUBSETS, SUBSET_SIZE

FVD, FID, KID, IS = "fvd", "fid", "kid", "is"
MAX_SAMPLES = 10_000_000
MAX_LENGTH = 4096
TRAINING_INTERVAL = 3  # video frames from one frame of a clip to the next, in training


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricProtocol:
    """Everything that decides a number, but for the videos and the feature network.

    Args:
        name: of the preset.
        metric: `fvd`, `fid`, `kid` or `is`.
        num: samples on the fake side, and at most on the real side: clips, or pictures.
        num_frames: frames of a clip; 0 makes every frame a picture of its own.
        interval: frames of a real video from one frame of a clip to the next, as in training.
        subsample: keeps every n-th frame of a clip, on both sides.
        size: frames are cut to a square and resized to it; None takes them as they are.
        seed: of the choice of clips.
        num_subsets, subset_size: of a KID.
        num_splits, shuffle_seed: of an Inception Score.

    Raises:
        InvalidInputError: for a value that is out of range.
    """

    name: str
    metric: str
    num: int
    num_frames: int = 0
    interval: int = TRAINING_INTERVAL
    subsample: int = 1
    size: int | None = None
    seed: int = 0
    num_subsets: int = NUM_SUBSETS
    subset_size: int = SUBSET_SIZE
    num_splits: int = NUM_SPLITS
    shuffle_seed: int = SHUFFLE_SEED

    def __post_init__(self) -> None:
        check_integer("num", self.num, 2, MAX_SAMPLES)
        check_integer("frames", self.num_frames, 0, MAX_LENGTH)
        check_integer("interval", self.interval, 1, MAX_LENGTH)
        check_integer("subsample", self.subsample, 1, MAX_LENGTH)
        if self.size is not None:
            check_integer("size", self.size, 8, MAX_PIXELS)
        check_seed(self.seed)
        check_integer("num_subsets", self.num_subsets, 1, MAX_SAMPLES)
        check_integer("subset_size", self.subset_size, 2, MAX_SAMPLES)
        check_integer("num_splits", self.num_splits, 1, MAX_SAMPLES)

    @property
    def uses_pictures(self) -> bool:
        """Whether every frame is a sample, instead of every clip."""
        return self.num_frames == 0

    @property
    def real_step(self) -> int:
        """Frames of a real video from one frame of a clip to the next."""
        return self.interval * self.subsample

    @property
    def real_span(self) -> int:
        """Frames that a real video must have; shorter ones are left out."""
        return self.num_frames * self.real_step

    def last_start(self, length: int) -> int:
        """Return the last frame at which a clip of a real video of this length may start."""
        return length - self.real_span + self.real_step - 1

    def changed(self, **values: Any) -> MetricProtocol:
        """Return this protocol with the values that are not None in place of its own."""
        return replace(self, **{key: value for key, value in values.items() if value is not None})

    def changes(self) -> dict[str, Any]:
        """Return what differs from the preset of this name."""
        preset = PRESETS[self.name]
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) != getattr(preset, one.name)
        }

    def title(self) -> str:
        """Return the preset's name, and what was changed."""
        changes = ", ".join(f"{key} {value}" for key, value in self.changes().items())
        return f"{self.name} (changed: {changes})" if changes else self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the values that play a part in this metric."""
        others = {KID: ("num_subsets", "subset_size"), IS: ("num_splits", "shuffle_seed")}
        unused = [key for metric, keys in others.items() if metric != self.metric for key in keys]
        if self.uses_pictures:
            unused += ["num_frames", "interval", "subsample"]
        elif self.metric == IS:
            unused += ["interval"]
        return {key: value for key, value in asdict(self).items() if key not in unused}


PRESETS: dict[str, MetricProtocol] = {
    protocol.name: protocol
    for protocol in (
        MetricProtocol(name="fvd2048_16f", metric=FVD, num=2048, num_frames=16),
        MetricProtocol(name="fvd2048_128f", metric=FVD, num=2048, num_frames=128),
        MetricProtocol(
            name="fvd2048_128f_subsample8f", metric=FVD, num=2048, num_frames=16, subsample=8
        ),
        MetricProtocol(name="fid50k", metric=FID, num=50_000),
        MetricProtocol(name="kid50k", metric=KID, num=50_000),
        MetricProtocol(name="is50k", metric=IS, num=50_000),
        MetricProtocol(name="isv2048_ucf", metric=IS, num=2048, num_frames=16),
    )
}
SHORT_NAMES = {
    "fvd": "fvd2048_16f",
    "fid": "fid50k",
    "kid": "kid50k",
    "is": "is50k",
    "isv": "isv2048_ucf",
}


def find_protocol(name: str) -> MetricProtocol:
    """Return a preset by its name, or by the short name of its metric.

    Raises:
        InvalidInputError: for another name, listing those there are.
    """
    key = name.strip().lower()
    key = SHORT_NAMES.get(key, key)
    if key in PRESETS:
        return PRESETS[key]
    known = [*SHORT_NAMES, *PRESETS]
    close = get_close_matches(key, known, n=1)
    hint = f'Did you mean "{close[0]}"? ' if close else ""
    raise InvalidInputError(f"There is no metric {name!r}. {hint}There are: {', '.join(known)}.")
