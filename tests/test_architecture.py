"""The rules every file of the pack keeps: who imports whom, no shared state, nothing unsafe.

Each test walks all files and lists every line that breaks its rule.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from latte_test_support.house import (
    FILES,
    Arrow,
    Floors,
    alike,
    arrows_in,
    circle_of,
    goes_down,
    misplaced,
    overfull,
    room_of,
)
from latte_test_support.pack import tracked_files
from latte_test_support.source import (
    PACK_FOLDERS,
    ROOT,
    changed_names,
    imports_of,
    mutable_names,
    parse,
    python_files,
)

# Rooms and files of one line stand side by side: rooms of a line never import each other. Each line
# imports from those above it in its folder. `FILES` are files of the folder that are not named.
FLOORS: Floors = {
    "latte_core": (
        ("errors", "checks", "types", "text_files", "setting_files")
        + ("files", "devices", "transfers", "lazy", "version"),
        ("config", "meta_modules", "shipped"),
        ("kernels",),
        ("model", "vae", "text", "diffusion", "video"),
        ("precision",),
        ("checkpoint", "sampling", "acceleration", "memory"),
        ("pipelines",),
        ("data",),
        ("training", "metrics"),
        ("starter",),
        ("cli",),
        ("__main__",),
    ),
    "latte_core/checkpoint": (
        ("reading",),
        ("recognition",),
        ("loading",),
        ("writing",),
        ("lora",),
        ("conversion",),
    ),
    "latte_core/model": ((FILES,), ("t2v", "latte"), ("weights",)),
    "latte_core/pipelines": ((FILES,), ("text", "classes"), ("calibration",)),
    "latte_core/data": (("sets",), (FILES,)),
    "nodes": (
        ("host",),
        (FILES,),
        ("acceleration", "conditioning", "latents", "loaders", "sampling", "training"),
    ),
    "nodes/host": (("base",), ("text", "vae"), ("model",), ("run",), ("training",)),
    "benchmarks": (("measuring",), ("ways",), ("gpu_sections",), (FILES,)),
    "tests/support": (("tiny",), (FILES,), ("comfy", "kernels", "workflows")),
}
ONE_ROOM = ("latte_core/cli",)  # `sample` is a command of several files, which others build on
HOUSES = {  # folder -> the name by which its files are imported, besides relatively
    "latte_core": "latte_core",
    "nodes": "nodes",
    "benchmarks": "",
    "tests/support": "latte_test_support",
    "tests/comfyui/inside": "",
    "tests/fake_cuda/tool": "latte_fake_cuda",
}
PAGE = ROOT / "docs" / "architecture.md"
PATH_ENDS = (".py", ".json", ".md")
SVG = "http://www.w3.org/2000/svg"
PICTURED = {FILES: "files"}  # what the picture calls them
MOST_FILES = 24  # in a folder: more is a list that nobody reads
MOST_ALIKE = 3  # files of a folder that share a first word: more want a folder of that name
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


@cache
def arrows_of(folder: str) -> list[Arrow]:
    """Return the arrows in one of the houses."""
    return arrows_in(folder, HOUSES[folder])


def calls_in(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call of a file and the text of what is called."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def require_none(broken: list[str]) -> None:
    """Fail with one line for each place that breaks the rule."""
    assert not broken, "\n" + "\n".join(broken)


def drawn_in(folder: str) -> dict[str, tuple[float, float]]:
    """Return where the picture has the names of a folder's rooms, from its top left corner."""
    picture = ElementTree.parse(PAGE.with_suffix(".svg"))
    (group,) = picture.iterfind(f".//svg:g[@id='{folder}']", {"svg": SVG})
    texts = group.iterfind("svg:text", {"svg": SVG})
    return {one.text or "": (float(one.attrib["x"]), float(one.attrib["y"])) for one in texts}


def test_every_room_and_loose_file_stands_on_a_floor() -> None:
    files = [name_of(path) for path in python_files(*HOUSES)]
    require_none(misplaced(files, FLOORS, ONE_ROOM))


@pytest.mark.parametrize("folder", HOUSES)
def test_files_import_from_their_room_and_the_floors_below_it(folder: str) -> None:
    require_none([str(one) for one in arrows_of(folder) if not goes_down(one, FLOORS)])


@pytest.mark.parametrize("folder", HOUSES)
def test_no_files_import_each_other_in_a_circle(folder: str) -> None:
    require_none(circle_of((one.importer, one.imported) for one in arrows_of(folder)))


@pytest.mark.parametrize("folder", HOUSES)
def test_no_rooms_import_each_other_in_a_circle(folder: str) -> None:
    rooms = (
        (room_of(one.importer, FLOORS, ONE_ROOM), room_of(one.imported, FLOORS, ONE_ROOM))
        for one in arrows_of(folder)
    )
    require_none(circle_of(rooms))


def test_no_folder_holds_more_files_than_a_reader_takes_in() -> None:
    require_none(overfull(tracked_files(), MOST_FILES))


def test_no_first_word_does_the_work_of_a_folder() -> None:
    require_none(alike(tracked_files(), MOST_ALIKE))


def test_every_path_of_the_page_exists() -> None:
    words = re.findall(r"`([^`\s]+)`", PAGE.read_text(encoding="utf-8"))
    paths = [word for word in words if "/" in word or word.endswith(PATH_ENDS)]
    assert len(paths) > 50
    places = (ROOT, ROOT / "latte_core")
    require_none([one for one in paths if not any((place / one).exists() for place in places)])


def test_page_has_a_section_for_everything_that_is_added_often() -> None:
    titles = re.findall(r"^## Add an? (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert titles == ["sampler", "cache", "node", "format", "model"]


@pytest.mark.parametrize("folder", [one for one in FLOORS if one.startswith("latte_core/")])
def test_picture_shows_the_rooms_of_a_room_from_left_to_right(folder: str) -> None:
    places = drawn_in(folder)
    rows = [{places[PICTURED.get(name, name)][0] for name in row} for row in FLOORS[folder]]
    assert all(max(low) < min(high) for low, high in pairwise(rows))


@pytest.mark.parametrize("folder", ["latte_core", "nodes/host"])
def test_picture_shows_the_floors_one_above_the_other(folder: str) -> None:
    places = drawn_in(folder)
    rows = [{places[name][1] for name in row} for row in FLOORS[folder]]
    assert all(len(heights) == 1 for heights in rows)  # side by side
    assert all(min(low) > max(high) for low, high in pairwise(rows))


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
