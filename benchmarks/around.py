"""Time what surrounds the model, beside an older copy of the project, in turns.

    python benchmarks/around.py --baseline DIR [--repeat 5] [--lines NAME ...] [--json FILE]

DIR is a checkout of the project to compare with, such as `git worktree add DIR REVISION`. Every
figure is the processor time of a process of its own, with the programs that it starts: the clock
tells less where others run beside. `bare` imports torch, T5EncoderModel and both VAE classes and
nothing of the project; `sample` makes 4 frames in one step. `fvd` reads 8 real videos and counts
how often each is decoded. `checkpoint` opens a .pt of 256 MB in a second process, and `touch` sums
the numbers of the same tensors as torch maps them. `report` adds a report to a training log that
holds 50,000. The last three are timed inside their process, without imports. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROMPT = ("--prompt", "a red circle moving left")
NUM_VIDEOS, VIDEO_FRAMES, VIDEO_SIZE = 8, 256, (240, 320)
LOG_ENTRIES = 50_000

BARE = """
import torch
from transformers import T5EncoderModel
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
"""
VIDEOS = """
import sys, torch
from pathlib import Path
from latte_core.video import write_video
frames, height, width = {frames}, {height}, {width}
noise = torch.Generator().manual_seed(0)
ramp = torch.linspace(0, 1, width).expand(height, width)
for number in range({videos}):
    shown = torch.stack([
        torch.stack([ramp.roll(3 * i + number, 1), ramp.flip(1).roll(-2 * i, 1), ramp], -1)
        for i in range(frames)
    ]) * 0.9 + 0.1 * torch.rand(frames, height, width, 3, generator=noise)
    write_video(Path({folder!r}) / f"{{number}}.mp4", shown, 25)
"""
FVD = """
import json, os, subprocess
from collections import Counter
from pathlib import Path
from latte_core.metrics import FolderClips, find_protocol
decoded = Counter()
class Popen(subprocess.Popen):
    def __init__(self, arguments, *more, **options):
        if "-i" in arguments and "copy" not in arguments:
            decoded[Path(arguments[arguments.index("-i") + 1]).name] += 1
        super().__init__(arguments, *more, **options)
subprocess.Popen = Popen
protocol = find_protocol("fvd2048_16f").changed(num={videos})
before = os.times()
clips = [int(clip.sum()) for clip in FolderClips(Path({folder!r}), protocol, "real")]
after = os.times()
print(json.dumps({{
    "seconds": sum(after[:4]) - sum(before[:4]),
    "times_decoded": max(decoded.values()), "videos": len(clips), "sum": sum(clips),
}}))
"""
CHECKPOINT = """
import torch
noise = torch.Generator().manual_seed(0)
weights = {{f"w{{index}}": torch.randn(1024, 1024, generator=noise) for index in range(64)}}
torch.save(weights, {file!r})
"""
OPEN = """
import json, time
from latte_core.checkpoint import read_tensors
before = time.process_time()
read_tensors({file!r})
print(json.dumps({{"seconds": time.process_time() - before}}))
"""
TOUCH = """
import json, time, torch
before = time.process_time()
for tensor in torch.load({file!r}, mmap=True, weights_only=True).values():
    tensor.sum().item()
print(json.dumps({{"seconds": time.process_time() - before}}))
"""
REPORT = """
import json, tempfile, time
from pathlib import Path
from latte_core.training import plot
from latte_core.training.run_folder import RunFolder
entry = {{"step": 0, "loss": 0.1, "squared": 0.1, "variational": 0.0, "norm": 1.0, "rate": 1e-4}}
with tempfile.TemporaryDirectory() as path:
    folder, log = RunFolder(Path(path)), Path(path) / "log.jsonl"
    lines = ({{**entry, "step": step, "loss": 1 / (1 + step % 97)}} for step in range({entries}))
    log.write_text("".join(json.dumps(one) + "\\n" for one in lines))
    if hasattr(plot, "LossPlot"):
        drawing = plot.LossPlot(log, folder.loss_picture)
        drawing.draw()
        draw = drawing.draw
    else:
        def draw():
            points = [(one["step"], one["loss"]) for one in folder.log()]
            plot.draw_losses(folder.loss_picture, points)
        draw()
    before = time.process_time()
    folder.append_log({{**entry, "step": {entries}}})
    draw()
    print(json.dumps({{"seconds": time.process_time() - before}}))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing to time.

    Args:
        arguments: of Python, in the checkout that is measured.
        is_timed_inside: whether the program prints its own seconds, in place of all of its time.
        is_alike: whether it has nothing of the project in it, so that the baseline has none.
    """

    arguments: tuple[str, ...]
    is_timed_inside: bool = False
    is_alike: bool = False


def make_lines(folder: Path) -> dict[str, Line]:
    """Return what is timed, with its files in `folder`."""
    videos, file = str(folder / "videos"), str(folder / "weights.pt")

    def program(text: str, **values: Any) -> tuple[str, ...]:
        return ("-c", text.format(**values))

    def command(*words: str) -> tuple[str, ...]:
        return ("-m", "latte_core", *words)

    clip = str(folder / "clip.mp4")
    fvd = program(FVD, folder=videos, videos=NUM_VIDEOS)
    return {
        "bare": Line(arguments=("-c", BARE), is_alike=True),
        "sample": Line(
            arguments=command("sample", *PROMPT, "--frames", "4", "--steps", "1", "--output", clip)
        ),
        "help": Line(arguments=command("--help")),
        "version": Line(arguments=command("--version")),
        "wrong size": Line(arguments=command("sample", *PROMPT, "--width", "65", "--output", clip)),
        "fvd": Line(arguments=fvd, is_timed_inside=True),
        "touch": Line(arguments=program(TOUCH, file=file), is_timed_inside=True, is_alike=True),
        "checkpoint": Line(arguments=program(OPEN, file=file), is_timed_inside=True),
        "report": Line(arguments=program(REPORT, entries=LOG_ENTRIES), is_timed_inside=True),
    }


def make_files(folder: Path, names: set[str], environment: Mapping[str, str]) -> None:
    """Write the videos and the weights that the lines read."""
    programs: list[str] = []
    if "fvd" in names:
        (folder / "videos").mkdir()
        height, width = VIDEO_SIZE
        sizes = {"frames": VIDEO_FRAMES, "height": height, "width": width, "videos": NUM_VIDEOS}
        programs.append(VIDEOS.format(folder=str(folder / "videos"), **sizes))
    if names & {"touch", "checkpoint"}:
        programs.append(CHECKPOINT.format(file=str(folder / "weights.pt")))
    for text in programs:
        subprocess.run([sys.executable, "-c", text], cwd=ROOT, env=dict(environment), check=True)


def run_once(line: Line, place: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a line in a checkout and return its seconds, and what else it prints."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, *line.arguments],
            cwd=place,
            env=dict(environment),
            stdout=out,
            stderr=None if line.is_timed_inside else subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode()
    if line.is_timed_inside and process.returncode:
        raise SystemExit(f"{place} failed: {line.arguments[-1]}")
    if line.is_timed_inside:
        found: dict[str, Any] = json.loads(text)
        return found
    return {"seconds": usage.ru_utime + usage.ru_stime}


def measure(
    lines: Mapping[str, Line],
    places: Mapping[str, Path],
    repeat: int,
    environment: Callable[[str], Mapping[str, str]],
) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield the runs of each line in each checkout, in turns after one that is thrown away."""
    for name, line in lines.items():
        where = {"ours": places["ours"]} if line.is_alike else dict(places)
        found: dict[str, list[dict[str, Any]]] = {place: [] for place in where}
        for turn in range(repeat + 1):
            for place, path in where.items():
                run = run_once(line, path, environment(place))
                if turn:
                    found[place].append(run)
        yield name, {place: joined(made) for place, made in found.items()}


def joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of the seconds, all of them, and the rest of the last run."""
    seconds = [round(run["seconds"], 4) for run in runs]
    return {**runs[-1], "seconds": round(median(seconds), 4), "runs": seconds}


def judge(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return each limit with what was found, as far as its lines were measured."""

    def ours(name: str) -> float:
        return float(found[name]["ours"]["seconds"])

    limits: dict[str, tuple[tuple[str, ...], Callable[[], tuple[float, float]]]] = {
        "cold sample, seconds": (("sample", "bare"), lambda: (ours("sample"), ours("bare") + 1.5)),
        "help, seconds": (("help",), lambda: (ours("help"), 0.4)),
        "version, seconds": (("version",), lambda: (ours("version"), 0.4)),
        "wrong size, seconds": (("wrong size",), lambda: (ours("wrong size"), 0.4)),
        "times a real video is decoded": (
            ("fvd",),
            lambda: (found["fvd"]["ours"]["times_decoded"], 1),
        ),
        "reading for FVD, part of the baseline": (
            ("fvd",),
            lambda: (ours("fvd") / found["fvd"]["baseline"]["seconds"], 0.55),
        ),
        "checkpoint, times touching its bytes": (
            ("checkpoint", "touch"),
            lambda: (ours("checkpoint") / ours("touch"), 1.5),
        ),
        "report at 50,000 entries, seconds": (("report",), lambda: (ours("report"), 0.05)),
    }
    judged: dict[str, dict[str, Any]] = {}
    for name, (needed, values) in limits.items():
        if set(needed) <= set(found):
            value, limit = values()
            judged[name] = {
                "found": round(value, 3),
                "limit": round(limit, 3),
                "holds": value <= limit,
            }
    return judged


def record_of(found: Mapping[str, Any], repeat: int) -> dict[str, Any]:
    """Return what is written: limits, lines, and what they were measured with."""
    return {
        "repeat": repeat,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": version("torch"),
        "limits": judge(found),
        "lines": found,
    }


def main() -> None:
    """Read the options, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--baseline", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--lines", nargs="+", metavar="NAME", help="(default: all)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    places = {"ours": ROOT, "baseline": options.baseline.resolve()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def environment(place: str) -> Mapping[str, str]:
            return {**os.environ, "LATTE_CACHE_DIR": str(folder / f"cache-{place}")}

        lines = make_lines(folder)
        chosen = {one: lines[one] for one in options.lines or lines}
        make_files(folder, set(chosen), environment("ours"))
        found: dict[str, dict[str, dict[str, Any]]] = {}
        if options.lines and options.json is not None and options.json.is_file():
            found = json.loads(options.json.read_text())["lines"]  # the others are kept
        for name, runs in measure(chosen, places, options.repeat, environment):
            found[name] = runs
            print(name, {place: one["seconds"] for place, one in runs.items()}, flush=True)
            if options.json is not None:  # after each line: a run may be ended early
                options.json.write_text(
                    json.dumps(record_of(found, options.repeat), indent=2) + "\n"
                )
    judged = judge(found)
    for limit, values in judged.items():
        sign = "holds" if values["holds"] else "DOES NOT HOLD"
        print(f"{limit:40}{values['found']:10} of {values['limit']:<8} {sign}")


if __name__ == "__main__":
    main()
