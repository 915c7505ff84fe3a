"""Section 1: attention at the shapes of a step, each backend by name; then the tests for a GPU."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from measuring.core import ROOT, import_core
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gpu_sections.session import Found, Session

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
HEAD_WIDTH = 72
VIDEOS = 2
TEST_SECONDS = 90.0
GPU_MARK = re.compile(r"mark\.gpu\b")


def run(session: Session, found: Found) -> None:
    """Measure every shape with every backend, then run the tests."""
    shapes: Found = {}
    found["milliseconds"] = shapes
    dtype = getattr(torch, session.sizes.dtypes[0])
    for name, make in shapes_of(session).items():
        session.attempt(shapes, name, lambda make=make: measure_shape(session, make(dtype)))
    session.attempt(found, "backward", lambda: measure_backward(session, dtype))
    made = session.attempt(found, "tests", lambda: run_tests(session))
    if made is not None:
        session.figure("tests", made["passed"] + len(made["failed"]))
        session.figure("failed_tests", len(made["failed"]))


def shapes_of(session: Session) -> dict[str, Callable[[torch.dtype], tuple[Tensor, ...]]]:
    """Return queries, keys and values (B, N, rows, d) as a step has them, by name.

    Heads lie side by side in memory. In the first block both halves of guidance have the same
    queries to the text, which are expanded; across frames a place and a head are one axis.
    """
    sizes, device = session.sizes, session.card.device
    heads, frames, places = sizes.heads, sizes.frames, (sizes.side // 2) ** 2

    def tokens(batch: int, rows: int, dtype: torch.dtype, count: int = heads) -> Tensor:
        made = torch.randn(batch, rows, count, HEAD_WIDTH, device=device, dtype=dtype)
        return made.transpose(1, 2)

    def within(dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(tokens(VIDEOS * frames, places, dtype) for _ in range(3))

    def text(dtype: torch.dtype) -> tuple[Tensor, ...]:
        queries = tokens(VIDEOS, frames * places, dtype)
        return queries, *(tokens(VIDEOS, sizes.tokens, dtype) for _ in range(2))

    def text_shared(dtype: torch.dtype) -> tuple[Tensor, ...]:
        queries = tokens(1, frames * places, dtype).expand(VIDEOS, -1, -1, -1)
        return queries, *(tokens(VIDEOS, sizes.tokens, dtype) for _ in range(2))

    def across(dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(tokens(VIDEOS, frames, dtype, places * heads) for _ in range(3))

    return {
        "within frames": within,
        "to the text": text,
        "to the text, queries with batch stride 0": text_shared,
        "across frames": across,
    }


def measure_shape(session: Session, given: tuple[Tensor, ...]) -> Found:
    """Return the median milliseconds of each backend, or why it does not run."""
    shown = {"queries": f"{tuple(given[0].shape)}, strides {given[0].stride()}"}
    calls: dict[str, Callable[[], Any]] = {}
    found: Found = {**shown}
    for name, backend in {"torch's choice": None, **BACKENDS}.items():
        ran = session.attempt(
            found, name, lambda backend=backend: list(attend(given, backend).shape)
        )
        if ran is not None:
            calls[name] = lambda backend=backend: attend(given, backend)
    attention = import_core("model.attention")
    if given[0].shape[1] > session.sizes.heads:
        calls |= across_frames(session, given, attention)
    times = session.card.in_turns(calls, session.sizes.rounds)
    found |= {name: round(1000 * statistics.median(one), 4) for name, one in times.items()}
    return found


def attend(given: tuple[Tensor, ...], backend: Any) -> Tensor:
    """Attend by a backend, or by the one that torch takes."""
    if backend is None:
        return scaled_dot_product_attention(*given)
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(*given)


def across_frames(
    session: Session, given: tuple[Tensor, ...], attention: Any
) -> dict[str, Callable[[], Any]]:
    """Return the package's own ways across frames: torch's operators, and what a kernel set takes.

    Args:
        session: whose sizes tell places from heads.
        given: (B, S*N, F, d) each.
        attention: the module of the package.
    """
    choice, frames = import_core("kernels.choice"), given[0].shape[2]
    tokens = [
        one.transpose(1, 2).reshape(one.shape[0], -1, session.sizes.heads, HEAD_WIDTH)
        for one in given
    ]
    kernels = choice.KernelSet()

    def by_kernel() -> Tensor:
        with torch.no_grad():
            plain = attention.attend_across_frames
            return kernels.run(choice.ATTEND_ACROSS_FRAMES, plain, *tokens, frames)

    by_kernel()
    return {
        "ours, torch": lambda: attention.attend_across_frames(*tokens, frames),
        "ours, as chosen": by_kernel,
    }


def measure_backward(session: Session, dtype: torch.dtype) -> Found:
    """Return what attention across frames takes forth and back, by backend."""
    found: Found = {}
    given = shapes_of(session)["across frames"](dtype)
    for one in given:
        one.requires_grad_()
    for name, backend in {"torch's choice": None, **BACKENDS}.items():

        def update(backend: Any = backend) -> None:
            torch.autograd.grad(attend(given, backend).sum(), given)

        def measured(update: Callable[[], None] = update) -> Found:
            update()
            times = [session.card.seconds(update) for _ in range(session.sizes.rounds)]
            milliseconds = round(1000 * statistics.median(times), 4)
            return {"ms": milliseconds, **session.card.memory_of(update)}

        session.attempt(found, name, measured)
    return found


def run_tests(session: Session) -> Found:
    """Run the tests that need a GPU in a process of their own; return how many passed."""
    paths = gpu_test_paths(session.sizes.tests)
    count = session.sizes.threads
    threads = {} if count is None else {"OMP_NUM_THREADS": str(count)}
    limit = max(min(TEST_SECONDS * session.sizes.patience, session.left()), 1.0)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", session.sizes.test_marker]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}", *paths]
        found: Found = {"paths": paths, "passed": 0, "skipped": 0, "failed": []}
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **threads},
            )
        except subprocess.TimeoutExpired as error:
            written = error.stdout or b""
            shown = written.decode(errors="replace") if isinstance(written, bytes) else written
            raise TimeoutError(f"after {limit:.0f} s: {shown[-400:]}") from error
        if not report.is_file():
            raise RuntimeError(f"pytest wrote no report: {(done.stdout + done.stderr)[-800:]}")
        return found | outcomes(ElementTree.parse(report).getroot())


def outcomes(report: ElementTree.Element) -> Found:
    """Return what a report of pytest says: how many passed and were skipped, and what failed."""
    passed, skipped, failed = 0, 0, list[Found]()
    for case in report.iter("testcase"):
        trouble = [one for one in case if one.tag in ("failure", "error")]
        if trouble:
            name = f"{case.get('classname')}.{case.get('name')}"
            failed.append({"test": name, "message": (trouble[0].get("message") or "")[:400]})
        elif any(one.tag == "skipped" for one in case):
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "skipped": skipped, "failed": failed}


def gpu_test_paths(places: tuple[str, ...]) -> list[str]:
    """Return the test files that speak of the marker, and the folders whose conftest.py does.

    Args:
        places: files, which are taken as they are, and folders to look in.
    """
    found: list[str] = []
    for place in places:
        path = ROOT / place
        if path.is_file():
            found.append(place)
            continue
        for one in sorted(path.rglob("*.py")):
            if GPU_MARK.search(one.read_text(encoding="utf-8")):
                chosen = one.parent if one.name == "conftest.py" else one
                found.append(chosen.relative_to(ROOT).as_posix())
    return found
