"""The authors' settings files for sampling, such as ffs_sample.yaml (docs/model.md 7.3, 7.4)."""

from __future__ import annotations

import logging
import reprlib
from pathlib import Path
from typing import Any, cast

from ...errors import InvalidInputError
from ...setting_files import Table, read_table
from ...text_files import user_path
from .settings import CLASSES, TEXT, UNCONDITIONAL, Settings

MODEL_KEYS = ("model", "extras", "num_classes", "learn_sigma")  # the network's shape
CONDITIONINGS = {1: UNCONDITIONAL, 2: CLASSES}
TEXT_MODEL = "LatteT2V"
# Keys that decide nothing here, among them those that the authors' scripts do not read either.
UNUSED = {
    *("save_img_path", "use_compile", "run_time", "num_sample", "per_proc_batch_size"),
    *("sample_names", "negative_name", "variance_type", "save_ceph"),
    *("frame_interval", "fixed_spatial", "attention_bias", "attention_mode"),
}

logger = logging.getLogger("latte")


class Reader:
    """Takes values out of a settings file one by one, each with its type checked.

    Args:
        table: what it holds.
    """

    def __init__(self, table: Table) -> None:
        self.name, self._table = table.name, table
        self.left = {key: value for key, value in table.values.items() if value is not None}

    def take(self, key: str) -> Any:
        """Return the value of a key, or None."""
        return self.left.pop(key, None)

    def number(self, key: str) -> float | None:
        """Return a number, also one that YAML reads as text, such as 1e-4."""
        value = self.take(key)
        if value is None:
            return None
        try:
            return float("x" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            raise self.wrong(key, value, "a number") from None

    def whole(self, key: str) -> int | None:
        """Return a whole number."""
        value = self.take(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.wrong(key, value, "a whole number")
        return value

    def truth(self, key: str) -> bool | None:
        """Return True or False."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, value, "True or False")
        return value

    def text(self, key: str) -> str | None:
        """Return a text, or a number as text."""
        value = self.take(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
            raise self.wrong(key, value, "a text")
        return None if value is None else str(value)

    def size(self) -> tuple[int | None, int | None]:
        """Return height and width of `image_size`, which is one number or two."""
        value: object = self.take("image_size")
        listed = as_list(value)
        sides = listed * 2 if len(listed) == 1 else listed
        if len(sides) != 2 or not all(side is None or type(side) is int for side in sides):
            raise self.wrong("image_size", value, "one or two whole numbers")
        height, width = (cast("int | None", side) for side in sides)
        return height, width

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts; a text alone is a list of one."""
        value: object = self.take(key)
        listed = as_list(value)
        if value is not None and not all(isinstance(one, str) for one in listed):
            raise self.wrong(key, value, "a list of texts")
        return tuple(str(one) for one in listed if one is not None)

    def wrong(self, key: str, value: object, expected: str) -> InvalidInputError:
        """Return the error for a value of another type."""
        return InvalidInputError(
            f"{self._table.place(key)}, says {key}: {reprlib.repr(value)}, but it must be "
            f"{expected}."
        )


def as_list(value: object) -> list[object]:
    """Return a list as it is, and anything else as a list of one."""
    return cast("list[object]", value) if isinstance(value, list) else [value]


def read_settings(path: Path) -> Settings:
    """Read a settings file of the authors.

    Raises:
        InvalidInputError: if it cannot be read, or a value has the wrong type.
        MissingDependencyError: if PyYAML is missing.
    """
    reader = Reader(read_table(path))
    is_text = str(reader.left.get("model", "")).startswith(TEXT_MODEL)
    is_text = is_text or "video_length" in reader.left
    settings = _text_settings(reader) if is_text else _class_settings(reader)
    unknown = sorted(set(reader.left) - UNUSED)
    if unknown:
        logger.warning("%s also says %s, which is not used.", path.name, ", ".join(unknown)[:200])
    return settings


def _shared(reader: Reader, guidance_key: str, frames_key: str) -> Settings:
    height, width = reader.size()
    return Settings(
        source=reader.name,
        seed=reader.whole("seed"),
        steps=reader.text("num_sampling_steps"),
        sampler=reader.text("sample_method"),
        guidance=reader.number(guidance_key),
        frames=reader.whole(frames_key),
        height=height,
        width=width,
        fps=8,
        half=reader.truth("use_fp16"),
    )


def _text_settings(reader: Reader) -> Settings:
    """Return settings of t2v_sample.yaml and t2i_sample.yaml."""
    reader.take("model")
    has_temporal_vae = reader.truth("enable_vae_temporal_decoder")
    betas = (
        reader.number("beta_start"),
        reader.number("beta_end"),
        reader.text("beta_schedule"),
    )
    return Settings(
        kind=TEXT,
        model=_existing(reader.text("pretrained_model_path")),
        prompts=reader.texts("text_prompt"),
        temporal_attention=reader.truth("enable_temporal_attentions"),
        vae=None if has_temporal_vae is None else "temporal" if has_temporal_vae else "image",
        betas=_full(betas),
    ).over(_shared(reader, "guidance_scale", "video_length"))


def _class_settings(reader: Reader) -> Settings:
    """Return settings of ffs_, sky_, taichi_ and ucf101_sample.yaml."""
    shape = {key: reader.take(key) for key in MODEL_KEYS}
    config = {key: value for key, value in shape.items() if value is not None}
    kind = CONDITIONINGS.get(config.get("extras", 1))
    return Settings(
        kind=kind,
        model=_existing(reader.text("ckpt")),
        vae=_existing(reader.text("pretrained_model_path")),
        config=config or None,
        classes=("random",) if kind == CLASSES else (),
        num_for_folder=reader.whole("num_fvd_samples"),
    ).over(_shared(reader, "cfg_scale", "num_frames"))


def _existing(path: str | None) -> str | None:
    """Return a path that leads somewhere; the authors' files hold examples of paths."""
    return None if path is None or not Path(user_path(path)).exists() else user_path(path)


def _full(betas: tuple[float | None, float | None, str | None]) -> tuple[float, float, str] | None:
    start, end, schedule = betas
    if start is None or end is None or schedule is None:
        return None
    return start, end, schedule
