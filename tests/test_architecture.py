"""The rules every file of the pack keeps: who imports whom, no shared state, nothing unsafe.

Each test walks all files and lists every line that breaks its rule.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from latte_test_support.source import (
    PACK_FOLDERS,
    ROOT,
    changed_names,
    imports_of,
    mutable_names,
    parse,
    python_files,
)

# Packages of one row never import each other; a package imports from the rows above it.
LAYERS = (
    {"errors", "checks", "types", "text_files", "setting_files", "files", "devices", "transfers"}
    | {"lazy"},
    {"config", "meta_modules", "shipped"},
    {"kernels"},
    {"model", "vae", "text", "diffusion", "video"},
    {"precision"},
    {"checkpoint", "sampling", "acceleration", "memory"},
    {"pipelines"},
    {"data"},
    {"training", "metrics", "distributed"},
    {"starter"},
    {"cli"},
)
SINGLE_MODULES = LAYERS[0] | LAYERS[1]  # may import in their own row
SAME_AS = {"__main__": "cli"}
HOST_MODULES = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "latent_preview", "execution",
                "node_helpers", "server"}  # fmt: skip
NEEDED_PACKAGES = {"torch", "einops", "safetensors"}  # what importing latte_core may ask for
LATE_MODULES = {  # ask for Triton, and are imported by functions alone
    "latte_core.kernels.programs",
    "latte_core.kernels.eight_bit_programs",
}
MAX_LINES = 450
TORCH_LOAD_FILES = {
    "latte_core/checkpoint/reading/reader.py",  # behind its own checks of the archive
    "latte_core/training/state.py",  # files that the training wrote itself
}
REVIEWED_IMPORTS = {
    "pickle": {"latte_core/checkpoint/reading/reader.py"},  # names an exception class
    "subprocess": {
        "latte_core/kernels/ops.py",  # names an exception class
        "latte_core/video/ffmpeg.py",  # runs the encoder
        "nodes/host/training/process.py",  # runs a training
    },
    "multiprocessing": set[str](),
    "socket": set[str](),
    "urllib.request": set[str](),
    "http": set[str](),
    "requests": set[str](),
    "huggingface_hub": set[str](),
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}

CORE_FILES = python_files("latte_core")
PACK_FILES = python_files(*PACK_FOLDERS)


def name_of(path: Path) -> str:
    """Return a file's name from the root."""
    return path.relative_to(ROOT).as_posix()


def root_of(module: str) -> str:
    """Return the first piece of a dotted name."""
    return module.partition(".")[0]


def part_of(module: str) -> str:
    """Return the part of latte_core that a dotted name belongs to, "" for the package itself."""
    piece = module.split(".")[1] if "." in module else ""
    is_module = (ROOT / "latte_core" / piece).is_dir() or (
        ROOT / "latte_core" / f"{piece}.py"
    ).is_file()
    return SAME_AS.get(piece, piece) if is_module else ""


def row_of(part: str) -> int:
    """Return the part's place in the import order."""
    return next(row for row, parts in enumerate(LAYERS) if part in parts)


def is_allowed(importer: str, imported: str) -> bool:
    """Whether one part of latte_core may import another."""
    if imported in (importer, ""):
        return True
    if importer in SINGLE_MODULES and imported in SINGLE_MODULES:
        return row_of(imported) <= row_of(importer)
    return row_of(imported) < row_of(importer)


def calls_in(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call of a file and the text of what is called."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def require_none(broken: list[str]) -> None:
    """Fail with one line for each place that breaks the rule."""
    assert not broken, "\n" + "\n".join(broken)


def test_every_part_of_core_has_a_place_in_the_import_order() -> None:
    known = {*SAME_AS, "__init__", "assets"}.union(*LAYERS)
    parts = {path.stem for path in (ROOT / "latte_core").iterdir() if path.stem[0] != "."}
    assert parts - known - {"__pycache__"} == set()


def test_core_imports_only_what_lies_before_it() -> None:
    broken: list[str] = []
    for path in CORE_FILES:
        importer = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if importer in ("__init__", ""):
            continue  # the public face names every part
        inside = [one for one in imports_of(path) if root_of(one.name) == "latte_core"]
        broken += [str(one) for one in inside if not is_allowed(importer, part_of(one.name))]
    require_none(broken)


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("model", "text", False),
        ("sampling", "model", True),
        ("model", "sampling", False),
        ("types", "errors", True),
        ("errors", "config", False),
        ("cli", "pipelines", True),
        ("checkpoint", "sampling", False),
    ],
)
def test_the_import_order_is_read_as_it_is_meant(
    importer: str, imported: str, expected: bool
) -> None:
    assert is_allowed(importer, imported) is expected


