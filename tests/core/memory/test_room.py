"""R22: what cannot be held is refused before anything is allocated, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte

from latte_core.cli.main import main
from latte_core.errors import IncompatibleInputsError
from latte_core.memory import room
from latte_core.memory.room import RunBytes, check_room, main_memory
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.types import VideoShape

CPU = torch.device("cpu")
GIANT = {"num_frames": 65536, "height": 8192, "width": 8192}
LONG = {"num_frames": 65536, "height": 2048, "width": 2048}
MANY = {"num_frames": 4096, "height": 8192, "width": 8192}


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("classes") / "tiny")


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have 16 GB, and fail where noise is drawn."""
    monkeypatch.setattr(room, "main_memory", lambda: 16 * 10**9)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("Noise was drawn.")

    monkeypatch.setattr(torch, "randn", fail)


def needed(shape: VideoShape, **changes: Any) -> RunBytes:
    given = {"token_bytes": 100, "videos": 2, "is_drawn": True, "is_decoded": True}
    return RunBytes.of(shape, **{**given, **changes})


def test_every_byte_that_a_run_holds_is_counted() -> None:
    shape = VideoShape(batch=3, num_frames=5, height=32, width=48)
    found = needed(shape)
    assert found.noise == torch.empty(shape.latent_size()).nbytes == found.latents
    assert found.frames == torch.empty(3, 5, 32, 48, 3).nbytes
    assert found.work == 2 * 2 * 5 * 4 * 6 * 100
    latents_alone = needed(shape, is_drawn=False, is_decoded=False)
    assert (latents_alone.noise, latents_alone.frames) == (0, 0)


def test_run_that_just_fits_is_made_and_one_byte_less_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = VideoShape(num_frames=16, height=512, width=512)
    bytes_of = needed(shape)
    total = bytes_of.noise + bytes_of.latents + bytes_of.frames
    monkeypatch.setattr(room, "main_memory", lambda: total)
    check_room(shape, bytes_of, CPU)
    monkeypatch.setattr(room, "main_memory", lambda: total - 1)
    with pytest.raises(IncompatibleInputsError, match=r"noise 0\.0 GB.*frames 0\.1 GB.*are free"):
        check_room(shape, bytes_of, CPU)
    monkeypatch.setattr(room, "main_memory", lambda: None)
    check_room(shape, bytes_of, CPU)


def test_device_that_cannot_hold_one_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = VideoShape(num_frames=4096, height=1024, width=1024)
    bytes_of = needed(shape, token_bytes=576)
    monkeypatch.setattr(room, "main_memory", lambda: 10**15)
    monkeypatch.setattr(room, "all_bytes", lambda device: 24 * 10**9)
    with pytest.raises(IncompatibleInputsError, match=r"154\.6 GB on xpu:0.*it has 24\.0 GB"):
        check_room(shape, bytes_of, torch.device("xpu:0"))
    monkeypatch.setattr(room, "all_bytes", lambda device: bytes_of.work)
    check_room(shape, bytes_of, torch.device("xpu:0"))


@pytest.mark.parametrize("size", [MANY, LONG, GIANT], ids=["many", "long", "giant"])
@pytest.mark.parametrize("output", ["frames", "latents"])
@pytest.mark.filterwarnings("ignore:.*frames were asked for:UserWarning")
@pytest.mark.usefixtures("small_machine")
def test_text_pipeline_says_what_a_giant_would_take(
    text_folder: Path, size: dict[str, int], output: str
) -> None:
    pipeline = Pipeline.from_pretrained(text_folder, device="cpu")
    with pytest.raises(IncompatibleInputsError, match=r"at least .* GB of main memory.*16\.0 GB"):
        pipeline(PROMPT, **size, output=output)


@pytest.mark.parametrize("size", [MANY, LONG, GIANT], ids=["many", "long", "giant"])
@pytest.mark.parametrize("noise_order", ["comfyui", "reference"])
@pytest.mark.usefixtures("small_machine")
def test_class_pipeline_says_what_a_giant_would_take(
    class_folder: Path, size: dict[str, int], noise_order: str
) -> None:
    pipeline = ClassPipeline.from_pretrained(class_folder, device="cpu")
    with pytest.raises(IncompatibleInputsError, match=r"at least .* GB of main memory.*16\.0 GB"):
        pipeline(1, **size, noise_order=noise_order)


@pytest.mark.usefixtures("small_machine")
def test_many_small_videos_of_one_call_are_counted_together(class_folder: Path) -> None:
    pipeline = ClassPipeline.from_pretrained(class_folder, device="cpu")
    with pytest.raises(IncompatibleInputsError, match="2000 videos of 16 frames"):
        pipeline(1, num_frames=16, height=512, width=512, seed=list(range(2000)))


@pytest.mark.filterwarnings("ignore:.*frames were asked for:UserWarning")
@pytest.mark.usefixtures("small_machine")
def test_command_line_says_it_and_writes_nothing(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--frames", "4096", "--height", "8192", "--width", "8192", "--device", "cpu"]
    target = tmp_path / "x.mp4"
    given = ["sample", "--model", str(text_folder), "--prompt", PROMPT, *words]
    code = main([*given, "--output", str(target)])
    assert code != 0
    assert "GB of main memory" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_ordinary_run_is_never_refused(text_folder: Path) -> None:
    pipeline = Pipeline.from_pretrained(text_folder, device="cpu")
    assert pipeline(PROMPT, **{**SMALL, "num_steps": 1}).frames is not None


@pytest.mark.parametrize(
    ("meminfo", "limit", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable: 4 kB\nSwapFree: 2 kB\n", "max", 6 * 1024),
        ("MemAvailable: 4 kB\nSwapFree: 2 kB\n", "5000", 5000),
        ("MemAvailable: 4 kB\n", None, 4 * 1024),
        ("MemFree: 4 kB\n", "5000", None),
        ("MemAvailable: much\n", None, None),
        ("\n", None, None),
    ],
)
def test_free_memory_is_what_the_system_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meminfo: str,
    limit: str | None,
    expected: int | None,
) -> None:
    (tmp_path / "meminfo").write_text(meminfo)
    if limit is not None:
        (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "LIMITS", (tmp_path / "limit",))
    assert main_memory() == expected
