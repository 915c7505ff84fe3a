"""Reading a prepared set: any frames of any clip, without loading more than those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import InvalidInputError
from .check import check_captions, check_clips, open_shard
from .format import (
    EMPTY_ROWS,
    JOURNAL_FILE,
    LATENTS,
    SET_FILE,
    TEXT,
    ClipRecord,
    LatentSetInfo,
    SetRecord,
    Skip,
    damaged_set,
    key_of,
    number_captions,
    shard_name,
)
from .json_records import read_record


class LatentSet:
    """A finished set on disk; made by `open`.

    Files are opened when they are first asked for and stay open; tensors are mapped, not read, so
    that a set may be larger than memory.
    """

    def __init__(
        self,
        folder: Path,
        record: SetRecord,
        clips: Sequence[Sequence[ClipRecord]],
        captions: Sequence[Sequence[str]],
    ) -> None:
        self.folder = folder
        self.info: LatentSetInfo = record.info
        self.skipped: tuple[Skip, ...] = record.skipped
        self._clips = [clip for one in clips for clip in one]
        self._places = _places(clips)
        self._text_places = _places(captions)
        self._caption_ids = number_captions(self._clips)
        self._captions = list(self._caption_ids)
        self._labels = {name: label for label, name in enumerate(self.info.class_names)}
        self._files: dict[str, Any] = {}

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = False) -> LatentSet:
        """Open a finished set.

        Names, sizes and headers of all files are checked.

        Args:
            folder: that `set.json` is in.
            verify: compare every byte with the recorded SHA-256, too.

        Raises:
            InvalidInputError: if there is no set, or it is unfinished.
            CheckpointError: if a file is missing or damaged.
        """
        path = Path(folder)
        _require_finished(path)
        record = read_record(path / SET_FILE)
        clips: list[list[ClipRecord]] = []
        for number, shard in enumerate(record.shards):
            header = open_shard(path, shard, shard_name(LATENTS, number), verify=verify)
            clips.append(check_clips(path / shard.name, header, shard, record.info))
        captions: list[list[str]] = []
        for number, shard in enumerate(record.text_shards):
            header = open_shard(path, shard, shard_name(TEXT, number), verify=verify)
            captions.append(check_captions(path / shard.name, header, shard, record.info))
        opened = cls(path, record, clips, captions)
        opened._check_counts(path / SET_FILE, [text for one in captions for text in one])
        return opened

    def __len__(self) -> int:
        return len(self._clips)

    def name(self, index: int) -> str:
        """Return what a clip is called: where its video lay, or what its maker said."""
        return self._clip(index).name

    def num_frames(self, index: int) -> int:
        """Return how many frames of a clip are stored."""
        return self._clip(index).num_frames

    def moments(
        self, index: int, frames: Sequence[int], *, flipped: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return chosen frames of a clip.

        Args:
            index: of the clip.
            frames: which frames, in the order wanted; a frame may come twice.
            flipped: of the mirrored clip.

        Returns:
            The mean of the VAE's posterior, scaled, (F, C, h, w) float32, and its standard
            deviation, scaled, of the same shape; None for a set without it.

        Raises:
            InvalidInputError: if there is no such clip or frame, or no mirrored clips.
            CorruptCheckpointError: if the stored numbers are damaged.
        """
        clip = self._clip(index)
        chosen = list(frames)
        if not chosen or min(chosen) < 0 or max(chosen) >= clip.num_frames:
            raise InvalidInputError(
                f"Frames {chosen} of clip {index} were asked for, but it has frames 0 to "
                f"{clip.num_frames - 1}."
            )
        if flipped and not self.info.has_flips:
            raise InvalidInputError(
                f"The prepared set {self.folder.name} holds no mirrored clips. Prepare it with "
                "flips, or train without them."
            )
        prefix = "flipped_" if flipped else ""
        mean = self._rows(index, f"{prefix}mean", chosen)
        return mean, self._rows(index, f"{prefix}std", chosen) if self.info.has_std else None

    def class_label(self, index: int) -> int | None:
        """Return the number of a clip's class in `info.class_names`, None without classes."""
        name = self._clip(index).class_name
        return None if name is None else self._labels[name]

    def caption_ids(self, index: int) -> tuple[int, ...]:
        """Return the numbers of a clip's captions; of the empty one if it has none."""
        texts = self._clip(index).captions
        return tuple(self._caption_ids[text] for text in texts) or (self.empty_caption_id,)

    @property
    def num_captions(self) -> int:
        """How many distinct captions there are, the empty one included."""
        return len(self._captions)

    def caption(self, caption_id: int) -> str:
        """Return a caption as it was written."""
        self._check_caption(caption_id)
        return self._captions[caption_id]

    def context(self, caption_id: int) -> Tensor:
        """Return the text encoder's features of a caption, (n, width) float32, real tokens only.

        Raises:
            InvalidInputError: if there is no such caption, or the set has no text.
        """
        self._check_caption(caption_id)
        self._require_text()
        number, place = self._text_places[caption_id]
        name = shard_name(TEXT, number)
        rows = self._tensor(name, key_of(place))
        return self._finite(rows.to(torch.float32, copy=True), name)

    @property
    def empty_caption_id(self) -> int:
        """The number of the empty caption."""
        return 0

    def empty_rows(self) -> Tensor | None:
        """Return the features of the empty caption with its padding, (120, width) float32.

        Sampling cuts its negative prompt to the length of the positive one, so the model meets the
        first n of these rows. None if the set's maker did not store them.
        """
        self._require_text()
        name = shard_name(TEXT, 0)
        if EMPTY_ROWS not in self._file(name).keys():
            return None
        return self._finite(self._tensor(name, EMPTY_ROWS).to(torch.float32, copy=True), name)

    def _rows(self, index: int, what: str, chosen: list[int]) -> Tensor:
        number, place = self._places[index]
        name = shard_name(LATENTS, number)
        stored = self._tensor(name, f"{key_of(place)}.{what}")
        return self._finite(stored[chosen].to(torch.float32), name)

    def _tensor(self, name: str, key: str) -> Tensor:
        """Return a tensor of a file, mapped."""
        try:
            return self._file(name).get_tensor(key)
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged_set(self.folder / name, "it has changed since it was opened") from error

    def _file(self, name: str) -> Any:
        if name not in self._files:
            opened: Any = safe_open(self.folder / name, framework="pt", device="cpu")
            self._files[name] = opened
        return self._files[name]

    def _finite(self, values: Tensor, name: str) -> Tensor:
        if not torch.isfinite(values).all():
            raise damaged_set(self.folder / name, "it holds NaN or infinity")
        return values

    def _clip(self, index: int) -> ClipRecord:
        if not 0 <= index < len(self._clips):
            raise InvalidInputError(
                f"Clip {index} was asked for, but the prepared set {self.folder.name} has clips 0 "
                f"to {len(self._clips) - 1}."
            )
        return self._clips[index]

    def _check_caption(self, caption_id: int) -> None:
        if not 0 <= caption_id < len(self._captions):
            raise InvalidInputError(
                f"Caption {caption_id} was asked for, but the prepared set {self.folder.name} has "
                f"captions 0 to {len(self._captions) - 1}."
            )

    def _require_text(self) -> None:
        if self.info.text_width is None:
            raise InvalidInputError(
                f"The prepared set {self.folder.name} was made without a text encoder. Prepare it "
                "with a text-to-video model."
            )

    def _check_counts(self, path: Path, encoded: list[str]) -> None:
        if len(self._clips) != self.info.num_clips or not self._clips:
            raise damaged_set(
                path, f"it names {self.info.num_clips} clips, but its files hold {len(self._clips)}"
            )
        expected = [] if self.info.text_width is None else self._captions
        if encoded != expected:
            raise damaged_set(path, "its files of text are not those of its clips' captions")
        unknown = {clip.class_name for clip in self._clips} - {None, *self._labels}
        if unknown:
            raise damaged_set(path, "a clip is of a class that it does not name")


def _places(files: Sequence[Sequence[object]]) -> list[tuple[int, int]]:
    """Return file and place in it of everything, in order."""
    return [(number, place) for number, one in enumerate(files) for place in range(len(one))]


def _require_finished(path: Path) -> None:
    if (path / SET_FILE).is_file():
        return
    if (path / JOURNAL_FILE).is_file():
        raise InvalidInputError(
            f"The prepared set {path.name} is unfinished. Run the command that prepares it once "
            "more; it goes on where it was."
        )
    what = "is no folder" if not path.is_dir() else f"has no {SET_FILE}"
    raise InvalidInputError(
        f"{path.name} {what}, so it is not a prepared set. Make one from a folder of videos with: "
        "python -m latte_core prepare VIDEOS SET"
    )
