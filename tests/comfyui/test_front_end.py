"""Every example opens in ComfyUI's page as a person would see it: Chromium, driven by Playwright.

Environment: CHROMIUM names the browser where it is not called `chromium`; COMFYUI_FRONT_END_ROOT
is the `static` folder of the page that the oldest checkout pins; LATTE_SCREENSHOTS is the folder
for the pictures, which otherwise lie in pytest's temporary folder.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.comfy import server as comfy_server
from latte_test_support.workflows import api_format, training_example

from latte_core.cli.main import main as command_line

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "example_workflows").glob("*.json"))}
STARTER = ROOT / "latte_core" / "assets" / "starter"
CHECKOUTS = comfy_server.checkouts()
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
NEEDS_DOWNLOAD = "text_to_video_latte1"
TRAINING = "train_motion_lora"
START = {"x": 95, "y": 92, "width": 1440, "height": 810}  # beside and below the page's own bars
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
VIEW = {"width": 1920, "height": 1080}
READY = "() => window.app && window.app.graph && window.app.extensionManager"
DESCRIBE = """() => app.graph.nodes.map(node => ({
    id: node.id,
    type: node.type,
    known: node.type in LiteGraph.registered_node_types,
    has_errors: Boolean(node.has_errors),
    size: [...node.size],
    least: [...node.computeSize()],
    area: [...node.boundingRect ?? node.getBounding()],
}))"""
RAISED = """() => [...document.querySelectorAll('[role=dialog], .p-toast-message')]
    .map(box => box.innerText)"""
OPEN = """async ([workflow, name]) => {
    await app.loadGraphData(JSON.parse(workflow), true, true, name);
}"""
SHOWS_VIDEO = """width => [...document.querySelectorAll('video')]
    .some(video => video.videoWidth === width)"""
SHOWS_PICTURE = """width => [
    ...document.querySelectorAll('img'), ...app.graph.nodes.flatMap(node => node.imgs ?? [])
].some(picture => picture.naturalWidth === width)"""
TRAIN_BRIEFLY = """() => {
    const train = app.graph.nodes.find(node => node.type === 'LatteTrain');
    for (const [name, value] of [['steps', 2], ['sample_every', 0]]) {
        train.widgets.find(widget => widget.name === name).value = value;
    }
}"""
SAVE = "() => JSON.stringify(app.graph.serialize())"
SHOW = """items => {
    const area = [Infinity, Infinity, -Infinity, -Infinity];
    for (const item of items) {
        const [x, y, width, height] = item.boundingRect ?? item._bounding;
        area[0] = Math.min(area[0], x);
        area[1] = Math.min(area[1], y);
        area[2] = Math.max(area[2], x + width);
        area[3] = Math.max(area[3], y + height);
    }
    const [wide, high] = [innerWidth - 140, innerHeight - 180];
    const view = app.canvas.ds;
    view.scale = Math.min(wide / (area[2] - area[0]), high / (area[3] - area[1]));
    view.offset = [-area[0] + 110 / view.scale, -area[1] + 100 / view.scale];
    app.canvas.setDirty(true, true);
}"""

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not CHECKOUTS, reason=comfy_server.NONE_FOUND),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module", params=CHECKOUTS, ids=lambda path: path.name)
def checkout(request: pytest.FixtureRequest) -> Path:
    """A ComfyUI checkout."""
    return request.param


def latte_1_files(base: Path) -> list[Path]:
    """Return where the files of the Latte-1 example lie."""
    workflow = json.loads(EXAMPLES[NEEDS_DOWNLOAD].read_text(encoding="utf-8"))
    links = [link for node in workflow["nodes"] for link in node["properties"].get("models", [])]
    return [base / "models" / link["directory"] / link["name"] for link in links]


def start_server(checkout: Path, base: Path) -> comfy_server.ComfyServer:
    """Start a ComfyUI whose welcome screen is seen and whose Latte-1 files are empty stand-ins."""
    page_root = os.environ.get("COMFYUI_FRONT_END_ROOT")
    options = ["--front-end-root", page_root] if page_root and checkout == CHECKOUTS[0] else []
    running = comfy_server.start(checkout, base, *options)
    running.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
    command_line(["draw-clips", str(base / "input" / training_example.DATA), "--num", "4"])
    for path in latte_1_files(base):  # the page only looks at names
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return running


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[Path, comfy_server.ComfyServer]]:
    """The running servers; whatever order pytest takes, each checkout starts once."""
    running: dict[Path, comfy_server.ComfyServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture(scope="module")
def server(
    checkout: Path,
    servers: dict[Path, comfy_server.ComfyServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> comfy_server.ComfyServer:
    """A ComfyUI with this pack."""
    if checkout not in servers:
        base = tmp_path_factory.mktemp("comfy") / "base"
        servers[checkout] = start_server(checkout, base)
    return servers[checkout]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


def open_page(browser: Any, server: comfy_server.ComfyServer) -> Any:
    """Open ComfyUI in a fresh window and wait until it is ready for a workflow."""
    window = browser.new_context(viewport=VIEW).new_page()
    window.goto(server.url, wait_until="domcontentloaded")
    window.wait_for_function(READY, timeout=120_000)
    return window


def open_workflow(page: Any, workflow: dict[str, Any], name: str) -> None:
    """Open a workflow and let the page draw it."""
    page.evaluate(OPEN, [json.dumps(workflow), name])
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    settle(page, 700)


def settle(page: Any, milliseconds: int) -> None:
    """Let the page draw and raise what it wants to raise."""
    page.evaluate("time => new Promise(done => setTimeout(done, time))", milliseconds)


def show(page: Any, items: str = "[...app.graph.nodes, ...app.graph.groups]") -> None:
    """Scale and move the view so that it holds these parts of the graph."""
    page.evaluate(SHOW, page.evaluate_handle(items))
    settle(page, 1000)


@dataclass
class Opened:
    """An example in a window of its own."""

    name: str
    workflow: dict[str, Any]
    page: Any


@pytest.fixture(scope="module", params=EXAMPLES)
def example(
    request: pytest.FixtureRequest,
    browser: Any,
    server: comfy_server.ComfyServer,
    checkout: Path,
) -> Iterator[Opened]:
    """An example workflow, opened in the page."""
    name = request.param
    if "combine" in name and not comfy_server.has_vhs(checkout):
        pytest.skip(f"{checkout.name} has no VideoHelperSuite")
    workflow = json.loads(EXAMPLES[name].read_text(encoding="utf-8"))
    page = open_page(browser, server)
    open_workflow(page, workflow, name)
    yield Opened(name, workflow, page)
    page.context.close()


@pytest.fixture(scope="module")
def pictures(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for screenshots."""
    named = os.environ.get("LATTE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder = folder / checkout.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def values_of(workflow: dict[str, Any]) -> dict[int, Any]:
    """Return node number -> widget values."""
    return {node["id"]: node.get("widgets_values", []) for node in workflow["nodes"]}


def keeps(saved: Any, value: Any) -> bool:
    """Whether what the page saved holds all of what the file held, in its place."""
    if isinstance(value, dict):
        return saved.items() >= value.items()
    return list(saved or [])[: len(value)] == value


def test_example_opens_with_no_missing_node_and_no_error_mark(example: Opened) -> None:
    nodes = example.page.evaluate(DESCRIBE)
    assert [node["type"] for node in nodes if not node["known"]] == []
    assert [node["type"] for node in nodes if node["has_errors"]] == []
    assert example.page.evaluate(RAISED) == []


def test_nodes_are_large_enough_for_their_widgets_and_do_not_overlap_on_the_page(
    example: Opened, pictures: Path
) -> None:
    show(example.page)
    example.page.screenshot(path=pictures / f"{example.name}.png")
    show(example.page, "app.graph.groups.slice(0, 2)")
    example.page.screenshot(path=pictures / f"{example.name}_start.png", clip=START)

    nodes = example.page.evaluate(DESCRIBE)
    assert [node for node in nodes if node["size"][1] + 1 < node["least"][1]] == []
    crossing = [
        (one["type"], other["type"])
        for one, other in itertools.combinations(nodes, 2)
        if one["area"][0] < other["area"][0] + other["area"][2]
        and other["area"][0] < one["area"][0] + one["area"][2]
        and one["area"][1] < other["area"][1] + other["area"][3]
        and other["area"][1] < one["area"][1] + one["area"][3]
    ]
    assert crossing == []


def test_the_page_queues_what_the_execution_tests_queue(
    example: Opened, server: comfy_server.ComfyServer
) -> None:
    queued = example.page.evaluate("async () => (await app.graphToPrompt()).output")
    ours = api_format.to_api(example.workflow, server.get("/object_info"))
    assert queued.keys() == ours.keys()
    for number, node in ours.items():
        assert queued[number]["class_type"] == node["class_type"]
        assert queued[number]["inputs"].items() >= node["inputs"].items()


@pytest.mark.skipif(not STARTER.is_dir(), reason="latte_core/assets/starter is not there")
def test_pressing_run_shows_the_video_or_picture(example: Opened, pictures: Path) -> None:
    if example.name == NEEDS_DOWNLOAD:
        pytest.skip("needs the weights of Latte-1")
    width = 64 if "stock" in example.name else 256
    shows = SHOWS_PICTURE if "image" in example.name else SHOWS_VIDEO
    if example.name == TRAINING:
        width, shows = 960, SHOWS_PICTURE
        example.page.evaluate(TRAIN_BRIEFLY)
    show(example.page)  # the page loads only the videos it can show
    example.page.evaluate("async () => { await app.queuePrompt(0) }")
    example.page.wait_for_function(
        shows,
        arg=width,
        timeout=comfy_server.RUN_SECONDS * 1000,
    )
    settle(example.page, 6000)  # until the notice of completion is gone
    show(example.page)
    example.page.screenshot(path=pictures / f"{example.name}_after_run.png")
    assert [node["type"] for node in example.page.evaluate(DESCRIBE) if node["has_errors"]] == []


def test_widget_values_survive_opening_saving_and_opening_again(
    example: Opened, browser: Any, server: comfy_server.ComfyServer
) -> None:
    page = open_page(browser, server)
    open_workflow(page, example.workflow, example.name)
    saved = json.loads(page.evaluate(SAVE))
    open_workflow(page, saved, "again")
    again = json.loads(page.evaluate(SAVE))
    page.context.close()

    written = values_of(example.workflow)
    assert values_of(saved).keys() == written.keys()
    lost = {
        number: (values, values_of(saved)[number])
        for number, values in written.items()
        if not keeps(values_of(saved)[number], values)
    }
    assert lost == {}
    assert values_of(again) == values_of(saved)


def test_missing_files_of_latte_1_are_named_where_their_link_is(
    browser: Any, server: comfy_server.ComfyServer, pictures: Path
) -> None:
    for path in latte_1_files(server.base):
        path.unlink()
    page = open_page(browser, server)
    workflow = json.loads(EXAMPLES[NEEDS_DOWNLOAD].read_text(encoding="utf-8"))
    open_workflow(page, workflow, NEEDS_DOWNLOAD)
    settle(page, 1500)
    page.screenshot(path=pictures / f"{NEEDS_DOWNLOAD}_missing.png")

    named = " ".join(page.evaluate(RAISED))
    marked = {node["type"] for node in page.evaluate(DESCRIBE) if node["has_errors"]}
    page.context.close()
    all_named = all(path.name in named for path in latte_1_files(server.base))
    assert all_named or marked == {"UNETLoader", "CLIPLoader", "VAELoader"}
