"""The classes of the videos that one call makes: numbers, names, or drawn from the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from ...checks import MAX_SEED
from ...config.class_names import find_class
from ...config.latte import LatteConfig
from ...errors import IncompatibleInputsError, InvalidInputError
from ...sampling.noise import generator_for
from ...sampling.reference_noise import ReferenceStream

RANDOM = "random"
LABEL_STREAM = 2**63  # keeps the draw of labels apart from that of noise
Label = int | str


def labels_of(
    given: Label | Sequence[Label] | None,
    seeds: Sequence[int],
    count: int,
    config: LatteConfig,
    names: Sequence[str],
    draw: Callable[[int], Sequence[int]] | None = None,
) -> tuple[int, ...] | None:
    """Return the class of each of `count` videos, or None for an unconditional model.

    Args:
        given: numbers, names or `random`; one for all videos, or one for each.
        seeds: what `random` is drawn from; one for all videos, or one for each.
        count: videos.
        config: the model's.
        names: of its classes, in the order of labels; may be empty.
        draw: number of classes -> what `random` means for each video; left out: `random_labels`.

    Raises:
        InvalidInputError: for a class that there is not, naming the nearest, or that is missing.
        IncompatibleInputsError: for a class given to a model that has none.
    """
    classes = config.num_classes
    if config.conditioning == "clip_text":
        raise IncompatibleInputsError(
            "This Latte model is steered by CLIP text, which this pipeline does not encode. "
            "Call the model itself with text_embedding."
        )
    if not classes:
        if given is None:
            return None
        raise IncompatibleInputsError(
            f"The class {given!r} was given, but this model is unconditional: it has no classes. "
            "Leave the class out, or load a class-conditional model such as ucf101."
        )
    if given is None:
        raise InvalidInputError(
            f"This model makes videos of {classes} classes, but no class was given. Give a number "
            f"from 0 to {classes - 1}, {'a name, ' if names else ''}or {RANDOM!r}."
        )
    wanted = [given] if isinstance(given, int | str) else list(given)
    wanted = wanted * count if len(wanted) == 1 else wanted
    if draw is None or not any(map(is_random, wanted)):
        draws = random_labels(seeds, count, classes)
    else:
        draws = draw(classes)
    return tuple(
        drawn if is_random(label) else find_class(label, names, classes)
        for label, drawn in zip(wanted, draws, strict=True)
    )


def random_labels(seeds: Sequence[int], count: int, num_classes: int) -> list[int]:
    """Draw a class for each video: from its own seed, or one after another from a shared one."""
    generators = [generator_for((seed + LABEL_STREAM) % (MAX_SEED + 1)) for seed in seeds]
    return [
        int(torch.randint(num_classes, (), generator=generators[index % len(generators)]))
        for index in range(count)
    ]


def authors_labels(shape: Sequence[int], seed: int | Sequence[int], num_classes: int) -> list[int]:
    """Draw a class for each video as the authors' scripts do under guidance (docs/model.md 7.2).

    Args:
        shape: (B, 4, F, h, w) of the start noise, which the stream gives first.
        seed: of all videos, or one for each.
        num_classes: to draw from.
    """
    stream = ReferenceStream(shape, seed, is_guided=True)
    stream.draw_start()
    return [int(label) for label in stream.draw_labels(num_classes)]


def is_random(label: Label) -> bool:
    """Return whether a label is the word `random`."""
    return isinstance(label, str) and label.strip().lower() == RANDOM


def is_listed(value: object) -> bool:
    """Return whether a value is several, or a list of one."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def count_videos(
    class_labels: Label | Sequence[Label] | None,
    seed: int | Sequence[int],
    latents: Tensor | None,
) -> int:
    """Return how many videos are asked for: lists of one serve all, others must agree.

    Raises:
        InvalidInputError: if there are none, or latents are not (N, 4, F, h, w).
        IncompatibleInputsError: if two lists differ in length.
    """
    if latents is not None and (latents.ndim != 5 or 0 in latents.shape):
        raise IncompatibleInputsError(
            f"The given latents have shape {tuple(latents.shape)}, but a batch of videos is "
            "(videos, 4, frames, height, width)."
        )
    counts = {
        "class_labels": _length(class_labels),
        "seed": _length(seed),
        "latents": 1 if latents is None else len(latents),
    }
    count = max(counts.values())
    wrong = [name for name, found in counts.items() if found not in (1, count)]
    if 0 in counts.values() or wrong:
        listed = ", ".join(f"{found} in {name}" for name, found in counts.items())
        raise IncompatibleInputsError(
            f"These do not go together: {listed}. Give one of each, or as many as there are videos."
        )
    return count


def _length(value: object) -> int:
    return len(cast("Sequence[object]", value)) if is_listed(value) else 1
