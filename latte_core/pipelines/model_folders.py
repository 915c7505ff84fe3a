"""Where a model lies: its transformer, the folder that its companions are in, and its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.recognition.families import Family
from ..checkpoint.recognition.identify import identify
from ..checks import is_number, is_whole
from ..errors import CorruptCheckpointError, InvalidInputError
from ..files import read_json
from ..shipped import CLASS_STARTER, CLASS_STARTER_FOLDER, STARTER, STARTER_FOLDER

TEXT_FOLDER = "text_encoder"
MAX_TEXT, MAX_COUNT = 200, 100_000
TRANSFORMER_FOLDER = "transformer"
TRANSFORMER_FOLDERS = (TRANSFORMER_FOLDER, "transformer_v1", "transformer_v0")  # two old copies
# Where the companions of a single file may lie: beside it, around its folder, or, for t2v.pt, in
# the folder that its authors published them in.
CARD_NAME = "card.json"
BESIDE = (".", "..", "t2v_required_models")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def _is_count(value: object) -> bool:
    return is_whole(value, 1, MAX_COUNT)


# What a card says of how to run a model; its other entries are for people.
CARD_CHECKS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("method", "sampler", "vae"), _is_text),
    **dict.fromkeys(("num_steps", "num_frames", "height", "width"), _is_count),
    "steps": lambda value: _is_text(value) or _is_count(value),
    "guidance_scale": lambda value: is_number(value) and 0 <= value <= MAX_COUNT,
    "fps": lambda value: is_number(value) and 0 < value <= MAX_COUNT,
}


def locate(source: str | Path) -> tuple[Path, Path]:
    """Return a text-to-video transformer's file or folder, and the folder of its companions.

    Raises:
        InvalidInputError: if `source` does not exist, or is the starter and not in this copy.
    """
    others = "a folder in the layout of Latte-1, or a transformer file"
    path = _path_of(source, STARTER, STARTER_FOLDER, "starter model", others)
    for name in TRANSFORMER_FOLDERS:
        if (path / name).is_dir():
            return path / name, path
    first = path if path.is_dir() else path.parent
    for beside in BESIDE:
        if (first / beside / TEXT_FOLDER).is_dir() or (first / beside / "vae").is_dir():
            return path, (first / beside).resolve()
    return path, first


def locate_class_model(source: str | Path) -> tuple[Path, Path]:
    """Return the transformer's file or folder of a model without text, and its companions' folder.

    Raises:
        InvalidInputError: if `source` does not exist, or is the class starter and not in this copy.
    """
    title = "starter model with classes"
    others = (
        "the folder of a class-conditional or unconditional Latte, or its file, such as ucf101.pt"
    )
    path = _path_of(source, CLASS_STARTER, CLASS_STARTER_FOLDER, title, others)
    if (path / TRANSFORMER_FOLDER).is_dir():
        return path / TRANSFORMER_FOLDER, path
    folder = (path if path.is_dir() else path.parent).resolve()
    return path, folder.parent if folder.name == TRANSFORMER_FOLDER else folder


def is_class_model(source: str | Path) -> bool:
    """Return whether a model is class-conditional or unconditional, from its header alone.

    Raises:
        InvalidInputError: if there is no such model.
        CheckpointError: for a file that cannot be opened.
    """
    if source in (STARTER, CLASS_STARTER):
        return source == CLASS_STARTER
    transformer, _ = locate(source)
    return identify(transformer).family in (Family.LATTE_CLASS, Family.DIT)


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card of a model's folder, empty if there is none.

    Raises:
        CorruptCheckpointError: if it is not a JSON object, or what it says of a run has another
            type or range, naming the key.
    """
    card = optional_json(folder / CARD_NAME)
    for key, value in card.items():
        if key in CARD_CHECKS and not CARD_CHECKS[key](value):
            raise CorruptCheckpointError(
                f"{CARD_NAME} in {folder.name} says {key} = {str(value)[:60]!r}, which is no "
                f"{key} of a run. Correct it, remove the line, or download the file again."
            )
    return card


def optional_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty if there is no such file."""
    return read_json(path) if path.is_file() else {}


def _path_of(source: str | Path, word: str, shipped: Path, title: str, others: str) -> Path:
    """Return the folder or file of a model.

    Args:
        source: as it was given.
        word: stands for the starter in the folder `shipped`.
        title: of that starter, and `others`, what else may be given, for messages.
    """
    path = shipped if source == word else Path(source)
    if source == word and not path.is_dir():
        raise InvalidInputError(
            f"This copy of the package has no {title}: its folder assets/{path.name} is missing. "
            "Install the package again, or name another model."
        )
    if not path.exists():
        raise InvalidInputError(
            f"There is no model {str(source)!r}. Give the word {word}, {others}."
        )
    return path
