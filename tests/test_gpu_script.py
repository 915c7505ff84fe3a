"""`benchmarks/gpu.py`: a short rehearsal of all of it, and what it does when things go wrong."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks"
ABSENT_ON_CPUS = {"efficient", "cudnn"}  # backends of attention


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the short rehearsal in a process of its own and return its JSON file."""
    output = tmp_path_factory.mktemp("rehearsal") / "gpu.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "gpu.py"), "--rehearse", "--short", "--output", str(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture(scope="module")
def scripts() -> Generator[Callable[[str], Any]]:
    """Import benchmarks and their sections by name, and forget them afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        for path in SCRIPTS.glob("*.py"):  # other modules may have these names
            patch.delitem(sys.modules, path.stem, raising=False)
        yield importlib.import_module
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and Path(file).is_relative_to(SCRIPTS):
                del sys.modules[name]


@pytest.fixture
def session(scripts: Callable[[str], Any], tmp_path: Path) -> Any:
    """A session of a rehearsal with nothing in it."""
    sizes = scripts("gpu_sections.sizes").SHORT
    models = scripts("gpu_sections.weights").ModelFolder(tmp_path, sizes, "cpu", torch.float32)
    return scripts("gpu_sections.session").Session(
        card=scripts("measuring.card").Card("cpu"),
        sizes=sizes,
        output=tmp_path / "gpu.json",
        deadline=600,
        models=models,
    )


def section(scripts: Callable[[str], Any], run: Any, number: int = 1, **changes: Any) -> Any:
    about = {"name": f"section {number}", "needs": 1, "most": 60, **changes}
    return scripts("gpu_sections.session").Section(number=number, run=run, **about)


def failures(found: Any, name: str = "") -> list[str]:
    """Return the names of everything that a record calls an error."""
    if not isinstance(found, dict):
        return []
    own = [name] if "error" in found else []
    return own + [one for key, value in found.items() for one in failures(value, key)]


def test_rehearsal_writes_every_figure(rehearsed: Path) -> None:
    figures = json.loads(rehearsed.read_text(encoding="utf-8"))["figures"]
    assert [name for name, value in figures.items() if value is None] == []
    assert figures["tests"] > 0
    assert figures["failed_tests"] == 0
    assert list(figures["peak_gb"]) == ["24", "12", "8", "6", "4"]
    assert all(figures["peak_gb"].values())


def test_rehearsal_runs_every_section_without_an_error(rehearsed: Path) -> None:
    sections = json.loads(rehearsed.read_text(encoding="utf-8"))["sections"]
    assert {one["state"] for one in sections.values()} == {"done"}
    assert list(sections) == [str(number) for number in range(1, 10)]
    assert set(failures(sections)) <= ABSENT_ON_CPUS


def test_rehearsal_leaves_a_sheet_and_a_profile_beside_its_json(rehearsed: Path) -> None:
    files = json.loads(rehearsed.read_text(encoding="utf-8"))["files"]
    assert sorted(files) == ["gpu.profile.txt", "gpu.sheet.png"]
    assert all((rehearsed.parent / name).stat().st_size > 1000 for name in files)


def test_presets_of_a_rehearsal_make_the_same_latents(rehearsed: Path) -> None:
    presets = json.loads(rehearsed.read_text(encoding="utf-8"))["sections"]["5"]
    assert all(presets[name]["latents_equal"] for name in ("24", "12", "8", "6", "4"))


def test_file_holds_everything_so_far_while_a_section_runs(
    scripts: Callable[[str], Any], session: Any
) -> None:
    run_section = scripts("gpu_sections.session").run_section
    seen: list[Any] = []

    def second(session: Any, found: dict[str, Any]) -> None:
        session.attempt(found, "measured", lambda: 7)
        seen.append(json.loads(session.output.read_text(encoding="utf-8")))
        raise KeyboardInterrupt

    run_section(session, section(scripts, lambda session, found: session.figure("tests", 3)))
    with pytest.raises(KeyboardInterrupt):
        run_section(session, section(scripts, second, 2))
    assert seen[0]["figures"]["tests"] == 3
    assert [one["state"] for one in seen[0]["sections"].values()] == ["done", "running"]
    assert seen[0]["sections"]["2"]["measured"] == 7
    assert json.loads(session.output.read_text(encoding="utf-8")) == seen[0]


def test_section_that_fails_is_told_with_its_traceback_and_the_next_one_runs(
    scripts: Callable[[str], Any], session: Any
) -> None:
    run_section = scripts("gpu_sections.session").run_section

    def fail(session: Any, found: dict[str, Any]) -> None:
        found["before"] = 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    run_section(session, section(scripts, fail))
    run_section(session, section(scripts, lambda session, found: None, 2))
    first, second = session.record["sections"].values()
    assert (first["state"], first["before"]) == ("failed", 1)
    assert first["error"] == "OutOfMemoryError: CUDA out of memory"
    assert "in fail" in "".join(first["traceback"])
    assert second["state"] == "done"


def test_measurement_that_fails_leaves_the_others_of_its_section(session: Any) -> None:
    found: dict[str, Any] = {}
    assert session.attempt(found, "broken", lambda: 1 // 0) is None
    assert session.attempt(found, "sound", lambda: 2) == 2
    assert found["broken"]["error"].startswith("ZeroDivisionError")
    assert found["sound"] == 2


def test_section_that_does_not_fit_is_skipped_and_named(
    scripts: Callable[[str], Any], session: Any
) -> None:
    session.deadline = 4.0
    chosen = section(scripts, lambda session, found: found.update(ran=True), 8, needs=1000)
    scripts("gpu_sections.session").run_section(session, chosen)
    assert session.record["sections"]["8"] == {"name": "section 8", "state": "skipped"}
    assert "--sections 8" in session.record["left_out"][0]


def test_section_is_stopped_when_its_time_is_over(
    scripts: Callable[[str], Any], session: Any
) -> None:
    def endless(session: Any, found: dict[str, Any]) -> None:
        session.attempt(found, "loop", lambda: [None for _ in iter(int, 1)])

    scripts("gpu_sections.session").run_section(session, section(scripts, endless, most=0.01))
    assert session.record["sections"]["1"]["error"].startswith("TimeUp")


def test_what_the_package_says_is_written_down(scripts: Callable[[str], Any], session: Any) -> None:
    warn = importlib.import_module("warnings").warn
    told = importlib.import_module("logging").getLogger("latte")

    def speak(session: Any, found: dict[str, Any]) -> None:
        warn("no kernels here", stacklevel=1)
        told.warning("Not enough memory.")

    scripts("gpu_sections.session").run_section(session, section(scripts, speak))
    found = session.record["sections"]["1"]
    assert found["warnings"] == ["UserWarning: no kernels here"]
    assert found["notices"] == ["Not enough memory."]


def test_later_run_adds_to_the_file_of_the_same_sizes_only(
    scripts: Callable[[str], Any], tmp_path: Path
) -> None:
    script, sizes = scripts("gpu"), scripts("gpu_sections.sizes")
    path = tmp_path / "gpu.json"
    path.write_text('{"sizes": "full", "figures": {"tests": 3}, "left_out": ["all"]}')
    assert script.earlier_record(path, sizes.FULL)["figures"] == {"tests": 3}
    with pytest.raises(SystemExit, match="another --output"):
        script.earlier_record(path, sizes.SHORT)


def test_card_reads_peaks_and_limits_memory_of_a_gpu(
    scripts: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    stand_ins = {
        "set_device": calls.append,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: calls.append("reset"),
        "memory_allocated": lambda: 2 * 10**9,
        "max_memory_allocated": lambda: 5 * 10**9,
        "max_memory_reserved": lambda: 6 * 10**9,
        "get_device_properties": lambda device: types.SimpleNamespace(total_memory=48 * 10**9),
        "set_per_process_memory_fraction": calls.append,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    card = scripts("measuring.card").Card("cuda")
    found = card.memory_of(lambda: calls.append("work"))
    card.limit(12e9)
    card.limit(None)
    assert found == {"peak_allocated_gb": 5.0, "peak_reserved_gb": 6.0, "work_gb": 3.0}
    assert calls == [0, "reset", "work", 0.25, 1.0]


def test_time_that_spans_cover_counts_overlaps_once(scripts: Callable[[str], Any]) -> None:
    covered = scripts("measuring.card").covered
    assert covered([(5, 9), (0, 4), (1, 3), (8, 10)]) == 9
    assert covered([]) == 0


def test_tests_for_a_gpu_are_found_by_their_marker(scripts: Callable[[str], Any]) -> None:
    paths = scripts("gpu_sections.attention").gpu_test_paths(("tests/core",))
    assert {"tests/core/kernels", "tests/core/acceleration/test_graphs.py"} <= set(paths)


def test_outcomes_of_tests_are_counted(scripts: Callable[[str], Any]) -> None:
    report = ElementTree.fromstring(
        '<testsuite><testcase classname="a" name="one"/><testcase classname="a" name="two">'
        '<skipped/></testcase><testcase classname="a" name="three"><failure message="no"/>'
        "</testcase></testsuite>"
    )
    found = scripts("gpu_sections.attention").outcomes(report)
    assert found == {
        "passed": 1,
        "skipped": 1,
        "failed": [{"test": "a.three", "message": "no"}],
    }


@pytest.fixture
def record(rehearsed: Path) -> dict[str, Any]:
    """A rehearsal's record that says it is of a card."""
    found = json.loads(rehearsed.read_text(encoding="utf-8"))
    return {**found, "sizes": "full", "device": "a card"}


