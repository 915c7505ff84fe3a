"""`evaluate --metric`: FVD, FID, KID and the Inception Score of folders, or of a model's videos."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ..checks import check_integer
from ..devices import pick_device
from ..errors import InvalidInputError
from ..metrics import Clips, FolderClips, MetricProtocol, SideReport, find_protocol, load_features
from ..metrics.clips import FAKE, REAL
from ..metrics.measure import check_fit, measure
from ..metrics.protocol import IS, PRESETS, SHORT_NAMES
from ..video import bytes_from_frames
from .command import LEFT_OUT
from .options import DTYPES, load_tqdm, write_json
from .sample.command import read_prompts
from .sample.jobs import Job, Maker, plan
from .sample.run import open_maker
from .sample.settings import Settings

METRIC_ONLY = ("real", "fake", "made_by", "features", "num", "frames", "interval", "size", "seed",
               "subset_size", "batch", "classes", "prompts", "device", "dtype")  # fmt: skip
SHOWN = ("method", "sampler", "steps", "guidance", "guidance_scale", "eta")  # of a model's recipe
MOST_AT_ONCE = 4096


def add_metric_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that belong to `--metric`."""
    group = parser.add_argument_group("comparing videos with real ones")
    add = group.add_argument
    add(
        "--metric",
        metavar="NAME",
        help=f"{', '.join(SHORT_NAMES)}; in full: {', '.join(PRESETS)}",
    )
    add("--real", metavar="DIR", help="the split the model was trained on: videos or frame folders")
    made = group.add_mutually_exclusive_group()
    made.add_argument("--fake", metavar="DIR", help="made videos, as `sample --output-dir` writes")
    made.add_argument("--model", dest="made_by", metavar="MODEL", help="or a model to make them")
    add("--features", metavar="FILE", help="weights of the feature network, or random for a toy")
    add("--num", type=int, help="samples; for fvd clips (default: 2048)")
    add("--frames", type=int, help="frames of a clip (default: 16)")
    add("--interval", type=int, help="real frames per frame of a clip, as in training (default: 3)")
    add("--size", type=int, help="cut all frames to a square and resize them to this")
    add("--seed", type=int, help="of the choice of clips, and first seed of --model (default: 0)")
    add("--subset-size", type=int, help="samples in a subset of a KID (default: 1000)")
    add("--batch", type=int, help="samples that go through the network at once")
    add("--class", dest="classes", action="append", metavar="CLASS", help="what --model shows")
    add("--prompts", metavar="FILE", help="what --model shows: one prompt per line")
    add("--device", help="cpu, or a torch device (default: the GPU if there is one)")
    add("--dtype", choices=DTYPES, help="number format of --model")


def refuse_metric_options(arguments: argparse.Namespace) -> None:
    """Refuse options that mean nothing without `--metric`, and a run without anything to do.

    Raises:
        InvalidInputError: saying which.
    """
    for name in METRIC_ONLY:
        if getattr(arguments, name) is not None:
            option = {"made_by": "model", "classes": "class"}.get(name, name).replace("_", "-")
            raise InvalidInputError(
                f"--{option} is for comparing videos with real ones. Say which number to measure, "
                "for example --metric fvd."
            )
    if arguments.model is None:
        raise InvalidInputError(
            "There is nothing to measure. Give a starter's name or folder, or --metric with "
            "--real and --fake."
        )


