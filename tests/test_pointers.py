"""Every pointer of a text leads to something in this repository: pages, sections, rows, files."""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import PurePosixPath

import pytest
from latte_test_support.pack import ROOT

SUFFIXES = {".md", ".py", ".toml", ".txt", ".yaml", ""}
CARDS = ("card.json",)  # the pages of the starters
FAULTS = "docs/faults.md"
NUMBERED = ("docs/acceleration.md", "docs/comfyui.md", FAULTS, "docs/model.md")
# Files of other projects that texts name: the authors' scripts, and ComfyUI's own modules.
FOREIGN = {
    *("models/latte.py", "sample/pipeline_latte.py"),
    *("sample.py", "sample_ddp.py", "train_with_img.py"),
    *("comfy/ops.py", "comfy/quant_ops.py", "comfy/utils.py", "comfyui_version.py", "nodes.py"),
    "note.md",  # of a test
}
# Tests that write a house of their own, whose files they name.
WITH_OWN_FILES = {
    "tests/nodes/test_new_node.py",
    "tests/test_house.py",
    "tests/test_locales.py",
}

LINE_BREAK = re.compile(r"\n[ \t]*(?:#+[ \t]*)?")
PAGE = re.compile(r"[\w./-]*\w\.md\b(?:`?,?(?: sections?)? \d)?")
NUMBERS = r"((?:(?:,| and| to| or|-)? ?\d+(?:\.\d+)?(?![\w%]))+)"
POINTER = re.compile(rf"docs/(\w+)\.md`?,?(?: sections?)?{NUMBERS}")
LINKED = re.compile(rf"\]\((\w+)\.md\), sections?{NUMBERS}")
HEADING = re.compile(r"^#{2,3} (\d+(?:\.\d+)?)\b", re.MULTILINE)
ANCHOR = re.compile(r"\]\(([\w./-]*)#([\w-]+)\)")
ROW = re.compile(r"\bR\d\d\b|(?<=_)r\d\d(?=_)")
FILE = re.compile(r"[\w./-]*\w\.py\b")
PLACE = re.compile(r"(?<![\w/.-])(?:latte_core|nodes|tests|benchmarks|docs|web)/[\w./-]+\.\w+")
UNNAMED = re.compile(r"\b(?:acceptance|decision|reliability|spec|specification) [A-Z]?\d+\b")
TEST = re.compile(r"`([\w/.]+\.py)::(\w+)`")


@cache
def tracked() -> frozenset[str]:
    """Return the names of all files that git knows."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    return frozenset(name for name in listed if name and (ROOT / name).is_file())


@cache
def texts() -> dict[str, str]:
    """Return the text of every page, program and settings file, each on a single line."""
    names = sorted(
        name
        for name in tracked() - WITH_OWN_FILES
        if PurePosixPath(name).suffix in SUFFIXES or name.endswith(CARDS)
    )
    return {name: LINE_BREAK.sub(" ", text_of(name)) for name in names}


def text_of(name: str) -> str:
    """Read a file."""
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def headings(page: str) -> frozenset[str]:
    """Return the section numbers of a page."""
    return frozenset(HEADING.findall(text_of(page)))


def rows() -> dict[str, str]:
    """Return the rows of the list of faults and their text."""
    parts = re.split(r"^### (R\d\d) ", text_of(FAULTS), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def slug(heading: str) -> str:
    """Return the anchor that a heading has on GitHub."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def leads_somewhere(name: str, target: str) -> bool:
    """Whether a path in the file `name` is one of the project's, seen from there or the root."""
    starts = (posixpath.dirname(name), "")
    return any(posixpath.normpath(posixpath.join(one, target)) in tracked() for one in starts)


@cache
def path_ends() -> frozenset[str]:
    """Return the paths of all files, and every end of them that begins with a folder or a name."""
    split = [name.split("/") for name in tracked()]
    return frozenset("/".join(parts[start:]) for parts in split for start in range(len(parts)))


def is_known(name: str, file: str) -> bool:
    """Whether a text that stands in `name` names a file of the project, by the end of its path."""
    file = file.lstrip("/")
    return file in FOREIGN or file in path_ends() or leads_somewhere(name, file)


def require_none(broken: Sequence[str]) -> None:
    """Fail with one line for each pointer that leads nowhere."""
    assert not broken, "\n" + "\n".join(broken)


def test_every_page_that_is_named_is_there() -> None:
    """A page with a section is named by its whole path; any other by the end of it, at least."""
    broken: list[str] = []
    for name, text in texts().items():
        for found in PAGE.findall(text):
            page = found[: found.index(".md") + 3]
            is_there = is_known(name, page) if page == found else leads_somewhere(name, page)
            broken += [] if is_there else [f"{name} names {found}"]
    require_none(broken)


def test_no_text_points_to_a_number_of_nothing() -> None:
    """A reader has no page to look such a number up in."""
    require_none(
        [
            f"{name} says {found}"
            for name, text in texts().items()
            for found in UNNAMED.findall(text)
        ]
    )


def test_every_section_that_is_named_is_there() -> None:
    found = [
        (name, f"docs/{page}.md", number)
        for name, text in texts().items()
        for pattern in (POINTER, LINKED)
        for page, numbers in pattern.findall(text)
        for number in re.findall(r"\d+(?:\.\d+)?", numbers)
        if f"docs/{page}.md" in NUMBERED
    ]
    assert len(found) > 80, "the pattern no longer sees them"
    require_none([f"{one} names {page} {n}" for one, page, n in found if n not in headings(page)])


def test_every_anchor_of_a_link_is_a_heading() -> None:
    broken: list[str] = []
    for name in sorted(one for one in tracked() if one.endswith(".md")):
        for file, anchor in ANCHOR.findall(text_of(name)):
            page = posixpath.normpath(posixpath.join(posixpath.dirname(name), file))
            lines = re.findall(r"^#+ (.+)$", text_of(page if file else name), re.MULTILINE)
            if anchor not in map(slug, lines):
                broken.append(f"{name} links to {file}#{anchor}")
    require_none(broken)


def test_every_fault_that_is_named_has_its_row() -> None:
    known = set(rows())
    named = {(name, row.upper()) for name, text in texts().items() for row in ROW.findall(text)}
    require_none([f"{name} names {row}" for name, row in sorted(named) if row not in known])


def test_rows_of_faults_are_numbered_through_and_say_their_tests() -> None:
    found = rows()
    assert list(found) == [f"R{number:02d}" for number in range(1, len(found) + 1)]
    silent = [row for row, text in found.items() if not TEST.search(text) and "No test" not in text]
    require_none(silent)


@pytest.mark.parametrize("page", [FAULTS, "docs/acceleration.md", "docs/comfyui.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = TEST.findall(text_of(page))
    assert named
    require_none(
        [
            f"{file}::{function}"
            for file, function in named
            if file not in tracked() or f"\ndef {function}(" not in text_of(file)
        ]
    )


def test_every_program_that_a_text_names_is_there() -> None:
    """By its whole path, or by the end of it as in "`sampling/noise.py`"; history is left alone."""
    require_none(
        [
            f"{name} names {file}"
            for name, text in texts().items()
            if name != "CHANGELOG.md"
            for file in FILE.findall(text)
            if not is_known(name, file)
        ]
    )


def test_every_path_from_the_root_is_there() -> None:
    require_none(
        [
            f"{name} names {place}"
            for name, text in texts().items()
            if name != "CHANGELOG.md"
            for place in PLACE.findall(text)
            if not (ROOT / place).exists()
        ]
    )
