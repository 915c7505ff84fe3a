"""A new node is one file with its texts beside it and one line; everything else follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.pack import ROOT, copy_pack, listed_nodes, load_pack, load_script

TEXTS = load_script("node_texts")
ID, PLACE = "LatteRepeat", "nodes/latents/repeat"
LINE = f'    "{ID}": part("latents.repeat").{ID},\n'
CODE = '''"""Latte Repeat: a video that begins again."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer
from ..host.base.sockets import check_latent


class LatteRepeat:
    """Puts the frames of a video behind themselves."""

    DISPLAY_NAME = "Latte Repeat"
    CATEGORY = "Latte/latents"
    DESCRIPTION = "Repeat a video: its frames follow themselves as often as you say."
    SEARCH_ALIASES = ["repeat", "loop", "again"]
    FUNCTION = "repeat"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The repeated video.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        times = {"default": 2, "min": 1, "max": 16, "tooltip": "How often the video is seen."}
        return {
            "required": {"samples": ("LATENT", {"tooltip": "Latents of a video."})},
            "optional": {"times": ("INT", times)},
        }

    def repeat(self, samples: dict[str, Any], times: int = 2) -> tuple[dict[str, Any]]:
        """Return (times * F, 4, h, w)."""
        check_integer("times", times, 1, 16)
        frames = check_latent(samples, "samples", self.DISPLAY_NAME)
        return ({"samples": frames.repeat(times, 1, 1, 1)},)
'''
ENGLISH = """Put it before Latte VAE Decode.

## Example

Latte Sampler --> Latte Repeat
"""
CHINESE = """# Latte \u91cd\u590d

\u91cd\u590d\u4e00\u6bb5\u89c6\u9891\u3002

## \u8f93\u5165

- `times` \u6b21\u6570: \u91cd\u590d\u7684\u6b21\u6570\u3002
- `samples` Latent\uff1a\u89c6\u9891\u7684 Latent\u3002

## \u8f93\u51fa

- `latent` Latent\uff1a\u91cd\u590d\u540e\u7684\u89c6\u9891\u3002

## \u793a\u4f8b

Latte \u91c7\u6837\u5668 --> Latte \u91cd\u590d
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the pack with one more file and one more line."""
    folder = copy_pack(tmp_path_factory.mktemp("pack"))
    for name in ("locales", "web"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("README.md", "README.zh.md"):
        shutil.copy(ROOT / name, folder)
    (folder / f"{PLACE}.py").write_text(CODE, encoding="utf-8")
    mapping = folder / "nodes" / "__init__.py"
    text = mapping.read_text(encoding="utf-8")
    mapping.write_text(text.replace("\n}\n", f"\n{LINE}}}\n", 1), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pack(folder: Path) -> Any:
    """The pack with the new node."""
    return load_pack("latte_pack_with_a_new_node", folder)


@pytest.fixture
def texts(folder: Path, pack: Any) -> Any:
    """Put its texts beside the node, and all files back where they were in the end."""
    (folder / f"{PLACE}.en.md").write_text(ENGLISH, encoding="utf-8")
    (folder / f"{PLACE}.zh.md").write_text(CHINESE, encoding="utf-8")
    TEXTS.write(folder, pack.NODE_CLASS_MAPPINGS)
    yield
    for language in ("en", "zh"):
        (folder / f"{PLACE}.{language}.md").unlink()


def test_comfyui_and_tools_that_read_the_source_list_the_new_node(folder: Path, pack: Any) -> None:
    known = load_pack().NODE_CLASS_MAPPINGS
    assert list(pack.NODE_CLASS_MAPPINGS) == listed_nodes(folder) == [*known, ID]
    assert pack.NODE_DISPLAY_NAME_MAPPINGS[ID] == "Latte Repeat"


def test_the_new_node_runs(pack: Any) -> None:
    (video,) = pack.NODE_CLASS_MAPPINGS["LatteEmptyLatent"]().make(width=32, height=16, frames=3)
    node = pack.NODE_CLASS_MAPPINGS[ID]()
    (repeated,) = getattr(node, node.FUNCTION)(samples=video, times=2)
    assert repeated["samples"].shape == (6, 4, 2, 4)


def test_every_text_that_the_new_node_lacks_is_named(folder: Path, pack: Any) -> None:
    lacking = ["name", "description", "tooltip for samples", "tooltip for times"]
    lacking += ["tooltip for output latent", "example"]
    faults = TEXTS.faults(folder, pack.NODE_CLASS_MAPPINGS)
    assert [one for one in faults if ID in one] == [
        f"{ID}: no English example; write it in {PLACE}.en.md",
        *(f"{ID}: no Chinese {what}; write it in {PLACE}.zh.md" for what in lacking),
        f"{ID}: README.md has no row for Latte Repeat in its table of nodes",
    ]


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize(
    ("language", "name", "row"),
    [
        ("en", "Latte Repeat", "| `times` | How often the video is seen. |"),
        (
            "zh",
            "Latte \u91cd\u590d",
            "| `times` \u6b21\u6570 | \u91cd\u590d\u7684\u6b21\u6570\u3002 |",
        ),
    ],
)
def test_locale_and_help_page_are_written_from_its_texts(
    folder: Path, language: str, name: str, row: str
) -> None:
    locale = folder / "locales" / language / "nodeDefs.json"
    definition = json.loads(locale.read_text(encoding="utf-8"))[ID]
    assert definition["display_name"] == name
    assert list(definition["inputs"]) == ["samples", "times"]
    page = (folder / "web" / "docs" / ID / f"{language}.md").read_text(encoding="utf-8")
    assert row in page.splitlines()


@pytest.mark.usefixtures("texts")
def test_nothing_but_a_row_in_the_readmes_is_left_to_do(folder: Path, pack: Any) -> None:
    assert TEXTS.faults(folder, pack.NODE_CLASS_MAPPINGS) == [
        f"{ID}: README.md has no row for Latte Repeat in its table of nodes",
        f"{ID}: README.zh.md has no row for Latte \u91cd\u590d in its table of nodes",
    ]


@pytest.mark.usefixtures("texts")
def test_pages_of_the_other_nodes_stay_what_they_are(folder: Path) -> None:
    pages = [path.relative_to(ROOT) for path in (ROOT / "web" / "docs").rglob("*.md")]
    assert [one for one in pages if (folder / one).read_bytes() != (ROOT / one).read_bytes()] == []