def test_tables_show_what_was_measured_and_name_what_was_not(
    scripts: Callable[[str], Any], record: dict[str, Any], tmp_path: Path
) -> None:
    tables = scripts("gpu_tables")
    path = tmp_path / "gpu_card.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    page = "<!-- table: gpu-presets -->\nold\n<!-- end -->\nprose\n<!-- table: gpu-figures -->\n"
    made = tables.filled(f"{page}<!-- end -->\n", tables.read_records([path]))
    assert "old" not in made
    assert "\nprose\n" in made
    assert "| preset | a card |" in made
    assert f"{record['figures']['exact_speedup']:.2f}x" in made
    assert tables.UNKNOWN not in made
    assert made == tables.filled(made, tables.read_records([path]))
    assert made.count("|") == tables.filled(made, {}).count("|")
    assert tables.filled(made, {}).count(tables.UNKNOWN) == 5 + 6


def test_every_table_is_filled_from_a_record(
    scripts: Callable[[str], Any], record: dict[str, Any]
) -> None:
    tables = scripts("gpu_tables")
    for first, rows in tables.TABLES.values():
        made = tables.table(first, rows(), {"a card": record})
        assert made.count("\n") == len(rows()) + 2
        assert any(cell(record) for _, cell in rows())


def test_later_files_of_a_card_go_over_the_earlier(
    scripts: Callable[[str], Any], tmp_path: Path
) -> None:
    first = {
        "sizes": "full",
        "device": "a card",
        "figures": {"tests": 9, "exact_compiled_speedup": None},
        "sections": {"1": {"state": "done"}, "9": {"state": "skipped"}},
    }
    second = {
        "sizes": "full",
        "device": "a card",
        "figures": {"tests": None, "exact_compiled_speedup": 1.5},
        "sections": {"9": {"state": "done"}},
    }
    paths = [tmp_path / "gpu_1.json", tmp_path / "gpu_2.json"]
    for path, found in zip(paths, (first, second), strict=True):
        path.write_text(json.dumps(found), encoding="utf-8")
    made = scripts("gpu_tables").read_records(paths)["a card"]
    assert made["figures"] == {"tests": 9, "exact_compiled_speedup": 1.5}
    assert {key: one["state"] for key, one in made["sections"].items()} == {
        "1": "done",
        "9": "done",
    }


def test_tables_are_not_made_from_a_rehearsal(
    scripts: Callable[[str], Any], rehearsed: Path
) -> None:
    with pytest.raises(SystemExit, match="without --rehearse"):
        scripts("gpu_tables").read_records([rehearsed])


def test_pages_hold_what_the_recorded_results_say(scripts: Callable[[str], Any]) -> None:
    tables = scripts("gpu_tables")
    records = tables.read_records(sorted(tables.RESULTS.glob("gpu*.json")))
    named = "".join(path.read_text(encoding="utf-8") for path in tables.PAGES)
    assert all(tables.filled(page, records) == page for page in [named])
    assert all(f"<!-- table: {name} -->" in named for name in tables.TABLES)


def test_readme_says_what_each_section_measures(scripts: Callable[[str], Any]) -> None:
    readme = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    missing = [one.name for one in scripts("gpu").SECTIONS if f"| {one.name} |" not in readme]
    assert missing == []