def test_core_knows_nothing_of_comfyui() -> None:
    hosts = {*HOST_MODULES, "nodes"}
    found = [one for path in CORE_FILES for one in imports_of(path)]
    require_none([str(one) for one in found if root_of(one.name) in hosts])


def test_nodes_reach_comfyui_only_through_host() -> None:
    outside = [path for path in python_files("nodes") if "host" not in path.parts]
    found = [one for path in outside for one in imports_of(path)]
    require_none([str(one) for one in found if root_of(one.name) in HOST_MODULES])


def test_imports_inside_the_pack_are_relative() -> None:
    found = [one for path in PACK_FILES for one in imports_of(path) if not one.is_relative]
    require_none([str(one) for one in found if root_of(one.name) in PACK_FOLDERS])


def test_importing_core_asks_for_torch_and_its_small_companions_alone() -> None:
    known = {*sys.stdlib_module_names, *NEEDED_PACKAGES, "__future__"}
    found = [one for path in CORE_FILES for one in imports_of(path)]
    at_import = [one for one in found if one.at_import]
    require_none([str(one) for one in at_import if one.name in LATE_MODULES])
    late = {module.replace(".", "/") + ".py" for module in LATE_MODULES}
    absolute = [one for one in at_import if not one.is_relative and one.file not in late]
    require_none([str(one) for one in absolute if root_of(one.name) not in known])


def test_no_list_or_dict_of_a_module_is_ever_changed() -> None:
    broken: list[str] = []
    for path in PACK_FILES:
        tree = parse(path)
        constants, changed = mutable_names(tree), changed_names(tree)
        broken += [
            f"{name_of(path)}:{changed[name]} changes {name}" for name in constants.keys() & changed
        ]
        broken += [
            f"{name_of(path)}:{line} {name} looks like state; constants are in capitals"
            for name, line in constants.items()
            if name not in (name.upper(), "__all__")
        ]
    require_none(broken)


def test_no_state_hides_in_globals_or_function_caches() -> None:
    broken: list[str] = []
    for path in PACK_FILES:
        for node in ast.walk(parse(path)):
            decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            hides = any("cache" in text.partition("(")[0] for text in decorators)
            if isinstance(node, ast.Global) or hides:
                broken.append(f"{name_of(path)}:{getattr(node, 'lineno', 0)}")
    require_none(broken)


def test_nothing_runs_text() -> None:
    require_none(
        [
            f"{name_of(path)}:{call.lineno} {name}"
            for path in PACK_FILES
            for call, name in calls_in(path)
            if name in FORBIDDEN_CALLS
        ]
    )


def test_torch_load_stands_in_two_reviewed_files_and_never_runs_code() -> None:
    broken: list[str] = []
    for path in PACK_FILES:
        for call, name in calls_in(path):
            words = {word.arg: ast.unparse(word.value) for word in call.keywords}
            is_safe = words.get("weights_only") == "True" and name_of(path) in TORCH_LOAD_FILES
            if name == "torch.load" and not is_safe:
                broken.append(f"{name_of(path)}:{call.lineno}")
    require_none(broken)


def test_processes_pickle_and_network_stay_where_they_are_reviewed() -> None:
    found = [one for path in PACK_FILES for one in imports_of(path)]
    broken: list[str] = []
    for module, files in REVIEWED_IMPORTS.items():
        uses = [one for one in found if f"{one.name}.".startswith(f"{module}.")]
        broken += [str(one) for one in uses if one.file not in files]
    require_none(broken)


def test_no_device_is_named_in_code() -> None:
    broken: list[str] = []
    for path in PACK_FILES:
        for node in ast.walk(parse(path)):
            text = node.value if isinstance(node, ast.Constant) else None
            is_literal = isinstance(text, str) and (text == "cuda" or text.startswith("cuda:"))
            is_call = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".cuda")
            if is_literal or is_call:
                broken.append(f"{name_of(path)}:{getattr(node, 'lineno', 0)}")
    require_none(broken)


def test_only_the_command_line_prints() -> None:
    silent = [path for path in PACK_FILES if "cli" not in path.parts]
    require_none(
        [
            f"{name_of(path)}:{call.lineno}"
            for path in silent
            for call, name in calls_in(path)
            if name == "print"
        ]
    )


def test_no_file_outgrows_a_readers_head() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PACK_FILES
    }
    require_none([f"{name}: {lines} lines" for name, lines in lengths.items() if lines > MAX_LINES])


def test_python_files_are_ascii() -> None:
    data = ROOT / "tests" / "data"
    broken: list[str] = []
    for path in python_files():
        if path.is_relative_to(data):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        broken += [f"{name_of(path)}:{i}" for i, line in enumerate(lines, 1) if not line.isascii()]
    require_none(broken)
