"""`benchmarks/memory.py`: its tracker, and that what the code says agrees with its record."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from latte_core.memory import PRESETS, MemoryPlan, stage_bytes
from latte_core.memory.estimate import DECODED_BYTES, PartSizes

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "memory.json"
SMALL = "2 x 16 x 256 x 256"
LARGE = "2 x 16 x 512 x 512"


def load_script() -> Any:
    """Import the benchmark by file location."""
    spec = importlib.util.spec_from_file_location(
        "latte_memory_benchmark", ROOT / "benchmarks" / "memory.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()
record: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))


def meta(*size: int) -> torch.Tensor:
    return torch.empty(*size, device="meta")


def peak(call: Any) -> int:
    return script.peak_of(call)


def test_tracker_counts_what_is_alive_at_once() -> None:
    given = meta(10, 100)  # 4,000 bytes, made before

    def chain() -> Any:
        first = given + 1
        second = first + 1
        del first
        return second + 1

    def together() -> Any:
        kept = [given + number for number in range(3)]
        return kept[0]

    assert peak(chain) == 8_000
    assert peak(together) == 12_000


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: x.view(5, 200).t()[1:], 0),
        (lambda x: x.add_(1), 0),
        (lambda x: x.relu().view(-1)[:3], 4_000),
        (lambda x: x.expand(7, 10, 100).contiguous(), 28_000),
        (lambda x: x.chunk(2, dim=1)[0].relu(), 2_000),
    ],
)
def test_tracker_counts_each_storage_once_and_only_new_ones(call: Any, expected: int) -> None:
    given = meta(10, 100)
    assert peak(lambda: call(given)) == expected


def test_tracker_sees_the_same_on_the_cpu_as_on_meta() -> None:
    def run(device: str) -> int:
        layer = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)).to(device)
        given = torch.zeros(50, 8, device=device)
        return peak(lambda: layer(given))

    assert run("cpu") == run("meta") == 2 * 50 * 32 * 4


# In a process of its own: how long CPython keeps the arguments of a call alive depends on what the
# interpreter has specialised the call to, so on everything that ran before.
TRACES = """
import json, runpy, sys
script = runpy.run_path(sys.argv[1])
case = next(one for one in script["CASES"] if one.name == sys.argv[2])
print(json.dumps({
    "ours": script["trace_ours"](case),
    "ours, feed-forward in 8 parts": script["trace_ours"](case, chunked=True),
    "ours, fused kernels": script["trace_ours"](case, kernels=True),
    "ours, fused kernels, feed-forward in 8 parts": script["trace_ours"](
        case, kernels=True, chunked=True
    ),
    "ours in ComfyUI": script["trace_ours"](case, hosted=True),
    "class model in ComfyUI": script["trace_class_model"](case),
}))
"""


def test_record_is_of_the_present_code() -> None:
    path = ROOT / "benchmarks" / "memory.py"
    words = [sys.executable, "-c", TRACES, str(path), SMALL]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    known = {name: record["forward_bytes"][name][SMALL] for name in found}
    assert found == pytest.approx(known, rel=0.1)  # a tensor of tokens more on other Pythons


def test_ours_needs_no_more_than_diffusers_and_much_less_in_parts() -> None:
    peaks = {name: rows[LARGE] for name, rows in record["forward_bytes"].items()}
    assert peaks["ours"] <= peaks["diffusers"]
    assert peaks["ours, feed-forward in 8 parts"] <= 0.72 * peaks["ours"]


def test_kernels_leave_what_work_in_parts_saves() -> None:
    peaks = {name: rows[LARGE] for name, rows in record["forward_bytes"].items()}
    assert peaks["ours, fused kernels"] <= 0.8 * peaks["ours"]
    in_parts = peaks["ours, fused kernels, feed-forward in 8 parts"]
    assert in_parts <= peaks["ours, feed-forward in 8 parts"] <= 614 * 2**20


def test_comfyui_is_told_the_traced_need_with_its_margin() -> None:
    folder = ROOT / "nodes" / "host" / "model"
    told = {
        owner.name: ast.literal_eval(node.value)
        for file in ("t2v.py", "latte.py")
        for owner in ast.parse((folder / file).read_text(encoding="utf-8")).body
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "memory_usage_factor"
    }
    needed = record["comfyui_factor"]
    assert needed["class"] <= told["LatteClassConfig"] <= needed["class"] + 0.02
    assert needed["text"] <= told["LatteConfig"] <= needed["text"] + 0.02


def test_factor_is_the_inverse_of_comfyuis_formula_with_a_margin() -> None:
    case = script.CASES[0]
    reserved = case.area * 2 * 0.01 * 0.5 * 2**20  # ComfyUI's formula, factor 0.5
    assert script.comfyui_factor({case.name: int(reserved / 1.2)}) == pytest.approx(0.5)


def sizes(**changes: Any) -> PartSizes:
    known = {
        "text": 0,
        "transformer": 0,
        "vae": 0,
        "text_blocks": 1,
        "transformer_blocks": 1,
        "text_rest": 0,
        "tokens": 2 * 16 * 1024,
        "width": 1152,
        "itemsize": 2,
        "num_frames": 16,
        "height": 512,
        "frame_width": 512,
    }
    return PartSizes(**{**known, **changes})


@pytest.mark.parametrize(
    ("rows", "name"), [(None, "ours"), (4096, "ours, feed-forward in 8 parts")]
)
def test_plans_reckon_with_at_least_what_was_traced_and_little_more(
    rows: int | None, name: str
) -> None:
    plan = MemoryPlan(name="own", feed_forward_rows=rows)
    traced = record["forward_bytes"][name][LARGE]
    assert traced <= stage_bytes(plan, sizes())["sampling"] <= 1.35 * traced


@pytest.mark.parametrize("pixels", [128, 256, 512])
def test_plans_reckon_with_the_traced_decoder(pixels: int) -> None:
    traced = record["decode_bytes"][f"temporal, 16 frames of {pixels} x {pixels}"]
    plan = MemoryPlan(name="own", decode_tile=None if pixels == 512 else pixels)
    assert stage_bytes(plan, sizes())["decoding"] == pytest.approx(traced, rel=0.02)
    assert DECODED_BYTES * pixels * pixels * 16 == pytest.approx(traced, rel=0.02)


@pytest.mark.parametrize(("num_frames", "together"), [(16, 16), (17, 17), (30, 22), (300, 22)])
def test_decoding_of_long_clips_needs_what_a_piece_needs(num_frames: int, together: int) -> None:
    plan = MemoryPlan(name="own")
    found = stage_bytes(plan, sizes(num_frames=num_frames))["decoding"]
    assert found == DECODED_BYTES * 512 * 512 * together


def test_real_processes_save_what_the_trace_says() -> None:
    runs = {run["way"]: run for run in record["runs"]}
    whole, parts = runs["ours"], runs["ours, feed-forward in 8 parts"]
    traced = whole["traced_bytes"] - parts["traced_bytes"]
    resident = whole["resident_bytes"] - parts["resident_bytes"]
    assert resident == pytest.approx(traced, rel=0.05)


def test_every_preset_is_in_the_page() -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    for name in PRESETS:
        assert f"| `{name}` |" in page
