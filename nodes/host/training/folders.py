"""Names and folders of a training: data under ComfyUI's input folder, runs under its output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ....latte_core.errors import InvalidInputError

RUNS = "latte_training"
DEFAULT_RUN = "my_training"
SET_FILE = "set.json"
STATUS_FILE = "status.json"
MOST_BYTES = 100  # of a name; ".safetensors" and a temporary ending still have to fit
UNUSUAL = re.compile(r"[^\w .-]")
# Windows opens a device under these names, whatever follows after a dot.
NUMBERED = tuple("0123456789\u00b9\u00b2\u00b3")
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{n}" for kind in ("COM", "LPT") for n in NUMBERED)}


def data_names() -> list[str]:
    """Return the folders in ComfyUI's input folder that hold a prepared set or videos."""
    try:
        import folder_paths
    except ImportError:
        return []
    root = Path(folder_paths.get_input_directory())
    return sorted(folder.name for folder in folders_in(root) if holds_data(folder))


def folders_in(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder that hold data; none where it cannot be read."""
    from ....latte_core.video.listing import is_left_behind

    with suppress(OSError):
        for entry in folder.iterdir():
            if not is_left_behind(entry) and entry.is_dir():
                yield entry


def holds_data(folder: Path) -> bool:
    """Whether a folder is a prepared set, or has clips in it or in a folder of a class.

    Looks no further than the first clip, since the page asks for this list often.
    """
    if (folder / SET_FILE).is_file() or holds_video(folder):
        return True
    return any(holds_video(inner) or holds_picture(inner) for inner in folders_in(folder))


def holds_video(folder: Path) -> bool:
    """Whether a video lies in a folder."""
    from ....latte_core.data.folder_contents import is_video
    from ....latte_core.video.listing import is_left_behind

    with suppress(OSError):
        return any(is_video(entry) for entry in folder.iterdir() if not is_left_behind(entry))
    return False


def holds_picture(folder: Path) -> bool:
    """Whether a picture lies in a folder; a folder of pictures is a clip."""
    from ....latte_core.video.pictures import is_picture

    with suppress(OSError):
        return any(is_picture(entry) for entry in folder.iterdir())
    return False


def locate_data(name: str) -> Path:
    """Return the folder behind a listed name.

    Raises:
        InvalidInputError: for every other name, saying where it was sought.
    """
    listed = data_names()
    if name not in listed:
        raise InvalidInputError(
            f"data is {name!r}, which is none of the {len(listed)} folders with videos, or with a "
            "prepared set, in ComfyUI's input folder. Put the folder there and press R, or choose "
            "a listed one."
        )
    import folder_paths

    return Path(folder_paths.get_input_directory()) / name


def runs_folder() -> Path:
    """Return the folder of all runs, in ComfyUI's output folder."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / RUNS


def safe_name(text: object) -> str:
    """Turn what was typed into the name of one folder on every system; a name stays as it is.

    Separators, control characters and the like become underscores, so that no name leads out of
    the folder of runs.

    Raises:
        InvalidInputError: for what is not text.
    """
    if not isinstance(text, str):
        raise InvalidInputError(
            f"The name of a run is {text!r}, but it must be text. Connect the run output of "
            '"Latte Train", or type a name.'
        )
    name = UNUSUAL.sub("_", text).strip(". ")
    name = name.encode("utf-8")[:MOST_BYTES].decode("utf-8", "ignore").rstrip(". ")
    if name.partition(".")[0].rstrip().upper() in DEVICES:
        name = f"_{name}"
    return name or DEFAULT_RUN


def run_folder(name: object) -> Path:
    """Return the folder of a run, which need not exist.

    Raises:
        InvalidInputError: if the name is a link that leads elsewhere.
    """
    root = runs_folder()
    folder = root / safe_name(name)
    if folder.resolve().parent != root.resolve():
        raise InvalidInputError(
            f"{folder.name} in output/{RUNS} is a link that leads out of this folder. Remove the "
            "link, or choose another name for the run."
        )
    return folder


def existing_run(name: object) -> Path:
    """Return the folder of a run that was started.

    Raises:
        InvalidInputError: if there is none of this name, naming those that there are.
    """
    folder = run_folder(name)
    if folder.is_dir():
        return folder
    others = sorted(one.name for one in folders_in(folder.parent))
    raise InvalidInputError(
        f"There is no run {folder.name!r} in output/{RUNS}. There "
        f"{'is' if len(others) == 1 else 'are'} {', '.join(others) or 'none yet'}. Type one of "
        'them, or start a run with "Latte Train".'
    )
