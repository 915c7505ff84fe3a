"""What the widgets of Latte Train mean in the words of a training config."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....latte_core.checks import check_integer
from ....latte_core.errors import CheckpointError, IncompatibleInputsError, InvalidInputError
from ..base import paths
from ..base.sockets import check_choice, check_number
from .folders import SET_FILE, locate_data

# What each method trains; None is the whole transformer.
METHODS: Mapping[str, str | None] = {
    "motion LoRA (temporal)": "temporal",
    "LoRA (spatial)": "spatial",
    "LoRA (both)": "both",
    "all weights": None,
}
AUTO = "auto"
PRECISIONS = [AUTO, "float32", "bfloat16", "float16"]
MAX_STEPS = 10_000_000
MAX_BATCH = 4096
MAX_RATE = 1.0
MAX_RANK = 1024
MAX_FRAMES = 256
MAX_INTERVAL = 100
MAX_SEED = 2**64 - 1
REPORTS = 50  # lines of the log in a short run; long ones have one each LOG_EVERY updates
LOG_EVERY = 10
# An adapter's checkpoint is small. One of a whole model has its weights four times.
SAVE_LORA_EVERY, SAVE_MODEL_EVERY = 200, 1000
# Config keys that people know by another name.
WIDGETS: Mapping[str, str] = {
    "num_steps": "steps",
    "lora": "method or rank",
    "seed": "training_seed",
    "output": "the place of the output folder",
}
PATHS = ("data", "model", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """The widgets of Latte Train, checked again: values that come over a wire skip their ranges.

    Raises:
        InvalidInputError: naming the widget, what it is and what it may be.
    """

    data: str
    model: str
    method: str
    run_name: str
    steps: int
    batch_size: int
    learning_rate: float
    rank: int
    num_frames: int
    interval: int
    precision: str
    training_seed: int
    sample_every: int
    sample_prompts: str
    checkpoint_activations: bool

    def __post_init__(self) -> None:
        check_choice("method", self.method, list(METHODS))
        check_choice("precision", self.precision, PRECISIONS)
        check_integer("steps", self.steps, 1, MAX_STEPS)
        check_integer("batch_size", self.batch_size, 1, MAX_BATCH)
        check_number("learning_rate", self.learning_rate, 0.0, MAX_RATE)
        check_integer("rank", self.rank, 1, MAX_RANK)
        check_integer("num_frames", self.num_frames, 1, MAX_FRAMES)
        check_integer("interval", self.interval, 1, MAX_INTERVAL)
        check_integer("training_seed", self.training_seed, 0, MAX_SEED)
        check_integer("sample_every", self.sample_every, 0, MAX_STEPS)
        if not isinstance(self.sample_prompts, str):
            raise InvalidInputError(
                f"sample_prompts is {self.sample_prompts!r}, but it must be text, one prompt a "
                "line."
            )
        if not isinstance(self.checkpoint_activations, bool):
            raise InvalidInputError(
                f"checkpoint_activations is {self.checkpoint_activations!r}, but it must be on "
                "or off."
            )

    @property
    def blocks(self) -> str | None:
        """Blocks that a LoRA is put on; None trains the whole transformer."""
        return METHODS[self.method]


def config_values(settings: TrainSettings, folder: Path, precision: str) -> dict[str, Any]:
    """Return what `TrainConfig.from_dict` takes.

    Args:
        settings: the widgets.
        folder: of the run.
        precision: what "auto" means on this machine.

    Raises:
        InvalidInputError: for data or a model that is not listed.
        IncompatibleInputsError: if the model lacks a part that the training needs.
    """
    data = locate_data(settings.data)
    model = model_source(settings.model)
    if settings.sample_every or not (data / SET_FILE).is_file():
        require_parts(model, settings.model)
    is_lora = settings.blocks is not None
    lines = (line.strip() for line in settings.sample_prompts.splitlines())
    return {
        "data": [str(data)],
        "output": str(folder),
        "model": model,
        "lora": lora_values(settings) if is_lora else None,
        "num_frames": settings.num_frames,
        "interval": settings.interval,
        "num_steps": settings.steps,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "clip_norm": 1.0,
        "clip_from": 0,
        # The config's defaults average over 10,000 updates, more than a fine-tuning has.
        "ema_decay": 0.99 if is_lora else 0.999,
        "ema_warm_up": True,
        "precision": precision if settings.precision == AUTO else settings.precision,
        "checkpoint_activations": settings.checkpoint_activations,
        "seed": settings.training_seed,
        "log_every": max(1, min(LOG_EVERY, settings.steps // REPORTS)),
        "save_every": SAVE_LORA_EVERY if is_lora else SAVE_MODEL_EVERY,
        "keep": 2 if is_lora else 1,
        "sample_every": settings.sample_every,
        "sample_prompts": list(filter(None, lines)),
    }


def lora_values(settings: TrainSettings) -> dict[str, Any]:
    """Return the adapter's settings; its alpha is its rank, so that a rank needs no new rate."""
    return {"rank": settings.rank, "alpha": float(settings.rank), "blocks": settings.blocks}


def model_source(name: str) -> str:
    """Return what the training calls a listed model: a word, or a path.

    Raises:
        InvalidInputError: for a name that is not listed.
    """
    path = paths.locate(name, paths.MODELS, "model")
    return name if name in (paths.STARTER, paths.CLASS_STARTER) else str(path)


def require_parts(model: str, name: str) -> None:
    """Refuse a model whose VAE or text encoder is not beside it, before a process is started.

    Raises:
        IncompatibleInputsError: naming the part, and where it belongs.
    """
    from ....latte_core.data.model_parts import find_model_parts

    try:
        find_model_parts(model)
    except CheckpointError as error:
        raise IncompatibleInputsError(
            f"model is {name}, which cannot be trained on videos, nor make samples, as it is: "
            f"{error} Or choose a whole Latte folder of models/diffusers, whose name ends in / in "
            "the list; or train on a prepared set with sample_every 0."
        ) from error


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], changeable: Collection[str]
) -> list[str]:
    """Return a phrase for each setting that two configs do not share, by its widget's name."""
    keys = [key for key in now if key not in changeable and before.get(key) != now.get(key)]
    return [f"{WIDGETS.get(key, key)} was {shown(key, before.get(key))}" for key in keys]


def shown(key: str, value: Any) -> str:
    """Return a setting as the widgets have it."""
    if key == "lora":
        blocks = value and value.get("blocks")
        method = next((name for name, kind in METHODS.items() if kind == blocks), "another")
        return f"{method}, rank {value.get('rank')}" if value else method
    if key in PATHS:
        listed = value if isinstance(value, list) else [value]
        return ", ".join(Path(str(one)).name for one in listed)
    return f"{value!r}"
