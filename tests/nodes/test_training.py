"""The training nodes on a stand-in for ComfyUI: names, checks, and trainings that really run."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from latte_test_support import comfy_stand_in
from latte_test_support.comfy_stand_in import Interrupted, StandIn
from latte_test_support.pack import ROOT, load_pack

from latte_core.checkpoint.lora_writer import read_card
from latte_core.checkpoint.reader import read_header
from latte_core.cli.main import main as command_line
from latte_core.data.prepare import PrepareSettings, prepare_set
from latte_core.training.run_folder import RunFolder
from latte_core.video import write_image

PACK = load_pack()
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS
STARTER = ROOT / "latte_core" / "assets" / "starter"
PATIENCE = 300  # seconds; a busy machine takes long to import torch
FOREVER = 1_000_000  # updates

needs_starter = pytest.mark.skipif(
    not STARTER.is_dir(), reason="latte_core/assets/starter is not there"
)


def part(name: str) -> ModuleType:
    """Return a module of the pack."""
    return importlib.import_module(f"{PACK.__name__}.{name}")


def refusal() -> Any:
    """Return the pack's own error for inputs that cannot be used."""
    return part("latte_core.errors").InvalidInputError


def call(node: str, **inputs: Any) -> Any:
    """Run a node on its defaults and these inputs."""
    cls = NODES[node]
    groups = cls.INPUT_TYPES().values()
    defaults = {name: one[1].get("default") for group in groups for name, one in group.items()}
    return getattr(cls(), cls.FUNCTION)(**{**defaults, **inputs})


def small(**changes: Any) -> dict[str, Any]:
    """Return widgets of a short run on the prepared set, without samples."""
    short = {"steps": 3, "batch_size": 2, "rank": 2, "interval": 1, "sample_every": 0}
    return {"data": "prepared", "run_name": "run", **short, **changes}


def status_of(base: Path, name: str = "run") -> dict[str, Any]:
    """Return what the training wrote about itself last."""
    return RunFolder(base / "output" / "latte_training" / name).status()


