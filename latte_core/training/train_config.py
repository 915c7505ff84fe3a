"""What a training run is told: one flat record, read from JSON or YAML."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from ..checks import check_seed, is_number, is_whole
from ..errors import InvalidInputError
from ..files import MAX_JSON_BYTES
from ..model.weights.lora import LoraSettings
from ..setting_files import Table, read_table
from ..text_files import user_path
from .learning_rate import SCHEDULES, Schedule
from .objective import WEIGHTINGS, Weighting

FrameChoice = Literal["linspace", "stride", "scattered"]
FRAME_CHOICES = ("linspace", "stride", "scattered")
TimestepDraw = Literal["uniform", "stratified"]
TIMESTEP_DRAWS = ("uniform", "stratified")
Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS = ("float32", "bfloat16", "float16")
CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
MOST = 2**31
PATHS = {"data", "output", "model", "initialize_from"}
KINDS: Sequence[tuple[str, tuple[type, ...], str]] = (
    ("output", (str,), "the path of a folder, in quotes if it is a number"),
    ("model", (str,), "the name or path of a model"),
    ("initialize_from", (str, type(None)), "the path of a file"),
    ("architecture", (dict, type(None)), "the settings of a model by name"),
    ("lora", (LoraSettings, type(None)), "the settings of an adapter by name"),
)
FLAGS = ("pass_through", "images_through_temporal", "flip", "ema_warm_up", "checkpoint_activations")

# name -> (lowest, highest) of whole numbers, and of real ones
WHOLE = {
    "num_frames": (1, 1024),
    "interval": (1, 1000),
    "num_images": (0, 256),
    "num_steps": (1, MOST),
    "batch_size": (1, MOST),
    "micro_batch": (0, MOST),
    "warm_up": (0, MOST),
    "clip_from": (0, MOST),
    "save_every": (1, MOST),
    "keep": (1, 1000),
    "sample_every": (0, MOST),
    "sample_steps": (1, 1000),
    "log_every": (1, MOST),
}
REAL = {
    "learning_rate": (0.0, 1e6),
    "final_decay": (0.0, 1.0),
    "weight_decay": (0.0, 10.0),
    "clip_norm": (0.0, math.inf),
    "ema_decay": (0.0, 1.0),
    "slow_ends": (0.0, 1.0),
    "drop_condition": (0.0, 1.0),
    "sample_guidance": (0.0, 100.0),
    "variational_weight": (0.0, 1000.0),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "frame_choice": FRAME_CHOICES,
    "timestep_draw": TIMESTEP_DRAWS,
    "weighting": WEIGHTINGS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run. Defaults are the authors' recipe (docs/model.md 10) unless said.

    Args:
        data: prepared sets, or folders of videos, which are prepared first.
        output: the run's folder; a run that is there is gone on with.
        model: what is trained: `starter`, `class-starter`, a model's folder or file. Without
            `architecture` its weights are where training starts; with it, only its text encoder
            and VAE are used.
        architecture: config of a new transformer, as in its config.json; None trains `model`.
        initialize_from: DiT or PixArt-alpha image weights for a new transformer.
        pass_through: start a new transformer so that it returns its input, the best guess of the
            noise at noisy steps; small models learn much sooner (see `initial_weights.py`).
        lora: trains an adapter instead of the weights.
        num_frames: F of a clip.
        interval: every how many frames of the video one is taken.
        frame_choice: "linspace" as for FaceForensics and UCF101, "stride" as for SkyTimelapse and
            Taichi-HD; "scattered" takes any F frames in order, each at its own place in time.
        num_images: I single frames of other videos beside each clip (joint training).
        images_through_temporal: whether temporal blocks see single frames, as they do when a model
            makes pictures; the reference's joint training keeps them out.
        flip: mirror half of the clips; the set must hold mirrored latents.
        weighting, variational_weight: see `Objective`.
        timestep_draw: whether the timesteps of a batch are drawn one by one ("uniform") or one
            from each of equal parts of 0 .. 999 ("stratified").
        num_steps: updates of the weights.
        batch_size: clips of one update, over all processes.
        micro_batch: clips at a time in each process; 0 takes all of its share at once.
        learning_rate, schedule, warm_up, final_decay: see `rate_at`.
        betas, weight_decay: of AdamW.
        slow_ends: share of the learning rate for the first and last layer.
        clip_norm, clip_from: limit of the gradient's norm, from which update on; 0 is none.
        ema_decay, ema_warm_up: see `Average`; 0 keeps none.
        drop_condition: share of clips that are shown without their caption or class.
        precision: of the matrix products; weights stay float32.
        checkpoint_activations: recompute each block in the backward pass, for less memory.
        seed: of everything that is drawn.
        log_every, save_every, keep: updates between lines of the log and between checkpoints, and
            how many of those are kept.
        sample_every: updates between samples; 0 makes none.
        sample_prompts: prompts, or names of classes; empty takes captions or classes of the data.
        sample_steps, sample_guidance: how samples are made.

    Raises:
        InvalidInputError: naming the key, what was found and what it may be.
    """

    data: tuple[str, ...]
    output: str
    model: str = "starter"
    architecture: dict[str, Any] | None = None
    initialize_from: str | None = None
    pass_through: bool = False
    lora: LoraSettings | None = None

    num_frames: int = 16
    interval: int = 3
    frame_choice: FrameChoice = "linspace"
    num_images: int = 0
    images_through_temporal: bool = False
    flip: bool = False

    weighting: Weighting = "none"
    variational_weight: float = 1.0
    timestep_draw: TimestepDraw = "uniform"

    num_steps: int = 1_000_000
    batch_size: int = 40
    micro_batch: int = 0
    learning_rate: float = 1e-4
    schedule: Schedule = "constant"
    warm_up: int = 0
    final_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    slow_ends: float = 1.0
    clip_norm: float = 0.1
    clip_from: int = 20_000
    ema_decay: float = 0.9999
    ema_warm_up: bool = False
    drop_condition: float = 0.1
    precision: Precision = "float32"
    checkpoint_activations: bool = False
    seed: int = 3407

    log_every: int = 100
    save_every: int = 10_000
    keep: int = 2
    sample_every: int = 0
    sample_prompts: tuple[str, ...] = field(default=())
    sample_steps: int = 20
    sample_guidance: float = 4.0

    def __post_init__(self) -> None:
        for key, (low, high) in WHOLE.items():
            value = getattr(self, key)
            if not is_whole(value, low, high):
                raise wrong(key, value, f"a whole number from {low} to {high}")
        for key, (low, high) in REAL.items():
            value = getattr(self, key)
            if not is_number(value) or not low <= value <= high:
                raise wrong(key, value, f"a number from {low:g} to {high:g}")
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise wrong(key, getattr(self, key), f"one of {', '.join(choices)}")
        for key in FLAGS:
            if not isinstance(getattr(self, key), bool):
                raise wrong(key, getattr(self, key), "true or false")
        try:
            check_seed(self.seed)
        except InvalidInputError as error:
            raise WrongSettingError("seed", str(error)) from error
        for key, kinds, expected in KINDS:
            if not isinstance(getattr(self, key), kinds):
                raise wrong(key, getattr(self, key), expected)
        if not self.data or not self.output:
            raise wrong("data" if not self.data else "output", "empty", "the path of a folder")
        if self.initialize_from is not None and self.architecture is None:
            raise WrongSettingError(
                "initialize_from",
                "initialize_from gives image weights to a new model, but there is no architecture. "
                "Add the config of the model to be made, or leave initialize_from out.",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Make a config of JSON values.

        Raises:
            InvalidInputError: for an unknown or missing key, or a value out of range.
        """
        known = {one.name: one for one in fields(cls)}
        unknown = sorted(set(values) - set(known))
        missing = [k for k, f in known.items() if no_default(f) and k not in values]
        if unknown or missing:
            said = f"has no use for {', '.join(unknown)}" if unknown else ""
            lacks = f"lacks {', '.join(missing)}" if missing else ""
            raise WrongSettingError(
                (unknown or missing)[0],
                f"The training config {' and '.join(filter(None, (said, lacks)))}. "
                f"Its keys are {', '.join(known)}.",
            )
        given = dict(values)
        for key in ("data", "sample_prompts"):
            if key in given:
                given[key] = texts(key, given[key])
        if "betas" in given:
            given["betas"] = two_numbers("betas", given["betas"])
        if isinstance(given.get("lora"), Mapping):
            given["lora"] = lora_from(given["lora"])
        for key in REAL.keys() & given.keys():
            given[key] = number(key, given[key])
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` takes."""
        return json.loads(json.dumps(asdict(self)))


def no_default(one: Any) -> bool:
    """Return whether a field has to be given."""
    return one.default is MISSING and one.default_factory is MISSING


class WrongSettingError(InvalidInputError):
    """A setting that cannot be used, by its key: whoever knows the file can name the line.

    Args:
        key: of the setting.
        message: what is wrong with it.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def wrong(key: str, value: object, expected: str) -> WrongSettingError:
    """Return the error for a value that cannot be used."""
    found = reprlib.repr(value)
    return WrongSettingError(
        key, f"{key} is {found} in the training config; it must be {expected}."
    )


def number(key: str, value: object) -> object:
    """Return a number that YAML reads as text, such as 1e-4; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        raise wrong(key, value, "a number") from None


def texts(key: str, value: object) -> tuple[str, ...]:
    """Return one text, or a list of texts, as a tuple."""
    listed: object = [value] if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)):
        raise wrong(key, value, "a text or a list of texts")
    entries = cast("list[object]", listed)
    if not all(isinstance(one, str) for one in entries):
        raise wrong(key, value, "a text or a list of texts")
    return tuple(str(one) for one in entries)


