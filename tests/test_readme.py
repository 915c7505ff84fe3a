"""The READMEs hold: their commands are the ones that are checked, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from latte_test_support.pack import ROOT, load_script

from latte_core.cli.main import make_parser
from latte_core.sampling import SAMPLER_NAMES
from latte_core.video import load_formats

READMES = ["README.md", "README.zh.md"]
GUIDES = ["docs/training.md", "docs/evaluation.md"]
OTHERS = ["acceleration", "architecture", "comfyui", "faults", "memory", "model", "speed"]
PAGES = [*READMES, *GUIDES, "CHANGELOG.md", "SECURITY.md", *(f"docs/{one}.md" for one in OTHERS)]
COMMAND = re.compile(r"<!-- command: (\w+) -->\n```bash\n(.+)\n```")
SHELL_LINE = re.compile(r"^(?:\S+ && )*python -m latte_core ((?:.|\\\n)+?)(?<!\\)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)\)")
VENV_PYTHON = ".venv/bin/python -m "


def text_of(name: str) -> str:
    """Read a page."""
    return (ROOT / name).read_text(encoding="utf-8")


def commands() -> dict[str, str]:
    """Return the two commands of the English README by their names."""
    return dict(COMMAND.findall(text_of("README.md")))


def test_readme_has_exactly_two_commands_that_set_everything_up() -> None:
    found = commands()
    assert set(found) == {"video", "tests"}
    for line, file in zip(
        found.values(), ("requirements.txt", "requirements-dev.txt"), strict=True
    ):
        assert line.startswith(f"python3 -m venv .venv && .venv/bin/pip install -r {file} && ")
    assert found["tests"].endswith(f"{VENV_PYTHON}pytest -n 2")


def test_both_languages_give_the_same_commands() -> None:
    blocks = [re.findall(r"```powershell\n(.+?)```", text_of(name), re.DOTALL) for name in READMES]
    assert dict(COMMAND.findall(text_of("README.zh.md"))) == commands()
    assert blocks[0] == blocks[1] != []


def test_the_video_command_of_windows_says_the_same() -> None:
    said = commands()["video"].partition(VENV_PYTHON)[2]
    assert said.startswith("latte_core sample ") and f"python -m {said}\n" in text_of("README.md")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash: .ci/run cannot be read here")
@pytest.mark.parametrize("name", ["video", "tests"])
def test_ci_runs_the_command_that_the_readme_shows(name: str) -> None:
    command = ["bash", str(ROOT / ".ci" / "readme_command"), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == commands()[name] + "\n"
    assert "readme_command tests" in text_of(".ci/run")


@pytest.mark.parametrize("name", [*READMES, *GUIDES])
def test_every_command_line_of_a_page_is_understood(name: str) -> None:
    lines = SHELL_LINE.findall(text_of(name))
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line.replace("\\\n", " "))
        assert make_parser().parse_args(words).run is not None


@pytest.mark.parametrize("name", READMES)
def test_python_example_compiles_and_samplers_are_all_named(name: str) -> None:
    text = text_of(name)
    examples = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    assert len(examples) == 2 and all(ast.parse(example).body for example in examples)
    assert [one for one in SAMPLER_NAMES if f"`{one}`" not in text] == []


@pytest.mark.parametrize("name", READMES)
def test_every_format_of_videos_is_named(name: str) -> None:
    words = set(re.findall(r"[a-z0-9]+", text_of(name)))
    assert load_formats().keys() - words == set()


@pytest.mark.parametrize("name", PAGES)
def test_links_inside_the_project_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    targets = [link for link in LINK.findall(text_of(name)) if not link.startswith("https://")]
    assert [link for link in targets if not (folder / link).exists()] == []


def test_pictures_in_the_readme_come_from_the_script() -> None:
    script = text_of("docs/make_pictures.py")
    shown = {Path(link).stem for link in LINK.findall(text_of("README.md")) if "images/" in link}
    assert shown and [name for name in shown if name not in script] == []


@pytest.mark.parametrize("name", READMES)
def test_starter_scores_are_those_of_their_cards(name: str) -> None:
    text = text_of(name)
    cards = [
        json.loads(text_of(f"latte_core/assets/{name}/card.json"))
        for name in ("starter", "class_starter")
    ]
    filled = load_script("make_pictures").with_scores(text, *cards)
    assert len(re.findall("<!-- score:", text)) == 16
    assert len(re.findall("<!-- class-score:", text)) == 3
    assert text == filled, "run: python -m docs.make_pictures"


@pytest.mark.parametrize("name", READMES)
def test_every_example_and_switch_is_mentioned(name: str) -> None:
    text = text_of(name)
    examples = [path.stem for path in (ROOT / "example_workflows").glob("*.json")]
    assert [one for one in examples if f"`{one}`" not in text] == []
    assert "LATTE_NO_REGISTER=1" in text
