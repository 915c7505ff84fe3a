"""The little of ComfyUI that the training nodes use, on folders of a test's own.

As a script it is a ComfyUI that starts a training and then does nothing, until it is killed:

    python tests/support/comfy/stand_in.py BASE WIDGETS-AS-JSON
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

STARTED = "started"


class Interrupted(Exception):
    """What ComfyUI raises when Cancel was pressed."""


@dataclass
class StandIn:
    """What the nodes did to it, and how it answers.

    Args:
        base: the folder that has input, output, temp and models in it.
        is_cancelled: whether Cancel was pressed.
        unloaded: how often models were unloaded.
        shown: what the progress bar was told: updates, all of them, format of the preview.
    """

    base: Path
    is_cancelled: bool = False
    unloaded: int = 0
    shown: list[tuple[int, int, str | None]] = field(default_factory=list)

    def folder(self, name: str) -> str:
        """Return one of the folders, made if need be."""
        folder = self.base / name
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def models(self, category: str) -> list[str]:
        """Return the folders of a kind of models; as in ComfyUI, the old one comes first."""
        names = ["unet", category] if category == "diffusion_models" else [category]
        return [self.folder(f"models/{name}") for name in names]

    def files(self, category: str) -> list[str]:
        """Return the weights in these folders, by their names."""
        roots = [Path(one) for one in self.models(category)]
        return sorted(
            str(path.relative_to(root)) for root in roots for path in root.rglob("*.safetensors")
        )

    def full_path(self, category: str, name: str) -> str:
        """Return where a listed file is."""
        found = [Path(root) / name for root in self.models(category)]
        return str(next(path for path in found if path.is_file()))

    def check(self) -> None:
        """Raise if Cancel was pressed."""
        if self.is_cancelled:
            raise Interrupted

    def unload(self) -> None:
        """Count."""
        self.unloaded += 1

    def bar(self, total: int) -> Any:
        """Return a progress bar."""
        return Bar(self)

    def modules(self) -> dict[str, ModuleType]:
        """Return what `sys.modules` has to hold."""
        management = {
            "get_torch_device": lambda: "cpu",
            "should_use_bf16": lambda device: False,
            "unload_all_models": self.unload,
            "soft_empty_cache": lambda: None,
            "throw_exception_if_processing_interrupted": self.check,
        }
        folders = {
            "get_input_directory": lambda: self.folder("input"),
            "get_output_directory": lambda: self.folder("output"),
            "get_temp_directory": lambda: self.folder("temp"),
            "get_folder_paths": self.models,
            "get_filename_list": self.files,
            "get_full_path_or_raise": self.full_path,
        }
        made = {
            "folder_paths": make_module("folder_paths", folders),
            "comfy.model_management": make_module("comfy.model_management", management),
            "comfy.utils": make_module("comfy.utils", {"ProgressBar": self.bar}),
        }
        inner = {name.partition(".")[2]: one for name, one in made.items() if "." in name}
        return {"comfy": make_module("comfy", inner), **made}


class Bar:
    """Writes down what it is told."""

    def __init__(self, host: StandIn) -> None:
        self.host = host

    def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
        """Write down one update."""
        self.host.shown.append((value, total, None if preview is None else preview[0]))


def make_module(name: str, values: dict[str, Any]) -> ModuleType:
    """Return a module that holds these values."""
    module = ModuleType(name)
    vars(module).update(values)
    return module


def main() -> None:
    """Start a training, say so, and wait to be killed."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from pack import load_pack

    node = load_pack().NODE_CLASS_MAPPINGS["LatteTrain"]
    sys.modules.update(StandIn(Path(sys.argv[1])).modules())
    node().train(**json.loads(sys.argv[2]))
    sys.stdout.write(f"{STARTED}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
