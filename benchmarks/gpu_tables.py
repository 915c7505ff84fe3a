"""Write the tables of GPUs in docs/speed.md and docs/memory.md from what `gpu.py` measured.

    python benchmarks/gpu_tables.py                 (every benchmarks/results/gpu*.json)
    python benchmarks/gpu_tables.py RESULT.json ...
    python benchmarks/gpu_tables.py --check         (says whether the pages are up to date)

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`, and nothing outside of
them is touched. Files of one device are taken together, the later ones over the earlier. Where
there is no figure, a cell says that it is not yet measured. Rehearsals are refused.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "speed.md", ROOT / "docs" / "memory.md")
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
UNKNOWN = "not yet measured"
ANY_CARD = "a GPU"
FULL = "full"  # the sizes of a run that is no rehearsal
PRESETS = ("24", "12", "8", "6", "4")
WAYS = (
    "diffusers",
    "ours",
    "ours, kernels",
    "ours, fused QKV, kernels",
    "ours, fused QKV, kernels, graph",
    "ours, fused QKV, kernels, int8",
    "ours, fused QKV, kernels, fp8",
)
COMPILED = ("diffusers compiled", "ours, compiled", "ours, fused QKV, compiled")
CACHES = ("", ", cache quality", ", cache balanced", ", cache fast")
Record = dict[str, Any]
Rows = Sequence[tuple[str, Callable[[Record], str | None]]]


def at(record: Any, *path: str) -> Any:
    """Return what lies on a path through dictionaries, None where it ends."""
    for name in path:
        if not isinstance(record, dict) or name not in record:
            return None
        record = record[name]
    return record


def read_records(paths: Iterable[Path]) -> dict[str, Record]:
    """Return one record for each device, by its name.

    Raises:
        SystemExit: for a rehearsal, or a file of something else.
    """
    found: dict[str, Record] = {}
    for path in paths:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("sizes") != FULL:
            raise SystemExit(
                f"{path.name} holds results of the sizes {record.get('sizes')!r}, which say "
                f"nothing of a card. Give files of gpu.py without --rehearse."
            )
        known = found.setdefault(record["device"], {"figures": {}, "sections": {}})
        figures = {key: one for key, one in record["figures"].items() if one is not None}
        done = {key: one for key, one in record["sections"].items() if one["state"] != "skipped"}
        found[record["device"]] = {
            **known,
            **record,
            "figures": {**known["figures"], **figures},
            "sections": {**known["sections"], **done},
        }
    return found


def table(first: str, rows: Rows, records: dict[str, Record]) -> str:
    """Return the lines of a table with a column for each device."""
    cards = records or {ANY_CARD: {}}
    lines = [f"| {first} | {' | '.join(cards)} |", "|---" * (len(cards) + 1) + "|"]
    for name, cell in rows:
        shown = [cell(record) or UNKNOWN for record in cards.values()]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def figure_rows() -> Rows:
    """Return the figures that the whole run is for."""

    def times(name: str, way: str = "") -> Callable[[Record], str | None]:
        def cell(record: Record) -> str | None:
            value, chosen = at(record, "figures", name), at(record, way)
            return value and f"{value:.2f}x" + (f" ({chosen})" if chosen else "")

        return cell

    def stacked(record: Record) -> str | None:
        seconds, likeness = (
            at(record, "figures", one) for one in ("stacked_seconds", "stacked_psnr")
        )
        return seconds and f"{seconds:.2f} s, {likeness or 0:.1f} dB on the starter"

    def tests(record: Record) -> str | None:
        count, failed = (at(record, "figures", one) for one in ("tests", "failed_tests"))
        return None if count is None else f"{count - failed} of {count}"

    return (
        ("a step, exact, against diffusers' class", times("exact_speedup", "exact_way")),
        ("the same, both compiled", times("exact_compiled_speedup")),
        ("eight bits against exact", times("eight_bit_speedup", "eight_bit_way")),
        ("50 steps with everything, against diffusers", times("stacked_speedup", "stacked_way")),
        ("such a run", stacked),
        ("tests for a GPU that pass", tests),
    )


def step_cell(section: str, name: str, dtype: str = "bfloat16") -> Callable[[Record], str | None]:
    """Return what shows one way of a step."""

    def cell(record: Record) -> str | None:
        facts = at(record, "sections", section, "steps")
        facts = at(facts, dtype, name) if section == "3" else at(facts, name)
        seconds = at(facts, "seconds_median")
        if seconds is None:
            return None
        shown = [f"{1000 * seconds:.1f} ms"]
        if at(facts, "speed_up_median") is not None:
            shown.append(f"{facts['speed_up_median']:.2f}x")
        if at(facts, "memory", "work_gb") is not None:
            shown.append(f"{facts['memory']['work_gb']:.2f} GB")
        idle = at(facts, "idle")
        return ", ".join(shown + ([f"idle {idle:.0%}"] if isinstance(idle, float) else []))

    return cell


def step_rows() -> Rows:
    """Return the ways of a step."""
    eager = [(name, step_cell("3", name)) for name in WAYS]
    return [*eager, *((name, step_cell("9", name)) for name in COMPILED)]


def run_rows() -> Rows:
    """Return whole runs of sampling."""

    def cell(name: str) -> Callable[[Record], str | None]:
        def shown(record: Record) -> str | None:
            for section in ("9", "3"):
                runs = at(record, "sections", section, "runs")
                seconds = at(runs, name, "seconds")
                if seconds is not None:
                    alike = at(runs, "likeness_on_the_starter", name.removesuffix(", compiled"))
                    return f"{seconds:.2f} s" + (f", {alike:.1f} dB" if alike else "")
            return None

        return shown

    exact = [f"ours{cache}" for cache in CACHES]
    eight = [f"ours, {bits}{cache}" for bits in ("int8", "fp8") for cache in ("", CACHES[-1])]
    names = ("diffusers", *exact, *eight, *(f"{one}, compiled" for one in (*exact, *eight)))
    return [(name, cell(name)) for name in names]


def end_to_end_rows() -> Rows:
    """Return videos from prompt to frames, by phase."""

    def cell(name: str) -> Callable[[Record], str | None]:
        def shown(record: Record) -> str | None:
            facts = at(record, "sections", "4", "ways", name)
            whole = at(facts, "seconds_median")
            if whole is None:
                return None
            text, decoding = (whole * facts[f"share_{one}"] for one in ("text", "decoding"))
            return (
                f"{whole:.2f} s: text {text:.2f}, steps {facts['seconds_denoising']:.2f}, "
                f"decoding {decoding:.2f}"
            )

        return shown

    names = ("diffusers, plain", "ours, plain", "ours, cache balanced")
    eight = [f"ours, {bits}, cache balanced" for bits in ("int8", "fp8")]
    return [(name, cell(name)) for name in (*names, *eight)]


def class_rows() -> Rows:
    """Return steps and updates of class models."""

    def step(name: str) -> Callable[[Record], str | None]:
        def shown(record: Record) -> str | None:
            rate = at(record, "sections", "7", "step", name, "steps_per_second")
            return None if rate is None else f"{rate:.1f} steps a second"

        return shown

    def update(size: str, name: str) -> Callable[[Record], str | None]:
        def shown(record: Record) -> str | None:
            facts = at(record, "sections", "7", "training", size, name)
            if at(facts, "ms") is None:
                return None
            return f"{facts['ms']:.0f} ms, {facts['peak_allocated_gb']:.1f} GB"

        return shown

    steps = ("the authors' recipe", "ours, plain torch", "ours, kernels")
    updates = ("the authors' recipe", "a plain loop", "ours", "ours, checkpointed")
    sizes = ("4 clips of 256 x 256", "1 clips of 512 x 512")
    return [
        *((f"guided step, 256 x 256: {name}", step(name)) for name in steps),
        *(
            (f"update, {size.replace('1 clips', '1 clip')}: {name}", update(size, name))
            for size in sizes
            for name in updates
        ),
    ]


def preset_rows() -> Rows:
    """Return memory presets on a card that is cut down to them."""

    def cell(name: str) -> Callable[[Record], str | None]:
        def shown(record: Record) -> str | None:
            facts = at(record, "sections", "5", name)
            if at(facts, "peak_gb") is None:
                return at(facts, "error")
            reckoned = max(facts["reckoned_gb"].values())
            same = "same latents" if facts["latents_equal"] else "latents differ by rounding"
            return (
                f"{facts['peak_gb']:.2f} GB of {reckoned:.2f} reckoned, {same}, "
                f"{facts['seconds']:.1f} s for {facts['steps']} steps"
            )

        return shown

    return [(f"`{name}`", cell(name)) for name in PRESETS]


def decoder_rows() -> Rows:
    """Return ways of decoding a clip."""

    def cell(kind: str, name: str) -> Callable[[Record], str | None]:
        def shown(record: Record) -> str | None:
            facts = at(record, "sections", "6", kind, name)
            if at(facts, "ms") is None:
                return at(facts, "error")
            return f"{facts['ms']:.0f} ms, {facts['work_gb']:.2f} GB, {facts['pieces']} pieces"

        return shown

    pieces = ("as it is", "14 frames at a time", "4 frames at a time", "1 frames at a time")
    tiles = [f"tiles of {one}" for one in (384, 320, 256, 192)]
    ways = {"temporal": (*pieces, *tiles, "64 frames"), "image": (*pieces, "64 frames")}
    return [
        (f"{kind} VAE, {name.replace('1 frames', '1 frame')}", cell(kind, name))
        for kind, names in ways.items()
        for name in names
    ]


TABLES: dict[str, tuple[str, Callable[[], Rows]]] = {
    "gpu-figures": ("what", figure_rows),
    "gpu-step": ("a guided step, 16 x 512 x 512", step_rows),
    "gpu-run": ("50 steps, noise to latents", run_rows),
    "gpu-end-to-end": ("prompt to frames, 50 steps", end_to_end_rows),
    "gpu-class": ("class model Latte-XL/2", class_rows),
    "gpu-presets": ("preset", preset_rows),
    "gpu-decoding": ("16 x 512 x 512 unless said", decoder_rows),
}


def filled(page: str, records: dict[str, Record]) -> str:
    """Return a page with all of its tables written anew.

    Raises:
        SystemExit: for a table that there is not.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name not in TABLES:
            raise SystemExit(f"There is no table {name!r}; there are {', '.join(TABLES)}.")
        first, rows = TABLES[name]
        return f"{match[1]}{table(first, rows(), records)}{match[4]}"

    return BLOCK.sub(fill, page)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or say which are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    records = read_records(given.results or sorted(RESULTS.glob("gpu*.json")))
    stale: list[str] = []
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        made = filled(page, records)
        if made != page:
            stale.append(path.name)
            if not given.check:
                path.write_text(made, encoding="utf-8")
    print(f"{'not up to date' if given.check else 'written'}: {', '.join(stale) or 'none'}")
    return int(given.check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