def run_metric(arguments: argparse.Namespace) -> int:
    """Measure one number, print it and how it was measured, and write both if asked to."""
    if arguments.model is not None or arguments.card:
        extra = "--card" if arguments.card else repr(arguments.model)
        raise InvalidInputError(
            f"{extra} does not go with --metric. Say whose videos to measure with --fake DIR, or "
            "--model MODEL."
        )
    protocol = find_protocol(arguments.metric).changed(
        num=arguments.num,
        num_frames=arguments.frames,
        interval=arguments.interval,
        size=arguments.size,
        seed=arguments.seed,
        subset_size=arguments.subset_size,
    )
    check_sides(protocol, arguments)
    batch = arguments.batch
    if batch is not None:
        check_integer("--batch", batch, 1, MOST_AT_ONCE)
    features = load_features(arguments.features, pick_device(arguments.device))
    check_fit(protocol, features)
    real = None
    if arguments.real is not None:
        real = FolderClips(Path(arguments.real), protocol, REAL)
    fake = open_fake(protocol, arguments)
    total = protocol.num if real is None else 2 * protocol.num
    with load_tqdm()(total=total, unit="sample", dynamic_ncols=True) as bar:
        found = measure(
            protocol, features, real=real, fake=fake, batch_size=batch, advance=bar.update
        )
    print(found.number())
    print(found.line())
    if arguments.json is not None:
        write_json(arguments.json, found.to_dict())
    damaged = found.fake.damaged + (0 if found.real is None else found.real.damaged)
    return LEFT_OUT if damaged else 0


def check_sides(protocol: MetricProtocol, arguments: argparse.Namespace) -> None:
    """Refuse a comparison that lacks a side or a network, or has one too many.

    Raises:
        InvalidInputError: saying what to give.
    """
    if arguments.fake is None and arguments.made_by is None:
        raise InvalidInputError(
            f"{protocol.name} needs made videos: --fake DIR, or --model MODEL to make them."
        )
    if protocol.metric == IS and arguments.real is not None:
        raise InvalidInputError(
            f"{protocol.name} looks at made videos alone, so --real has no place. Leave it out."
        )
    if protocol.metric != IS and arguments.real is None:
        raise InvalidInputError(
            f"{protocol.name} compares with real videos. Give their folder as --real: the split "
            "that the model was trained on."
        )
    if arguments.features is None:
        raise InvalidInputError(
            f"{protocol.name} needs a feature network: --features with its safetensors file "
            "(docs/evaluation.md says where it comes from), or --features random to compare "
            "models with each other only."
        )


def open_fake(protocol: MetricProtocol, arguments: argparse.Namespace) -> Clips:
    """Return the made side: a folder, or a model that makes it."""
    if arguments.fake is not None:
        return FolderClips(Path(arguments.fake), protocol, FAKE)
    length = (protocol.num_frames - 1) * protocol.subsample + 1
    settings = Settings(
        model=arguments.made_by,
        prompts=() if arguments.prompts is None else read_prompts(arguments.prompts),
        classes=tuple(arguments.classes or ()),
        steps=None if arguments.steps is None else str(arguments.steps),
        guidance=arguments.guidance,
        frames=None if protocol.uses_pictures else length,
    )
    maker = open_maker(settings, arguments, arguments.device)
    return MadeClips(maker, protocol, Path(arguments.made_by).name)


class MadeClips:
    """The samples that a model makes on the spot, without a file between.

    Args:
        maker: makes its videos.
        protocol: how many, and which frames of them.
        name: of the model.
    """

    def __init__(self, maker: Maker, protocol: MetricProtocol, name: str) -> None:
        self.maker, self.protocol, self.name = maker, protocol, name
        self.samples = 0
        per_video = maker.size[0] if protocol.uses_pictures else 1
        self.jobs = plan(maker.items, -(-protocol.num // per_video), protocol.seed)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the samples."""
        self.samples = 0
        for job in self.jobs:
            for sample in self._samples_of(job):
                if self.samples < self.protocol.num:
                    self.samples += 1
                    yield sample

    def report(self) -> SideReport:
        """Say what was given so far, and with which settings."""
        recipe = self.maker.recipe
        details = {key: recipe[key] for key in SHOWN if key in recipe}
        return SideReport(
            source=self.name,
            samples=self.samples,
            videos=len(self.jobs),
            details={**details, "first seed": self.protocol.seed},
        )

    def _samples_of(self, job: Job) -> Iterator[Tensor]:
        frames = bytes_from_frames(self.maker.make(job, None))
        if self.protocol.uses_pictures:
            yield from (frames[index : index + 1] for index in range(len(frames)))
        else:
            yield frames[:: self.protocol.subsample]
