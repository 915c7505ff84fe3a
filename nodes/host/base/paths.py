"""Where files lie: ComfyUI's folders, by listed names only, and the pack's own starters."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from ....latte_core.acceleration.schedule_file import FOLDER as SHIPPED_SCHEDULES
from ....latte_core.config.ucf101 import UCF101_CLASSES
from ....latte_core.errors import CheckpointError, InvalidInputError

STARTER = "starter"
CLASS_STARTER = "class-starter"
FOLDER_MARK = "/"
MODELS = "diffusion_models"
SCHEDULES = "latte_schedules"
ASSETS = Path(__file__).resolve().parents[3] / "latte_core" / "assets"
STARTER_FOLDER = ASSETS / "starter"
CLASS_STARTER_FOLDER = ASSETS / "class_starter"
TRANSFORMER_CONFIG = Path("transformer") / "config.json"
MOST_BYTES = 100  # of a name; ".safetensors" and a temporary ending still have to fit
UNUSUAL = re.compile(r"[^\w .-]")
# Windows opens a device under these names, whatever follows after a dot.
NUMBERED = tuple("0123456789\u00b9\u00b2\u00b3")
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{n}" for kind in ("COM", "LPT") for n in NUMBERED)}


def safe_name(text: str) -> str:
    """Turn what was typed into one name of a file or folder on every system.

    Separators, control characters and the like become underscores, so that no name leads out of
    its folder. A name that was made so stays as it is.

    Returns:
        "" for nothing but dots and spaces.
    """
    name = UNUSUAL.sub("_", text).strip(". ")
    name = name.encode("utf-8")[:MOST_BYTES].decode("utf-8", "ignore").rstrip(". ")
    if name.partition(".")[0].rstrip().upper() in DEVICES:
        name = f"_{name}"
    return name


def listed_files(category: str) -> list[str]:
    """Return the names ComfyUI lists in one of its model folders; nothing outside ComfyUI."""
    try:
        import folder_paths
    except ImportError:
        return []
    return list(folder_paths.get_filename_list(category))


def latte_folders() -> dict[str, Path]:
    """Return the folders of models/diffusers that are laid out like Latte-1, by option name."""
    try:
        import folder_paths
    except ImportError:
        return {}
    found: dict[str, Path] = {}
    for root in folder_paths.get_folder_paths("diffusers"):
        for config in sorted(Path(root).glob(f"*/{TRANSFORMER_CONFIG.as_posix()}")):
            folder = config.parents[1]
            found.setdefault(folder.name + FOLDER_MARK, folder)
    return found


def options(category: str) -> list[str]:
    """Return what a loader offers: the starters, Latte folders, then files of one category.

    The class starter is a transformer alone; text it does not read, and its VAE is the starter's.
    """
    has_classes = category == MODELS and is_there(CLASS_STARTER_FOLDER)
    starters = [STARTER, CLASS_STARTER] if has_classes else [STARTER]
    return [*starters, *latte_folders(), *listed_files(category)]


def is_there(folder: Path) -> bool:
    """Whether a model's folder is in this copy of the pack."""
    return (folder / TRANSFORMER_CONFIG).is_file()


def class_names() -> list[str]:
    """Return the classes that can be chosen by name: UCF101's in the order of their labels, then
    those of the class starter and of the Latte folders that say theirs.
    """
    from ....latte_core.pipelines.classes.parts import listed_names

    names = list(UCF101_CLASSES)
    for folder in (CLASS_STARTER_FOLDER, *latte_folders().values()):
        with suppress(CheckpointError, OSError):
            names.extend(listed_names(folder))
    return list(dict.fromkeys(names))


def first_class() -> str:
    """Return the class that a new node shows: one of the class starter, which needs no download."""
    from ....latte_core.pipelines.classes.parts import listed_names

    own: tuple[str, ...] = ()
    with suppress(CheckpointError, OSError):
        own = listed_names(CLASS_STARTER_FOLDER)
    return own[0] if own else UCF101_CLASSES[0]


