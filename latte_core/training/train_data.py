"""The prepared sets of a run, seen as one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from ..data.frame_sampling import num_needed
from ..data.sets import LatentSet
from ..errors import IncompatibleInputsError, InvalidInputError
from .train_config import TrainConfig


class TrainData:
    """Clips of one or more prepared sets, numbered through.

    Clips with too few frames for the run are left out; `too_short` counts them.

    Args:
        sets: of one latent size.
        config: of the run.
        task: "text", "class" or "unconditional".
        text_width: of the model's captions, for "text".
        num_classes: of the model, for "class".
        class_names: of the model, in the order of its labels. Classes are matched by name where the
            model has names, else by number.

    Raises:
        IncompatibleInputsError: if the sets differ, or lack what the task needs.
        InvalidInputError: if no clip is long enough.
    """

    def __init__(
        self,
        sets: Sequence[LatentSet],
        config: TrainConfig,
        *,
        task: str,
        text_width: int | None = None,
        num_classes: int = 0,
        class_names: Sequence[str] = (),
    ) -> None:
        self.sets = tuple(sets)
        self.has_text = task == "text"
        self.has_classes = task == "class"
        check_sets(self.sets)
        for one in self.sets:
            check_text(one, task, text_width)
            if config.flip and not one.info.has_flips:
                raise IncompatibleInputsError(
                    "flip is on, but the prepared set holds no mirrored latents. Prepare it with "
                    "--flips, or turn flip off."
                )
        names = self.sets[0].info.class_names
        self.labels = match_classes(names, class_names, num_classes) if self.has_classes else ()
        self.class_names = tuple(class_names) or names
        self.starts = [0, *accumulate(len(one) for one in self.sets)]
        needed = 1
        if config.frame_choice != "scattered":
            needed = num_needed(
                num_frames=config.num_frames, interval=config.interval, style=config.frame_choice
            )
        elif config.num_frames > 1:
            needed = config.num_frames
        everything = range(self.starts[-1])
        self.clips = [k for k in everything if self.frames_of(k) >= needed]
        self.too_short = len(everything) - len(self.clips)
        if not self.clips:
            most = max((self.frames_of(k) for k in everything), default=0)
            raise InvalidInputError(
                f"None of {len(everything)} clips has the {needed} frames that num_frames "
                f"{config.num_frames} at interval {config.interval} needs; the longest has {most}. "
                "Ask for fewer frames, a smaller interval, or give longer videos."
            )

    @classmethod
    def open(
        cls,
        folders: Sequence[Path],
        config: TrainConfig,
        *,
        task: str,
        text_width: int | None,
        num_classes: int,
        class_names: Sequence[str],
    ) -> TrainData:
        """Open prepared sets; see the class."""
        return cls(
            [LatentSet.open(folder) for folder in folders],
            config,
            task=task,
            text_width=text_width,
            num_classes=num_classes,
            class_names=class_names,
        )

    def __len__(self) -> int:
        return len(self.clips)

    def place(self, clip: int) -> tuple[LatentSet, int]:
        """Return the set of a clip, counted over all sets, and its number there."""
        k = next(k for k, start in enumerate(self.starts[1:]) if clip < start)
        return self.sets[k], clip - self.starts[k]

    def frames_of(self, clip: int) -> int:
        """Return the number of frames of a clip, counted over all sets."""
        found, index = self.place(clip)
        return found.num_frames(index)

    def num_frames(self, number: int) -> int:
        """Return how many frames clip `number` has."""
        return self.frames_of(self.clips[number])

    def moments(
        self, number: int, frames: Sequence[int], *, flipped: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return mean and deviation (F, 4, h, w) of frames of clip `number`."""
        found, index = self.place(self.clips[number])
        return found.moments(index, frames, flipped=flipped)

    def class_label(self, number: int) -> int | None:
        """Return the class of clip `number` for a run with classes."""
        if not self.has_classes:
            return None
        found, index = self.place(self.clips[number])
        label = found.class_label(index)
        return None if label is None else self.labels[label]

    def context(self, number: int, rng: random.Random, is_dropped: bool) -> Tensor:
        """Return one of the captions of clip `number`, encoded: (n, C).

        For a hidden caption it is the empty one, with as many of its padding rows as the caption
        would have had: what guidance sees (docs/model.md 6.3).
        """
        found, index = self.place(self.clips[number])
        ids = found.caption_ids(index)
        chosen = rng.choice(ids) if ids else found.empty_caption_id
        context = found.context(chosen)
        if not is_dropped:
            return context
        rows = found.empty_rows()
        return (found.context(found.empty_caption_id) if rows is None else rows)[: len(context)]

    def some_captions(self, count: int) -> tuple[str, ...]:
        """Return captions of the first clips, each once."""
        chosen: dict[str, None] = {}
        for clip in self.clips:
            found, index = self.place(clip)
            ids = found.caption_ids(index)
            if ids:
                chosen[found.caption(ids[0])] = None
            if len(chosen) == count:
                break
        return tuple(chosen)


def check_sets(sets: Sequence[LatentSet]) -> None:
    """Refuse sets of different latents, texts or classes."""
    if not sets:
        raise InvalidInputError("There is no prepared set to train on.")
    for what in ("latent_height", "latent_width", "channels", "text_width", "class_names"):
        found = {getattr(one.info, what) for one in sets}
        if len(found) > 1:
            shown = " and ".join(str(one) for one in sorted(found, key=str))
            raise IncompatibleInputsError(
                f"The prepared sets do not belong together: their {what.replace('_', ' ')} is "
                f"{shown}. Prepare them with one model and size."
            )


def check_text(one: LatentSet, task: str, text_width: int | None) -> None:
    """Refuse a set without the text that the model reads."""
    info = one.info
    if task == "text" and info.text_width != text_width:
        found = "no captions" if info.text_width is None else f"captions of width {info.text_width}"
        raise IncompatibleInputsError(
            f"The model reads text of width {text_width}, but the prepared set holds {found}. "
            "Prepare the videos again, with this model's text encoder."
        )


def match_classes(found: Sequence[str], wanted: Sequence[str], num_classes: int) -> tuple[int, ...]:
    """Return the model's label of each class of the data.

    Args:
        found: names of the data's classes.
        wanted: names of the model's classes; empty if they have none.
        num_classes: of the model.

    Raises:
        IncompatibleInputsError: for a class that the model does not have, or without classes.
    """
    if found and wanted:
        missing = [name for name in found if name not in wanted]
        if not missing:
            return tuple(wanted.index(name) for name in found)
        raise IncompatibleInputsError(
            f"The data has classes that the model does not have: {', '.join(missing[:5])}. The "
            f"model's are {', '.join(wanted[:5])} ... Name the folders so, or give an architecture."
        )
    if len(found) != num_classes:
        raise IncompatibleInputsError(
            f"The model has {num_classes} classes, but the prepared set has {len(found)}. Sort the "
            "videos into one folder for each class of the model, or give an architecture with "
            "num_classes."
        )
    return tuple(range(num_classes))
