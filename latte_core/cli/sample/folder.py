"""A folder of videos that `sample` fills, and goes on filling after it was stopped.

Each video has a number, a seed and a file name of its own, and the list `videos.json` says what
every file shows. A video takes its name when it is whole, so what has its name is never made again.
Several processes may fill one folder: each makes its share, and all of them write the same list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ...errors import CorruptCheckpointError, InvalidInputError
from ...files import atomic_write, read_json
from ...version import __version__
from ...video.frame_folder import remove_unfinished
from .jobs import FRAMES, Job, Maker, in_batches
from .output import Output, make_batch, say_written
from .precision import PRODUCT
from .share import Share

LIST_NAME = "videos.json"
DIGITS = 6  # of file names
ADVICE = "Choose another --output-dir, or give the settings that it was begun with."
Values = Mapping[str, Any]


def fill_folder(
    maker: Maker, jobs: Sequence[Job], folder: Path, ending: str, output: Output, share: Share
) -> None:
    """Make the videos that a folder lacks; a run that was stopped goes on where it was.

    Args:
        maker: makes them.
        jobs: every video of the folder.
        folder: made if it is missing.
        ending: of the files, or `frames` for folders of pictures.
        output: writes them.
        share: which of the videos this process makes.

    Raises:
        InvalidInputError: if the folder holds videos of another run.
    """
    suffix = "" if ending == FRAMES else f".{ending}"
    targets = [folder / f"{job.index:0{DIGITS}d}{suffix}" for job in jobs]
    batches = in_batches(list(zip(jobs, targets, strict=True)), maker.batch)
    # Whole batches are shared out, so that what a video is made with depends on no other process.
    shared = [batch for number, batch in enumerate(batches) if share.has(number)]
    own = [pair for batch in shared for pair in batch]
    if share.world > 1:
        print(f"Process {share.rank} of {share.world}: {len(own)} of {len(jobs)} videos.")
    if not own:
        return
    output.check(own[0][1], maker.size)
    run = _asked_for(
        {**maker.recipe, "fps": output.fps, "upscale": output.factor, "ending": ending}
    )
    listed = [
        {"file": target.name, **maker.describe(job)}
        for job, target in zip(jobs, targets, strict=True)
    ]
    before = _listed_before(folder, run, listed)
    missing = [pair for pair in own if not pair[1].exists()]
    if len(missing) < len(own):
        print(f"{len(own) - len(missing)} of {len(own)} videos are in {folder} already.")
    is_listed = False
    for batch in shared:
        lacking = {target for _, target in batch if not target.exists()}
        if not lacking:
            continue
        for target in lacking:
            _remove_unfinished(target)
        # A batch is made whole, also where a video of it is there: what a video is made with
        # decides its last bits.
        made = make_batch(maker, [job for job, _ in batch], output)
        for (job, target), frames in zip(batch, made, strict=True):
            if not is_listed:  # not earlier: settings that fail leave no list behind
                _write_list(folder, run, listed if len(listed) > len(before) else before)
                is_listed = True
            if target in lacking:
                output.write(target, frames, {**maker.describe(job), **maker.recipe})
                say_written(target, frames, output)


def _asked_for(recipe: Values) -> Values:
    """Return a recipe without what no option gives, so that it cannot keep a folder from growing.

    The file of each clip still says it.
    """
    return {name: value for name, value in recipe.items() if name != PRODUCT}


def _listed_before(folder: Path, run: Values, listed: Sequence[Values]) -> list[Values]:
    """Return the list of the videos of a folder, empty for a new one.

    Raises:
        InvalidInputError: if it belongs to another run, or there are videos but no list.
    """
    path = folder / LIST_NAME
    # Looked for before the list is: another process may be writing both, the list first.
    found = next((one["file"] for one in listed if (folder / one["file"]).exists()), None)
    if path.is_file():
        was, videos = _read_list(path)
        _require_same(folder, _asked_for(was), json.loads(json.dumps(run)))
        for one, other in zip(videos, json.loads(json.dumps(listed)), strict=False):
            _require_same(folder, one, other)
        return videos
    if found is None:
        return []
    raise InvalidInputError(
        f"{folder.name} holds {found} but no {LIST_NAME}, so it was not made by this command. "
        f"{ADVICE}"
    )


def _read_list(path: Path) -> tuple[Values, list[Values]]:
    """Return how the videos of a folder were made, and what each of them shows."""
    try:
        values = read_json(path)
    except CorruptCheckpointError:
        values = {}
    run: object = values.get("run")
    videos: object = values.get("videos")
    if not isinstance(run, dict) or not isinstance(videos, list):
        raise InvalidInputError(
            f"{path.name} in {path.parent.name} does not say how its videos were made. {ADVICE}"
        )
    return cast("Values", run), cast("list[Values]", videos)


def _require_same(folder: Path, then: Values, now: Values) -> None:
    """Refuse to go on with other settings than those the folder was begun with."""
    for key in {**then, **now}:
        if then.get(key) != now.get(key):
            raise InvalidInputError(
                f"{folder.name} holds videos of another run: {key} was {then.get(key)!r}, but is "
                f"{now.get(key)!r} now. {ADVICE}"
            )


def _write_list(folder: Path, run: Values, videos: Sequence[Values]) -> None:
    """Write what every file of the folder shows."""
    values = {"latte": __version__, "run": dict(run), "videos": list(videos)}
    with atomic_write(folder / LIST_NAME) as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _remove_unfinished(target: Path) -> None:
    """Remove what a killed run left of this video."""
    if not target.suffix:
        remove_unfinished(target)
        return
    for partial in target.parent.glob(f".{target.stem}.*.part{target.suffix}"):
        partial.unlink(missing_ok=True)