def locate(name: str, category: str, widget: str) -> Path:
    """Turn a listed name into the file or folder it stands for.

    Raises:
        InvalidInputError: for every name that ComfyUI does not list, saying where it was sought.
    """
    if name == STARTER:
        return starter_folder(STARTER_FOLDER)
    if name == CLASS_STARTER and category == MODELS:
        return starter_folder(CLASS_STARTER_FOLDER)
    folders = latte_folders()
    if name in folders:
        return folders[name]
    if name not in listed_files(category):
        raise InvalidInputError(
            f"{widget} is {name!r}, which is none of the {len(listed_files(category))} files in "
            f"the {category} folder nor of the {len(folders)} Latte folders in models/diffusers. "
            "Put the file there and refresh, or choose a listed one."
        )
    import folder_paths

    return Path(folder_paths.get_full_path_or_raise(category, name))


def starter_folder(folder: Path) -> Path:
    """Return the folder of a starter model that ships inside the pack.

    Raises:
        InvalidInputError: if this copy of the pack came without it.
    """
    if not is_there(folder):
        raise InvalidInputError(
            "The starter model is missing: this copy of the pack has no files in "
            f"latte_core/assets/{folder.name}. Install the pack again, whole."
        )
    return folder


def schedule_files() -> dict[str, Path]:
    """Return the cache schedules in models/latte_schedules and those that models came with, by
    name, such as steps.json and starter/ddim-50.json; nothing outside ComfyUI.
    """
    folder = schedule_folder()
    if folder is None:
        return {}
    found = {path.name: path for path in sorted(folder.glob("*.json"))}
    models = [(STARTER, STARTER_FOLDER), (CLASS_STARTER, CLASS_STARTER_FOLDER)]
    for model, place in [*models, *latte_folders().items()]:
        for path in sorted((place / SHIPPED_SCHEDULES).glob("*.json")):
            found.setdefault(f"{model.rstrip(FOLDER_MARK)}{FOLDER_MARK}{path.name}", path)
    return found


def schedule_folder() -> Path | None:
    """Return models/latte_schedules, which need not exist; None outside ComfyUI."""
    try:
        import folder_paths
    except ImportError:
        return None
    return Path(folder_paths.models_dir) / SCHEDULES


def new_schedule(file_name: object) -> Path:
    """Return where a calibration writes its file: one place in models/latte_schedules, whatever
    was typed.

    Raises:
        InvalidInputError: if no name was typed.
    """
    folder = schedule_folder()
    typed = file_name.strip().removesuffix(".json") if isinstance(file_name, str) else ""
    if folder is None or not typed.strip(". "):
        raise InvalidInputError(
            f"file_name is {file_name!r}, but it must be a name for a file in models/{SCHEDULES}, "
            "such as latte_ddim_50. Type one."
        )
    return folder / f"{safe_name(typed)}.json"


def schedules() -> list[str]:
    """Return their names."""
    return list(schedule_files())


def locate_schedule(name: str) -> Path:
    """Turn a listed cache schedule into its file.

    Raises:
        InvalidInputError: for every other name, saying where it was sought.
    """
    files = schedule_files()
    if name not in files:
        raise InvalidInputError(
            f"schedule is {name!r}, which is none of the {len(files)} files in models/{SCHEDULES} "
            'and beside models. Make one with "Latte Calibrate" or with \'python -m latte_core '
            "calibrate', put it there and refresh, or choose auto."
        )
    return files[name]


def schedule_fingerprint(name: str) -> str:
    """Return a text that changes when the file of a cache schedule does."""
    stat = locate_schedule(name).stat()
    return f"{stat.st_mtime_ns}-{stat.st_size}"


def fingerprint(name: str, category: str, widget: str) -> str:
    """Return a text that changes when the file behind a name does, for ComfyUI's cache."""
    path = locate(name, category, widget)
    files = [path] if path.is_file() else sorted([*path.glob("*.json"), *path.glob("*/*.*")])
    stats = [file.stat() for file in files]
    return ";".join(f"{stat.st_mtime_ns}-{stat.st_size}" for stat in stats)