def two_numbers(key: str, value: object) -> tuple[float, float]:
    """Return AdamW's betas."""
    listed: object = value
    entries = cast("list[object]", listed) if isinstance(listed, (list, tuple)) else []
    numbers = [one for one in entries if isinstance(one, (int, float)) and 0 <= one < 1]
    if len(numbers) != 2 or len(entries) != 2:
        raise wrong(key, entries, "two numbers from 0 to below 1")
    return float(numbers[0]), float(numbers[1])


def lora_from(values: Mapping[str, Any]) -> LoraSettings:
    """Return the settings of an adapter."""
    known = {one.name for one in fields(LoraSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise WrongSettingError(
            f"lora.{unknown[0]}",
            f"lora has no use for {', '.join(unknown)}. Its keys are {', '.join(sorted(known))}.",
        )
    given: dict[str, Any] = dict(values)
    if isinstance(given.get("targets"), list):
        given["targets"] = tuple(given["targets"])
    try:
        return LoraSettings(**given)
    except (InvalidInputError, TypeError) as error:
        raise WrongSettingError("lora", f"lora cannot be used: {error}") from error


def parse_config(path: Path | str, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a training config from a .json or .yaml file; paths in it are as the caller sees them.

    Args:
        path: the file.
        changes: values that win over the file's; "lora.rank" changes a value inside `lora`.

    Raises:
        InvalidInputError: if there is no such file, or for what `TrainConfig.from_dict` refuses,
            with the line it stands on.
        MissingDependencyError: for YAML without PyYAML.
    """
    table = read_config(Path(user_path(str(path))))
    values, given = dict(table.values), dict(changes or {})
    for key, value in given.items():
        outer, _, inner = key.partition(".")
        if inner:
            before: object = values.get(outer) or {}
            if not isinstance(before, Mapping):
                raise wrong(outer, before, f"settings by name, so that it can hold {inner}")
            values[outer] = {**cast("Mapping[str, Any]", before), inner: value}
        else:
            values[outer] = value
    for key in PATHS & values.keys():
        values[key] = _at_home(values[key])
    try:
        return TrainConfig.from_dict(values)
    except WrongSettingError as error:
        if error.key in given:
            raise
        raise InvalidInputError(f"{table.place(error.key)}: {error}") from error


def _at_home(value: object) -> object:
    """Return a path, or a list of paths, with the home folder in place of a leading `~`."""
    if isinstance(value, list):
        return [_at_home(one) for one in cast("list[object]", value)]
    return user_path(value) if isinstance(value, str) else value


def read_config(path: Path) -> Table:
    """Return keys and values of a config file, and their lines."""
    if path.suffix.lower() not in CONFIG_SUFFIXES or not path.is_file():
        raise InvalidInputError(
            f"There is no training config {path.name}: a {' or '.join(CONFIG_SUFFIXES)} file is "
            "needed. docs/training.md has one to start from."
        )
    return read_table(path, most=MAX_JSON_BYTES)
