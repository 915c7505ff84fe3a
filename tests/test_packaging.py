"""What is installed, shipped and done at import: nothing that a person did not ask for."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from latte_test_support import pack
from latte_test_support.pack import ROOT, copy_pack, load_pack

import latte_core

# What the pack may install. Bare names: a version would replace what ComfyUI brought along.
ALLOWED = [
    "torch",
    "diffusers",
    "transformers",
    "einops",
    "safetensors",
    "imageio-ffmpeg",
    "comfyui-frontend-package",
    "sentencepiece",
    "protobuf",
    "ftfy",
    "beautifulsoup4",
    "tqdm",
]
OPTIONAL_MODULES = (
    "diffusers,transformers,imageio_ffmpeg,sentencepiece,google.protobuf,ftfy,bs4,tqdm"
)
ARCHIVE_LIMIT = 25 * 2**20
LARGE_FILE = 500_000
IMPORT_LIMIT = 0.5  # seconds of processor time, on top of torch
ODD_NAMES = ["my latte v1.0", "latt\u00e9 \u89c6\u9891"]
NODES = json.loads((ROOT / "tests" / "data" / "nodes.json").read_text(encoding="utf-8"))
NODE_IDS = set(NODES)

# Imports the pack as ComfyUI does (by file, under its folder's path) in a process that is watched.
PROBE = """
import importlib.util, json, logging, os, socket, sys, threading, time, warnings
import torch
import einops, safetensors.torch, argparse, concurrent.futures

folder, blocked = sys.argv[1], set(sys.argv[2].split(","))
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in blocked):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocker())
def no_network(*_, **__):
    raise RuntimeError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_network
def no_folder(*_, **__):
    raise RuntimeError("folder")
os.mkdir = os.makedirs = no_folder
def flags():
    return [torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(), len(logging.getLogger().handlers),
            logging.getLogger().level, len(warnings.filters)]
before, modules, threads = flags(), set(sys.modules), threading.active_count()
state, path = torch.get_rng_state(), list(sys.path)
start = time.process_time()
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, os.path.join(folder, "__init__.py"))
pack = importlib.util.module_from_spec(spec)
sys.modules[name] = pack
spec.loader.exec_module(pack)
taken = time.process_time() - start
new = {one.partition(".")[0] for one in set(sys.modules) - modules}
print(json.dumps({
    "seconds": taken, "ids": sorted(pack.NODE_CLASS_MAPPINGS), "web": pack.WEB_DIRECTORY,
    "flags": flags() == before, "threads": threading.active_count() == threads,
    "random": bool(torch.equal(torch.get_rng_state(), state)), "path": sys.path == path,
    "device": torch.cuda.is_initialized(), "heavy": sorted(new & {
        "diffusers", "transformers", "imageio_ffmpeg", "sentencepiece", "ftfy", "bs4", "tqdm",
        "huggingface_hub", "requests", "httpx", "comfy"}),
}, default=str))
"""


def project() -> dict[str, Any]:
    """Read pyproject.toml."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    reader = pytest.importorskip(name)
    return reader.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lines_of(name: str) -> list[str]:
    """Return the lines of a requirements file."""
    return (ROOT / name).read_text(encoding="utf-8").split()


def probe(folder: Path, blocked: str = "") -> dict[str, Any]:
    """Import the pack in `folder` in a watched process and return what was seen."""
    command = [sys.executable, "-c", PROBE, str(folder), blocked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the import wrote to the error stream"
    return json.loads(done.stdout)


def test_requirements_are_the_allowed_names_without_versions() -> None:
    assert lines_of("requirements.txt") == ALLOWED


def test_pyproject_and_requirements_agree() -> None:
    assert project()["project"]["dependencies"] == ALLOWED


def test_project_has_what_the_registry_asks_for() -> None:
    data = project()
    described, comfy = data["project"], data["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,98}", described["name"])
    assert "comfyui" not in described["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", described["version"])
    assert described["version"] == latte_core.__version__
    assert (ROOT / described["license"]["file"]).is_file()
    assert (ROOT / described["readme"]).is_file()
    assert described["urls"]["Repository"].startswith("https://")
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert comfy["requires-comfyui"] == ">=0.8.0"


def test_changelog_knows_this_version() -> None:
    assert f"## {latte_core.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_archive_stays_under_the_registrys_patience() -> None:
    files = pack.shipped_files()
    assert sum(path.stat().st_size for path in files) < ARCHIVE_LIMIT
    names = [path.relative_to(ROOT).parts[0] for path in files]
    assert "tests" not in names and ".ci" not in names
    assert {"__init__.py", "nodes", "latte_core", "LICENSE", "README.md"} <= set(names)


def test_texts_of_nodes_are_shipped_once() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in pack.shipped_files()}
    assert [name for name in names if name.startswith("nodes/") and name.endswith(".md")] == []
    assert {"locales/zh/nodeDefs.json", "web/docs/LatteSampler/zh.md"} <= names


def test_large_files_are_the_starters_and_pictures_alone() -> None:
    shelves = ("latte_core/assets/starter/", "latte_core/assets/class_starter/", "docs/images/")
    large = [path for path in pack.shipped_files() if path.stat().st_size > LARGE_FILE]
    names = [path.relative_to(ROOT).as_posix() for path in large]
    assert [name for name in names if not name.startswith(shelves)] == []


def test_each_node_is_one_line_that_scanners_can_read() -> None:
    text = (ROOT / "nodes" / "__init__.py").read_text(encoding="utf-8")
    line = re.compile(r'^    "(\w+)": part\("\w+\.\w+"\)\.\1,$', re.MULTILINE)
    assert line.findall(text) == list(NODES)


def test_import_is_light_and_touches_nothing(tmp_path: Path) -> None:
    seen = probe(copy_pack(tmp_path / "latte-video"))
    assert set(seen["ids"]) == NODE_IDS
    assert seen["heavy"] == []
    assert seen["flags"] and seen["threads"] and seen["random"] and seen["path"]
    assert seen["device"] is False
    assert seen["seconds"] < IMPORT_LIMIT


@pytest.mark.parametrize("name", ODD_NAMES)
def test_pack_imports_from_folders_with_odd_names(tmp_path: Path, name: str) -> None:
    assert set(probe(copy_pack(tmp_path / name))["ids"]) == NODE_IDS


@pytest.mark.parametrize("blocked", ["diffusers", "transformers", OPTIONAL_MODULES])
def test_nodes_stay_listed_when_packages_are_missing(tmp_path: Path, blocked: str) -> None:
    assert set(probe(copy_pack(tmp_path / "latte-video"), blocked)["ids"]) == NODE_IDS


def test_web_directory_exists() -> None:
    pack = load_pack()
    assert (ROOT / pack.WEB_DIRECTORY).is_dir()


@pytest.mark.parametrize(
    "module", ["latte_core", "latte_core.cli.main", "latte_core.pipelines.text.pipeline"]
)
def test_modules_import_by_name(module: str) -> None:
    assert importlib.import_module(module).__name__ == module
