"""Writing a prepared set, so that a killed run leaves whole files and goes on after them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...checkpoint.writing.writer import write_safetensors
from ...checks import check_integer
from ...errors import InvalidInputError, NonFiniteError
from ...types import LATENT_CHANNELS
from .check import moment_names
from .format import (
    CAPTIONS_ENTRY,
    CLIPS_ENTRY,
    DTYPES,
    EMPTY_ROWS,
    JOURNAL_FILE,
    LATENTS,
    SET_FILE,
    TEXT,
    ClipRecord,
    LatentSetInfo,
    SetRecord,
    Skip,
    describe_file,
    key_of,
    number_captions,
    shard_name,
)
from .json_records import captions_to_text, clips_to_text, write_record
from .reader import LatentSet
from .resume import resume

CLIPS_PER_SHARD = 32
MAX_SHARD_BYTES = 256 * 2**20
CAPTIONS_PER_SHARD = 256
TEXTS_AT_ONCE = 8

logger = logging.getLogger("latte")

TextFunction = Callable[[Sequence[str]], Sequence[Tensor]]
"""Captions to the features of each, (n, width), real tokens only."""


class LatentSetWriter:
    """Writes a set clip by clip; opened on an unfinished one, it goes on after its whole files.

    Nothing is lost but the clips of the file that was not whole, and what was skipped, which is to
    be tried again. `name in writer` says whether a clip is stored already.

    Args:
        folder: to write; new, empty, or an unfinished set with the same settings.
        latent_height, latent_width: of the latents, in cells.
        scaling_factor: that the latents were multiplied by.
        model: whose VAE and text encoder make the set.
        channels: of the latents.
        class_names: all classes, in the order of labels; left out, they are those of the clips, in
            alphabetical order.
        text_width: features per token, for a set with captions.
        has_flips: whether every clip comes with its mirror image.
        has_std: whether every clip comes with the posterior's standard deviation.
        layout: how the videos lay in their folder.
        dtype: float16, bfloat16 or float32, to store numbers in.
        details: notes, text by name.
        clips_per_shard: clips in one file.

    Raises:
        InvalidInputError: if the folder holds something else, a finished set, or a set with other
            settings.
        CheckpointError: if a file of an unfinished set is damaged, or the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        latent_height: int,
        latent_width: int,
        scaling_factor: float,
        model: str,
        channels: int = LATENT_CHANNELS,
        class_names: Sequence[str] = (),
        text_width: int | None = None,
        has_flips: bool = False,
        has_std: bool = False,
        layout: str = "",
        dtype: str = "float16",
        details: Mapping[str, str] | None = None,
        clips_per_shard: int = CLIPS_PER_SHARD,
    ) -> None:
        info = LatentSetInfo(
            num_clips=0,
            latent_height=latent_height,
            latent_width=latent_width,
            channels=channels,
            scaling_factor=float(scaling_factor),
            class_names=tuple(class_names),
            text_width=text_width,
            has_flips=has_flips,
            has_std=has_std,
            layout=layout,
            model=model,
            dtype=dtype,
            details=dict(details or {}),
        )
        self.folder = Path(folder)
        self._clips_per_shard = check_integer("clips_per_shard", clips_per_shard, 1, 4096)
        self._record, self._clips, self._encoded = resume(self.folder, info)
        self._names = {one.name for one in self._clips}
        self._skips: list[Skip] = []
        self._waiting: list[ClipRecord] = []
        self._tensors: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def num_clips(self) -> int:
        """Clips so far."""
        return len(self._clips)

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """Clips left out so far."""
        return tuple(self._skips)

    def add(
        self,
        mean: Tensor,
        std: Tensor | None = None,
        *,
        captions: Sequence[str] = (),
        class_name: str | None = None,
        name: str,
        flipped_mean: Tensor | None = None,
        flipped_std: Tensor | None = None,
    ) -> None:
        """Add one clip.

        Args:
            mean: (T, C, h, w) of the VAE's posterior, scaled.
            std: its standard deviation, scaled.
            captions: any number of texts that describe the clip.
            class_name: its class.
            name: of the clip, once in a set.
            flipped_mean, flipped_std: of the mirrored clip.

        Raises:
            InvalidInputError: if something is missing, too much, or of another size.
            NonFiniteError: if a number is NaN, or too large for the set's dtype.
            CheckpointError: if a file cannot be written.
        """
        self._check_names(name, class_name)
        given = {
            "mean": mean,
            "std": std,
            "flipped_mean": flipped_mean,
            "flipped_std": flipped_std,
        }
        stored = self._checked(name, {key: one for key, one in given.items() if one is not None})
        place = key_of(len(self._waiting))
        clip = ClipRecord(
            name=name,
            class_name=class_name,
            captions=tuple(dict.fromkeys(captions)),
            num_frames=len(mean),
        )
        self._tensors.update({f"{place}.{key}": value for key, value in stored.items()})
        self._waiting.append(clip)
        self._clips.append(clip)
        self._names.add(name)
        size = sum(value.nbytes for value in self._tensors.values())
        if len(self._waiting) >= self._clips_per_shard or size >= MAX_SHARD_BYTES:
            self.flush()

    def skip(self, name: str, reason: str) -> None:
        """Note that a clip is left out, and why."""
        self._skips.append(Skip(name=name, reason=reason))

    def flush(self) -> None:
        """Write the clips that wait for their file to be full.

        Raises:
            CheckpointError: if the file cannot be written.
        """
        if not self._waiting:
            return
        path = self.folder / shard_name(LATENTS, len(self._record.shards))
        write_safetensors(path, self._tensors, {CLIPS_ENTRY: clips_to_text(self._waiting)})
        shard = describe_file(path, len(self._waiting))
        self._note(replace(self._record, shards=(*self._record.shards, shard)))
        self._waiting, self._tensors = [], {}

    def add_texts(
        self,
        encode: TextFunction,
        *,
        empty_rows: Tensor | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> None:
        """Encode every caption that is not stored yet, the empty one included.

        To be called after the last clip; clips that wait for their file are written first.

        Args:
            encode: gives the features of some captions.
            empty_rows: (120, width), of the empty caption with its padding.
            callback: called with (captions done, captions in all); an exception it raises ends the
                run.

        Raises:
            InvalidInputError: if the set has no text, or the features are of another size.
            NonFiniteError: if a number is NaN, or too large for the set's dtype.
            CheckpointError: if a file cannot be written.
        """
        if self._record.info.text_width is None:
            raise InvalidInputError(
                "This set was begun without text. Give its writer the text encoder's width."
            )
        self.flush()
        captions = list(number_captions(self._clips))
        if self._encoded != captions[: len(self._encoded)]:  # of clips that a killed run lost
            self._encoded = []
            self._note(replace(self._record, text_shards=()))
        while len(self._encoded) < len(captions):
            start = len(self._encoded)
            some = captions[start : start + CAPTIONS_PER_SHARD]
            tensors: dict[str, Tensor] = {}
            for place in range(0, len(some), TEXTS_AT_ONCE):
                texts = some[place : place + TEXTS_AT_ONCE]
                self._encode(texts, place, encode, tensors)
                if callback is not None:
                    callback(start + place + len(texts), len(captions))
            if start == 0 and empty_rows is not None:
                tensors[EMPTY_ROWS] = self._checked_rows("", empty_rows)
            self._write_text(some, tensors)

    def finish(self) -> LatentSet:
        """Write what waits and `set.json`, and open the set.

        Raises:
            InvalidInputError: if there is no clip, captions are not encoded, or some clips have a
                class and others none.
            CheckpointError: if a file cannot be written.
        """
        if not self._clips:
            raise InvalidInputError(
                f"The prepared set {self.folder.name} has no clips, so it cannot be finished. "
                f"{len(self._skips)} were left out."
            )
        if self._record.info.text_width is not None and self._encoded != list(
            number_captions(self._clips)
        ):
            raise InvalidInputError("Some captions are not encoded yet. Call add_texts first.")
        names = self._record.info.class_names or self._names_of_classes()
        self.flush()
        info = replace(self._record.info, num_clips=len(self._clips), class_names=names)
        record = replace(self._record, info=info, skipped=tuple(self._skips))
        write_record(self.folder / SET_FILE, record)
        (self.folder / JOURNAL_FILE).unlink(missing_ok=True)
        return LatentSet.open(self.folder)

    def _names_of_classes(self) -> tuple[str, ...]:
        found = {clip.class_name for clip in self._clips}
        if None in found and len(found) > 1:
            lacking = next(clip.name for clip in self._clips if clip.class_name is None)
            raise InvalidInputError(
                f"Some clips have a class, but {lacking} has none. Give every clip one, or none."
            )
        return tuple(sorted(name for name in found if name is not None))

    def _check_names(self, name: str, class_name: str | None) -> None:
        if name in self._names:
            raise InvalidInputError(
                f"The clip {name} is in the set already. Give each clip a name of its own."
            )
        classes = self._record.info.class_names
        if classes and class_name not in classes:
            raise InvalidInputError(
                f"The clip {name} is of class {class_name!r}, but the set has the classes "
                f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}."
            )

    def _checked(self, name: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of one clip in the set's dtype."""
        info = self._record.info
        wanted = moment_names(has_std=info.has_std, has_flips=info.has_flips)
        if set(given) != set(wanted):
            raise InvalidInputError(
                f"The clip {name} comes with {', '.join(given)}, but this set stores "
                f"{', '.join(wanted)} of every clip."
            )
        shape = (len(given["mean"]), info.channels, info.latent_height, info.latent_width)
        for key, value in given.items():
            if value.shape != shape or len(value) == 0:
                raise InvalidInputError(
                    f"The {key} of {name} is {tuple(value.shape)}, but this set stores (frames, "
                    f"{info.channels}, {info.latent_height}, {info.latent_width})."
                )
        return {key: self._cast(f"The {key} of {name}", value) for key, value in given.items()}

    def _cast(self, what: str, value: Tensor) -> Tensor:
        stored = value.detach().to("cpu", DTYPES[self._record.info.dtype], copy=True)
        if not torch.isfinite(stored).all():
            raise NonFiniteError(
                f"{what} holds NaN, infinity, or numbers that are too large for "
                f"{self._record.info.dtype}. Store the set in float32, and run the model in it."
            )
        return stored

    def _encode(
        self, texts: Sequence[str], first: int, encode: TextFunction, tensors: dict[str, Tensor]
    ) -> None:
        features = encode(texts)
        for offset, (text, rows) in enumerate(zip(texts, features, strict=True)):
            tensors[key_of(first + offset)] = self._checked_rows(text, rows)

    def _checked_rows(self, text: str, rows: Tensor) -> Tensor:
        width = self._record.info.text_width
        if rows.ndim != 2 or rows.shape[1] != width or len(rows) == 0:
            raise InvalidInputError(
                f"The features of {text[:60]!r} are {tuple(rows.shape)}, but this set stores "
                f"(tokens, {width})."
            )
        return self._cast(f"The features of {text[:60]!r}", rows)

    def _write_text(self, captions: list[str], tensors: dict[str, Tensor]) -> None:
        path = self.folder / shard_name(TEXT, len(self._record.text_shards))
        write_safetensors(path, tensors, {CAPTIONS_ENTRY: captions_to_text(captions)})
        shard = describe_file(path, len(captions))
        self._encoded += captions
        self._note(replace(self._record, text_shards=(*self._record.text_shards, shard)))

    def _note(self, record: SetRecord) -> None:
        """Write the journal: from here on a killed run goes on behind these files."""
        self._record = record
        write_record(self.folder / JOURNAL_FILE, self._record)
