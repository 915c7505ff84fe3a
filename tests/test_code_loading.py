"""R16: nothing in the pack loads code, but where it was read and found harmless."""

from __future__ import annotations

import ast

import pytest
from latte_test_support.code_loading import COMPUTED, NOT_CHECKED, code_loading_in
from latte_test_support.source import PACK_FOLDERS, ROOT, parse, python_files

READER = "latte_core/checkpoint/reading/reader.py"
REVIEWED = {
    "pickle": {READER},  # names an exception class
    "pickle.PickleError": {READER},
    "torch.load": {READER, "latte_core/training/state.py"},  # weights_only, see the architecture
    "torch.serialization": {READER},  # names what stands in for the modules of a pickle
    "torch.serialization.safe_globals": {READER},
    "importlib.util": {"nodes/host/model/registration.py"},  # asks whether ComfyUI is there
    "importlib.util.find_spec": {"nodes/host/model/registration.py"},
    COMPUTED: {
        "latte_core/cli/command.py",  # modules of the pack, from tables in the code
        "latte_core/lazy.py",
        "nodes/__init__.py",
        "latte_core/text/prompt.py",  # packages named by the callers in the file
        "latte_core/text/tokenizer.py",
    },
}
SEEN = [
    "import torch\ntorch.jit.load(path)",
    "from torch import jit\njit.load(path)",
    "from torch.jit import load as read\nread(path)",
    "import torch.jit as j\nj.load(path)",
    "import torch\nt = torch\nread = t.jit\nread.load(path)",
    "import torch\ngetattr(torch, 'load')(path)",
    "import torch\nvars(torch)['jit'].load(path)",
    "import torch\ntorch.__dict__['load'](path)",
    "from torch import load\nload(path)",
    "import torch\ntorch.hub.load(name)",
    "from torch.package import PackageImporter",
    "import torch\ntorch.ops.load_library(path)",
    "from torch.utils.cpp_extension import load",
    "import pickle as p\np.loads(data)",
    "from pickle import Unpickler",
    "import _pickle",
    "def f():\n    from _pickle import loads",
    "import dill",
    "import cloudpickle.cloudpickle",
    "import joblib",
    "import shelve",
    "from importlib import import_module\nimport_module('pickle').loads(data)",
    "import importlib as i\ni.import_module('torch.jit').load(path)",
    "import importlib\nimportlib.import_module(name)",
    "import importlib\nimportlib.import_module(f'{name}.x')",
    "from importlib import import_module as bring\nbring(name)",
    "import importlib.util\nimportlib.util.spec_from_file_location(name, path)",
    "from importlib import util",
    "from importlib.machinery import SourceFileLoader",
    "import runpy\nrunpy.run_path(path)",
    "from runpy import run_module",
    "import marshal\nmarshal.loads(data)",
    "import ctypes\nctypes.CDLL(path)",
    "from ctypes import cdll",
    "import cffi",
    "import zipimport",
    "__import__('pickle')",
    "import builtins\nbuiltins.eval(text)",
    "globals()['__builtins__']",
    "run = eval\nrun(text)",
    "import sys\nsys.modules['pickle'].loads(data)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "yaml.unsafe_load(text)",
    "AutoModel.from_pretrained(path, trust_remote_code=True)",
]
HARMLESS = [
    "import re\nre.compile(text)",
    "code = run()\ncode.value",
    "from importlib import import_module\nimport_module('diffusers')",
    "import torch\ntorch.compile(model)",
    "from . import pickle_header\nfrom .code import names",
    "model.eval()\nstore.load(key)",
    "AutoModel.from_pretrained(path, trust_remote_code=False)",
]


def seen_in(text: str) -> list[str]:
    """Return the ways to load code that are found in a program."""
    return [name for _, name in code_loading_in(ast.parse(text))]


def test_code_is_loaded_nowhere_but_in_reviewed_places() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name, line)
        for path in python_files(*PACK_FOLDERS)
        for line, name in code_loading_in(parse(path))
    }
    broken = [
        f"{file}:{line} {name}"
        for file, name, line in sorted(found)
        if file not in REVIEWED.get(name, ())
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("words", ["", ", weights_only=False", ", weights_only=chosen"])
def test_torch_load_that_may_run_code_is_seen_by_any_name(words: str) -> None:
    text = f"from torch import load as read\nread(path{words})"
    assert NOT_CHECKED in seen_in(text)
    assert NOT_CHECKED not in seen_in("from torch import load\nload(path, weights_only=True)")


@pytest.mark.parametrize("text", SEEN)
def test_every_spelling_is_seen(text: str) -> None:
    assert seen_in(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert seen_in(text) == []


def test_reviewed_places_are_still_there() -> None:
    listed = {(file, name) for name, files in REVIEWED.items() for file in files}
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in python_files(*PACK_FOLDERS)
        for _, name in code_loading_in(parse(path))
    }
    assert listed <= found
