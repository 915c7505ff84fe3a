"""Importing the pack does nothing but define: no network, no folder, no GPU, no time (R59, R60)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADER = """
import importlib.util, json, os, socket, sys, time, warnings
import torch
def refuse(*args, **kwargs):
    raise AssertionError("the network was used")
socket.socket.connect = refuse
socket.create_connection = refuse
torch.cuda.is_available = lambda: (_ for _ in ()).throw(AssertionError("the GPU was asked"))
torch.cuda.init = torch.cuda.is_available
made = []
os.mkdir = lambda path, *args, **kwargs: made.append(str(path))
for name in filter(None, os.environ.get("BLOCKED", "").split(",")):
    sys.modules[name] = None
flags = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().sum().item(),
         torch.backends.cudnn.allow_tf32, torch.get_num_threads())
root, name = sys.argv[1:]
start = time.process_time()
spec = importlib.util.spec_from_file_location(name, os.path.join(root, "__init__.py"),
                                              submodule_search_locations=[root])
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
seconds = time.process_time() - start
after = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().sum().item(),
         torch.backends.cudnn.allow_tf32, torch.get_num_threads())
listed = [cls.INPUT_TYPES() is not None for cls in module.NODE_CLASS_MAPPINGS.values()]
print(json.dumps({"seconds": seconds, "nodes": len(listed), "made": made,
                  "same_flags": flags == after, "top": "nodes" in sys.modules,
                  "late": [m for m in ("diffusers", "transformers", "imageio_ffmpeg", "bs4")
                           if sys.modules.get(m) is not None]}))
"""


def import_pack(root: Path, name: str = "pack", blocked: str = "") -> dict[str, object]:
    """Import the pack in a fresh interpreter and return what it did."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"BLOCKED": blocked, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADER, str(root), name],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=root.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_import_does_nothing_but_define_nodes() -> None:
    found = import_pack(ROOT)
    assert found["nodes"] == 19
    assert found["made"] == []
    assert found["same_flags"] is True
    assert found["top"] is False, "nodes became a top-level module"
    assert found["late"] == [], "packages that are needed later were imported"


def test_import_is_quick() -> None:
    quickest = min(float(str(import_pack(ROOT)["seconds"])) for _ in range(2))
    assert quickest < 0.5, "of processor time, beyond torch itself"


@pytest.mark.parametrize("blocked", ["diffusers", "transformers", "imageio_ffmpeg,ftfy,bs4,tqdm"])
def test_nodes_stay_listed_without_a_package(blocked: str) -> None:
    assert import_pack(ROOT, blocked=blocked)["nodes"] == 19


def test_pack_works_from_an_odd_folder_name(tmp_path: Path) -> None:
    odd = tmp_path / "latte video.1"
    odd.symlink_to(ROOT, target_is_directory=True)
    assert import_pack(odd, str(odd).replace(".", "_x_"))["nodes"] == 19