def wait_until(is_so: Any, what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not happen"
        pause.wait(0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips that were drawn, as videos and as a prepared set."""
    folder = tmp_path_factory.mktemp("data")
    arguments = ["draw-clips", str(folder / "videos"), "--num", "4", "--format", "mp4"]
    assert command_line(arguments) == 0
    prepare_set(folder / "videos", folder / "prepared", "starter", PrepareSettings(), device="cpu")
    return folder


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A ComfyUI with empty folders; what it trains at the end of the test is ended."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stand_in = StandIn(tmp_path / "comfy")
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    before = set(threading.enumerate())
    yield stand_in
    for thread in set(threading.enumerate()) - before:
        if hasattr(thread, "end_input"):
            thread.process.kill()  # type: ignore[attr-defined]
            thread.join(PATIENCE)


@pytest.fixture
def trained(host: StandIn, data: Path) -> StandIn:
    """A ComfyUI whose input folder holds the clips and the set."""
    shutil.copytree(data, host.folder("input"), dirs_exist_ok=True)
    return host


NAMES = [
    "run", "my run", "v1.2", "caf\u00e9 \u89c6\u9891", "../../x", "..", ".", "/etc/passwd", "C:\\x",
    "a/b", "a\\b", "", "   ", "...", "nul", "NUL.txt", "com1", "lpt9.x", "a\0b", "a\nb", "a:b*c?",
    "x" * 300, "\u89c6" * 300, "\ud800", "~", ".hidden", "trailing. ",
]  # fmt: skip


@pytest.mark.parametrize("text", NAMES)
def test_every_name_becomes_one_folder_among_the_runs(text: str, host: StandIn) -> None:
    folders = part("nodes.host.training_folders")
    folder = folders.run_folder(text)
    assert folder.parent == Path(host.folder("output")) / "latte_training"
    assert folders.safe_name(folder.name) == folder.name, "a name stays as it is"
    assert not set(folder.name) & set('/\\:*?"<>|\0\n')
    assert folder.name == folder.name.strip(". ")
    assert len(f".{folder.name}.12345678.part.safetensors".encode()) < 255
    folder.mkdir(parents=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf\u00e9 \u89c6\u9891 v1.2", "caf\u00e9 \u89c6\u9891 v1.2"),
        ("../../x", "_.._x"),
        ("nul.txt", "_nul.txt"),
        ("...", "my_training"),
    ],
)
def test_usual_names_are_kept_and_others_say_what_they_were(text: str, expected: str) -> None:
    assert part("nodes.host.training_folders").safe_name(text) == expected


@pytest.mark.parametrize("value", [None, 3, ["run"], b"run"])
def test_a_name_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(refusal(), match="must be text"):
        part("nodes.host.training_folders").safe_name(value)


def test_a_run_that_is_a_link_to_elsewhere_is_refused(host: StandIn, tmp_path: Path) -> None:
    runs = Path(host.folder("output/latte_training"))
    (runs / "run").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(refusal(), match="leads out"):
        part("nodes.host.training_folders").run_folder("run")


@pytest.mark.parametrize("node", ["LatteTrainingStatus", "LatteStopTraining"])
def test_a_run_that_there_is_not_is_answered_with_those_there_are(node: str, host: StandIn) -> None:
    host.folder("output/latte_training/first")
    with pytest.raises(refusal(), match="no run 'second'.*There is first"):
        call(node, run="second")


def test_folders_of_videos_pictures_classes_and_sets_are_listed(host: StandIn) -> None:
    for name in (
        *("videos/a.mp4", "by class/cats/1.gif", "frames/clip/0.png", "set/set.json"),
        *("notes/a.txt", ".hidden/a.mp4", "pictures/0.png", "deep/er/still/a.mp4"),
    ):
        file = Path(host.folder("input")) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (widget, _) = NODES["LatteTrain"].INPUT_TYPES()["required"]["data"]
    assert widget == ["by class", "frames", "set", "videos"]


@pytest.mark.parametrize("name", ["", ".", "..", "../input/prepared", "/tmp", "videos/00000.mp4"])
def test_data_that_is_not_listed_is_refused(name: str, trained: StandIn) -> None:
    with pytest.raises(refusal(), match="none of the 2 folders"):
        call("LatteTrain", **small(data=name))


WRONG = [
    ("model", "../starter"), ("model", "nothing.safetensors"), ("method", "LoRA"), ("steps", 0),
    ("steps", 10**9), ("steps", 1.5), ("batch_size", 0), ("batch_size", True),
    ("learning_rate", float("nan")), ("learning_rate", -1e-4), ("learning_rate", 2.0), ("rank", 0),
    ("rank", 2**31), ("num_frames", 0), ("interval", 0), ("precision", "float64"),
    ("training_seed", -1), ("training_seed", 2**64), ("sample_every", -1), ("sample_prompts", 3),
    ("checkpoint_activations", "yes"),
]  # fmt: skip


@pytest.mark.parametrize(("widget", "value"), WRONG)
def test_values_out_of_range_are_refused_by_the_name_of_their_widget(
    widget: str, value: Any, trained: StandIn
) -> None:
    with pytest.raises(refusal(), match=f"^{widget} is "):
        call("LatteTrain", **small(**{widget: value}))
    assert not (trained.base / "output" / "latte_training").exists(), "nothing was made"


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("LatteTrainingStatus", {"wait": "maybe"}),
        ("LatteTrainingStatus", {"seconds": 0}),
        ("LatteTrainingStatus", {"seconds": 0.5}),
        ("LatteStopTraining", {"seconds": -1}),
    ],
)
def test_watching_and_stopping_check_their_widgets(
    node: str, inputs: dict[str, Any], host: StandIn
) -> None:
    host.folder("output/latte_training/run")
    with pytest.raises(refusal(), match=f"^{next(iter(inputs))} is "):
        call(node, run="run", **inputs)


def config_of(widgets: dict[str, Any]) -> dict[str, Any]:
    """Return the training config of these widgets, checked as the training checks it."""
    cls = part("nodes.host.training_settings").TrainSettings
    groups = NODES["LatteTrain"].INPUT_TYPES().values()
    defaults = {name: one[1].get("default") for group in groups for name, one in group.items()}
    folder = part("nodes.host.training_folders").run_folder(widgets["run_name"])
    values = part("nodes.host.training_settings").config_values(
        cls(**{**defaults, **widgets}), folder, "bfloat16"
    )
    return part("latte_core.training.train_config").TrainConfig.from_dict(values).to_dict()


@pytest.mark.parametrize(
    ("method", "blocks"),
    [
        ("motion LoRA (temporal)", "temporal"),
        ("LoRA (spatial)", "spatial"),
        ("LoRA (both)", "both"),
    ],
)
def test_a_method_chooses_the_blocks_of_the_lora(
    method: str, blocks: str, trained: StandIn
) -> None:
    config = config_of(small(method=method, rank=8))
    assert (config["lora"]["blocks"], config["lora"]["rank"], config["lora"]["alpha"]) == (
        blocks,
        8,
        8.0,
    )


def test_widgets_mean_what_they_say(trained: StandIn) -> None:
    config = config_of(
        small(
            method="all weights",
            sample_prompts="  a red circle\n\nblue  \n",
            training_seed=2**64 - 1,
            checkpoint_activations=True,
        )
    )
    assert config["lora"] is None
    assert config["precision"] == "bfloat16", "auto is what the machine is best at"
    assert config["sample_prompts"] == ["a red circle", "blue"]
    assert config["seed"] == 2**64 - 1
    assert config["checkpoint_activations"] is True
    assert config["data"] == [str(trained.base / "input" / "prepared")]
    assert config_of(small(precision="float16"))["precision"] == "float16"


@needs_starter
def test_a_transformer_without_companions_trains_on_a_prepared_set_alone(
    trained: StandIn,
) -> None:
    weights = STARTER / "transformer" / "diffusion_pytorch_model.safetensors"
    lone = Path(trained.models("diffusion_models")[1]) / "lone.safetensors"
    lone.symlink_to(weights)
    assert config_of(small(model="lone.safetensors"))["model"] == str(lone)
    for widgets in (small(data="videos"), small(sample_every=5)):
        with pytest.raises(refusal(), match=r"model is lone\.safetensors.*vae.*models/diffusers"):
            config_of({**widgets, "model": "lone.safetensors"})


NOW = 1_000_000_000.0
GONE = 2**22 + 1  # no process has such a number
CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, str, str]] = {
    "nothing": (None, None, "cut off", "cut off"),
    "killed with ComfyUI": (
        {"state": "running", "step": 4, "loss": 0.5},
        {},
        "cut off",
        "goes on from update 0",
    ),
    "failed": ({"state": "failed", "message": "Too few."}, {"code": 2}, "failed", "Too few."),
    "crashed": ({"state": "running", "step": 4}, {"code": -9}, "failed", "Memory is full"),
    "crashed while loading": (
        {"state": "finished", "step": 9, "time": NOW - 5},
        {"code": 1},
        "failed",
        "Memory is full",
    ),
    "stopped": ({"state": "stopped", "step": 4}, {"code": 0}, "stopped", "4 of 9 updates"),
    "finished": ({"state": "finished", "step": 9}, {"code": 0}, "finished", "9 of 9 updates"),
    "by hand": ({"state": "finished", "step": 9}, None, "finished", "9 of 9 updates"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_state_of_a_run_is_read_from_its_files(name: str, host: StandIn) -> None:
    status, launch, state, words = CASES[name]
    folder = Path(host.folder("output/latte_training/run"))
    (folder / "config.json").write_text('{"num_steps": 9}', encoding="utf-8")
    (folder / "train.log").write_text("Note: a\nError: Memory is full.\n", encoding="utf-8")
    if status is not None:
        written = {"pid": GONE, "time": NOW, **status}
        (folder / "status.json").write_text(json.dumps(written), encoding="utf-8")
    if launch is not None:
        made = {"pid": GONE, "time": NOW - 1, "code": None, "is_told": False, **launch}
        (folder / "launch.json").write_text(json.dumps(made), encoding="utf-8")
    training = part("nodes.host.training")
    view = training.look(folder)
    assert (view.state, view.is_alive) == (state, False)
    assert words in training.sentence(view)


def test_a_process_without_last_words_is_told_by_its_code(host: StandIn) -> None:
    folder = Path(host.folder("run"))
    last_words = part("nodes.host.training_process").last_words
    assert last_words(folder, -9) == "its process ended with code -9."
    (folder / "train.log").write_text("x" * 9000 + "\nSegmentation fault\n", encoding="utf-8")
    assert last_words(folder, -11).endswith("The last line of train.log: Segmentation fault")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, ""), (89, "about 89 s"), (120, "about 2 minutes"), (9000, "about 2.5 hours")],
)
def test_time_is_told_in_fitting_units(seconds: float | None, expected: str) -> None:
    assert expected in part("nodes.host.training").time_left(seconds)


def test_a_process_is_known_by_number_age_and_command() -> None:
    pytest.importorskip("psutil", reason="psutil is not installed; ComfyUI brings it along")
    is_training = part("nodes.host.training_process").is_training
    command = [sys.executable, "-c", "input()", "latte_core"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        now = time.time()
        wait_until(lambda: is_training(process.pid, now), "recognising the process")
        assert not is_training(process.pid, now - 60), "a number that is used again"
        assert not is_training(os.getpid(), now), "another program"
        process.kill()
        wait_until(lambda: not is_training(process.pid, now), "seeing a process that has ended")
    assert not is_training(None, now) and not is_training(-1, now) and not is_training(GONE, now)


@needs_starter
def test_weights_are_copied_once_and_again_when_they_changed(
    host: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = part("nodes.host.training_files").copy_weights
    first, second = (STARTER / name for name in ("vae", "transformer"))
    target = tmp_path / "shelf" / "latte" / "run.safetensors"
    name = "diffusion_pytorch_model.safetensors"
    copy(first / name, target)
    assert target.read_bytes() == (first / name).read_bytes()
    before = target.stat()
    copy(first / name, target)
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    copy(second / name, target)
    assert target.read_bytes() == (second / name).read_bytes()
    target.write_bytes(b"damaged")
    copy(second / name, target)
    assert target.read_bytes() == (second / name).read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["run.safetensors"]


@needs_starter
def test_weights_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    source = STARTER / "transformer" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "latte").write_text("a file where a folder is needed", encoding="utf-8")
    with pytest.raises(part("latte_core.errors").CheckpointError, match="was not written"):
        part("nodes.host.training_files").copy_weights(source, tmp_path / "latte" / "x.safetensors")


def test_each_new_picture_is_previewed_once(host: StandIn) -> None:
    training, files = part("nodes.host.training"), part("nodes.host.training_files")
    folder = Path(host.folder("output/latte_training/run"))
    preview = files.NewestPicture()
    assert preview(training.look(folder)) is None
    write_image(folder / "loss.png", torch.rand(8, 12, 3))
    kind, picture, largest = preview(training.look(folder))
    assert (kind, picture.size, largest) == ("PNG", (12, 8), None)
    assert preview(training.look(folder)) is None
    (folder / "samples").mkdir()
    sheet = write_image(folder / "samples" / "step-00000002.png", torch.rand(4, 4, 3))
    later = time.time_ns() + 10**9
    os.utime(sheet, ns=(later, later))
    assert preview(training.look(folder))[1].size == (4, 4)


@needs_starter
def test_a_training_starts_once_shows_itself_and_ends_as_a_lora(trained: StandIn) -> None:
    widgets = small(data="videos", run_name="my/run", sample_every=2, sample_prompts="a red circle")
    before = time.monotonic()
    (run,) = call("LatteTrain", **widgets)
    assert run == "my_run"
    assert time.monotonic() - before < PATIENCE / 10, "it returns at once"
    assert call("LatteTrain", **widgets) == (run,)
    assert trained.unloaded == 1, "it was started once"
    with pytest.raises(refusal(), match="rank 2, steps was 3.*stop it first"):
        call("LatteTrain", **{**widgets, "steps": 4, "rank": 3})
    first = call("LatteTrainingStatus", run=run)
    assert "my_run is starting" in first["result"][2] or "preparing" in first["result"][2]
    assert first["result"][0].shape == (1, 480, 960, 3)
    assert first["result"][1].shape == (1, 64, 64, 3)

    last = call("LatteTrainingStatus", run="my/run", wait="until finished", seconds=PATIENCE)

    loss, sheet, text = last["result"]
    assert "my_run is finished: 3 of 3 updates." in text
    assert not torch.equal(loss, first["result"][0])
    assert sheet.shape[0] == 1 and sheet.std() > 0
    assert float(loss.min()) >= 0 and float(loss.max()) <= 1
    files = [
        trained.base / "temp" / one["subfolder"] / one["filename"] for one in last["ui"]["images"]
    ]
    assert len(files) == 2 and all(path.is_file() for path in files)
    assert trained.shown[-1][:2] == (3, 3)
    assert "PNG" in {kind for _, _, kind in trained.shown}
    assert trained.files("loras") == [str(Path("latte") / "my_run.safetensors")]
    header = read_header(Path(trained.full_path("loras", "latte/my_run.safetensors")))
    card = read_card("my_run", header.metadata)
    assert (card["rank"], card["blocks"], card["steps"]) == (2, "temporal", 3)
    assert call("LatteTrain", **widgets) == (run,)
    assert trained.unloaded == 1, "a finished run is not started again"
    with pytest.raises(refusal(), match="has made 3 updates with other settings: method or rank"):
        call("LatteTrain", **{**widgets, "rank": 3})


@needs_starter
def test_a_training_is_stopped_with_a_model_and_goes_on_later(trained: StandIn) -> None:
    widgets = small(method="all weights", steps=FOREVER)
    call("LatteTrain", **widgets)
    call("LatteTrainingStatus", run="run", wait="for progress", seconds=PATIENCE)
    assert trained.files("diffusion_models") == [], "nothing is copied while it runs"
    trained.is_cancelled = True
    with pytest.raises(Interrupted):
        call("LatteTrainingStatus", run="run", wait="until finished")
    trained.is_cancelled = False
    assert part("nodes.host.training").look(trained.base / "output/latte_training/run").is_alive

    (text,) = call("LatteStopTraining", run="run", seconds=PATIENCE)["result"]

    made = status_of(trained.base)["step"]
    assert f"run is stopped after {made} of {FOREVER} updates." in text
    assert "models/diffusion_models" in text
    path = Path(trained.full_path("diffusion_models", "latte/run.safetensors"))
    assert path.parents[1].name == "diffusion_models"
    found = part("latte_core.checkpoint.identify").identify(path)
    assert found.family is part("latte_core.checkpoint.families").Family.LATTE_T2V
    assert call("LatteStopTraining", run="run")["result"] == (text,), "there is nothing to stop"

    call("LatteTrain", **{**widgets, "steps": made + 1})
    call("LatteTrainingStatus", run="run", wait="until finished", seconds=PATIENCE)
    last = status_of(trained.base)
    assert (last["state"], last["step"]) == ("finished", made + 1)


@needs_starter
def test_a_failed_training_is_told_once_and_then_tried_again(trained: StandIn) -> None:
    widgets = small(num_frames=64)
    call("LatteTrain", **widgets)
    with pytest.raises(refusal(), match="run failed: None of 4 clips has the 64 frames"):
        call("LatteTrainingStatus", run="run", wait="until finished", seconds=PATIENCE)
    text = call("LatteTrainingStatus", run="run")["result"][2]
    assert "run failed: None of 4 clips" in text
    assert trained.unloaded == 1
    call("LatteTrain", **widgets)
    assert trained.unloaded == 2
    thread = part("nodes.host.training_process").find_process(
        trained.base / "output/latte_training/run"
    )
    thread.join(PATIENCE)
    with pytest.raises(refusal(), match="Queue again to try once more, from the start"):
        call("LatteTrain", **widgets)


@needs_starter
def test_a_training_ends_with_a_checkpoint_when_its_comfyui_is_killed(trained: StandIn) -> None:
    pytest.importorskip("psutil", reason="psutil is not installed; ComfyUI brings it along")
    script = Path(comfy_stand_in.__file__)
    widgets = {**small(steps=FOREVER), "learning_rate": 1e-4, "model": "starter"}
    widgets |= {"method": "LoRA (both)", "num_frames": 16, "precision": "auto"}
    widgets |= {"training_seed": 0, "sample_prompts": ""}
    command = [sys.executable, str(script), str(trained.base), json.dumps(widgets)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().decode().strip() == comfy_stand_in.STARTED
        wait_until(lambda: status_of(trained.base).get("step"), "the first update")
        with pytest.raises(refusal(), match="run goes on with other settings: steps was"):
            call("LatteTrain", **{**widgets, "steps": 5})
        other.kill()
    wait_until(lambda: status_of(trained.base)["state"] == "stopped", "the end of the training")
    folder = RunFolder(trained.base / "output" / "latte_training" / "run")
    assert folder.steps()[-1] == folder.status()["step"] > 0
    wait_until(
        lambda: not part("nodes.host.training").look(folder.path).is_alive, "the end of its process"
    )
    text = call("LatteTrainingStatus", run="run")["result"][2]
    assert "run is stopped after" in text and "models/loras" in text


def test_the_program_starts_from_odd_folders_and_from_a_python_that_looks_nowhere(
    tmp_path: Path,
) -> None:
    odd = tmp_path / "latt\u00e9 v1.0 \u89c6\u9891"
    skip = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "latte_core", odd / "latte_core", ignore=skip)
    start = part("nodes.host.training_process").START
    command = [sys.executable, "-I", "-X", "utf8", "-c", start, str(odd), "train", "--help"]
    done = subprocess.run(command, capture_output=True, cwd=odd, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    assert b"--stop-with-input" in done.stdout
