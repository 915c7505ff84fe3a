"""Where model files lie: ComfyUI's folders, by listed names only, and the pack's own starter."""

from __future__ import annotations

from pathlib import Path

from ...latte_core.errors import InvalidInputError

STARTER = "starter"
FOLDER_MARK = "/"
STARTER_FOLDER = Path(__file__).resolve().parents[2] / "latte_core" / "assets" / "starter"
TRANSFORMER_CONFIG = Path("transformer") / "config.json"


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
    """Return what a loader offers: the starter, Latte folders, then files of one category."""
    return [STARTER, *latte_folders(), *listed_files(category)]


def locate(name: str, category: str, widget: str) -> Path:
    """Turn a listed name into the file or folder it stands for.

    Raises:
        InvalidInputError: for every name that ComfyUI does not list, saying where it was sought.
    """
    if name == STARTER:
        return starter_folder()
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


def starter_folder() -> Path:
    """Return the folder of the starter model that ships inside the pack.

    Raises:
        InvalidInputError: if this copy of the pack came without it.
    """
    if not (STARTER_FOLDER / TRANSFORMER_CONFIG).is_file():
        raise InvalidInputError(
            "The starter model is missing: this copy of the pack has no files in "
            "latte_core/assets/starter. Install the pack again, whole."
        )
    return STARTER_FOLDER


def fingerprint(name: str, category: str, widget: str) -> str:
    """Return a text that changes when the file behind a name does, for ComfyUI's cache."""
    path = locate(name, category, widget)
    files = [path] if path.is_file() else sorted(path.glob("*/*.*"))
    stats = [file.stat() for file in files]
    return ";".join(f"{stat.st_mtime_ns}-{stat.st_size}" for stat in stats)
