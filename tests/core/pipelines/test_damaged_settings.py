"""The small files of a model's folder, damaged at random by a seed, end in our errors only."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latte_core.checkpoint.reading.folders import weight_files
from latte_core.config.latte import LatteConfig
from latte_core.config.t2v import LatteT2VConfig
from latte_core.errors import CorruptCheckpointError, LatteError
from latte_core.files import read_json
from latte_core.pipelines.classes.parts import listed_names
from latte_core.pipelines.model_folders import read_card
from latte_core.sampling import ScheduleSettings
from latte_core.shipped import CLASS_STARTER_FOLDER, STARTER_FOLDER
from latte_core.text.config import T5EncoderConfig
from latte_core.text.tokenizer import PromptTokenizer
from latte_core.vae.config import VaeConfig

VALUES: list[Any] = [
    *(None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "x", "", "9" * 5000),
    *([], {}, [[]], [1, "a", None], {"a": {}}),
]
INDEX = {"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}
READERS: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "card": ("card.json", CLASS_STARTER_FOLDER / "card.json", lambda f: read_card(f.parent)),
    "classes": ("classes.json", ["a", "b", "c"], lambda f: listed_names(f.parent)),
    "scheduler": (
        "scheduler_config.json",
        STARTER_FOLDER / "scheduler" / "scheduler_config.json",
        lambda f: ScheduleSettings.from_dict(read_json(f)),
    ),
    "index": ("m.safetensors.index.json", INDEX, lambda f: weight_files(f.parent)),
    "image VAE": (
        "config.json",
        STARTER_FOLDER / "vae" / "config.json",
        lambda f: VaeConfig.from_dict(read_json(f)),
    ),
    "text encoder": (
        "config.json",
        STARTER_FOLDER / "text_encoder" / "config.json",
        lambda f: T5EncoderConfig.from_dict(read_json(f)),
    ),
    "text-to-video": (
        "config.json",
        STARTER_FOLDER / "transformer" / "config.json",
        lambda f: LatteT2VConfig.from_dict(read_json(f)),
    ),
    "class model": (
        "config.json",
        CLASS_STARTER_FOLDER / "transformer" / "config.json",
        lambda f: LatteConfig.from_dict(read_json(f)),
    ),
}


def spoil(value: Any, rng: random.Random) -> Any:
    """Change one entry somewhere inside."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        is_inside = isinstance(value[key], (dict, list)) and rng.random() < 0.6
        return {**value, key: spoil(value[key], rng) if is_inside else rng.choice(VALUES)}
    if isinstance(value, list) and value:
        place = rng.randrange(len(value))
        return [*value[:place], rng.choice(VALUES), *value[place + 1 :]]
    return rng.choice(VALUES)


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut, change, insert, nest or recode."""
    place = rng.randrange(len(data))
    return rng.choice(
        [
            data[:place],
            data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :],
            data[:place] + rng.randbytes(5) + data[place:],
            data[:place] + b"[" * 100_000 + data[place:],
            data.decode("utf-8", "replace").encode("utf-16"),
        ]
    )


def damaged(source: Any, seed: int) -> bytes:
    """Return one damaged copy of a JSON file, or of a value as one."""
    rng = random.Random(seed)
    data = source.read_bytes() if isinstance(source, Path) else json.dumps(source).encode()
    if seed % 3 == 0:
        return spoil_bytes(data, rng)
    return json.dumps(spoil(json.loads(data), rng)).encode()


@pytest.mark.parametrize("kind", READERS)
def test_two_hundred_damaged_settings_end_in_our_errors_only(tmp_path: Path, kind: str) -> None:
    name, source, read = READERS[kind]
    refused = 0
    for seed in range(200):
        (tmp_path / name).write_bytes(damaged(source, seed))
        try:
            read(tmp_path / name)
        except LatteError as error:
            assert str(error)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizers_end_in_our_errors_only(tmp_path: Path, name: str) -> None:
    source = STARTER_FOLDER / "tokenizer"
    shutil.copytree(source, tmp_path / "tokenizer")
    for seed in range(25):
        (tmp_path / "tokenizer" / name).write_bytes(damaged(source / name, seed))
        try:
            PromptTokenizer.from_folder(tmp_path / "tokenizer").encode(["a cat"])
        except LatteError as error:
            assert str(error)


def test_a_tokenizer_over_which_its_rust_half_panics_is_damaged(tmp_path: Path) -> None:
    shutil.copytree(STARTER_FOLDER / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": []}
    path.write_text(json.dumps(values), encoding="utf-8")

    with pytest.raises(CorruptCheckpointError, match="tokenizer"):
        PromptTokenizer.from_folder(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_frames", "16"), ("height", -1), ("fps", float("nan")), ("method", []), ("steps", {})],
)
def test_a_card_of_another_type_names_the_key(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "card.json").write_text(json.dumps({key: value}))

    with pytest.raises(CorruptCheckpointError, match=f"says {key} = "):
        read_card(tmp_path)
