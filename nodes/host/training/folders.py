"""Names and folders of a training: data under ComfyUI's input folder, runs under its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ....latte_core.errors import InvalidInputError
from ..base.paths import safe_name

RUNS = "latte_training"
DEFAULT_RUN = "my_training"
SET_FILE = "set.json"


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
    if (folder / SET_FILE).is_file():
        return True
    from ....latte_core.data.folder_contents import is_video
    from ....latte_core.video.pictures import is_picture

    # a folder of pictures is a clip
    return holds(folder, is_video) or any(
        holds(inner, is_video) or holds(inner, is_picture) for inner in folders_in(folder)
    )


def holds(folder: Path, is_wanted: Callable[[Path], bool]) -> bool:
    """Whether a file of a kind lies in a folder; not where it cannot be read."""
    from ....latte_core.video.listing import is_left_behind

    with suppress(OSError):
        return any(is_wanted(one) for one in folder.iterdir() if not is_left_behind(one))
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


def name_of_run(text: object) -> str:
    """Turn what was typed into the name of a run, which leads nowhere but into the folder of runs.

    Raises:
        InvalidInputError: for what is not text.
    """
    if not isinstance(text, str):
        raise InvalidInputError(
            f"The name of a run is {text!r}, but it must be text. Connect the run output of "
            '"Latte Train", or type a name.'
        )
    return safe_name(text) or DEFAULT_RUN


def run_folder(name: object) -> Path:
    """Return the folder of a run, which need not exist.

    Raises:
        InvalidInputError: if the name is a link that leads elsewhere.
    """
    root = runs_folder()
    folder = root / name_of_run(name)
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
