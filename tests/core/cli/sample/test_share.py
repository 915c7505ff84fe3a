"""`sample` from several processes: together they write what one would (R47), without loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from latte_test_support.tiny.classes import write_class_folder

from latte_core.cli.main import main
from latte_core.cli.sample import classes as sample_class
from latte_core.cli.sample.share import Share
from latte_core.errors import InvalidInputError
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.video import bytes_from_frames
from latte_core.video.stream import find_videos

ROOT = Path(__file__).resolve().parents[4]
RUN = ["--steps", "1", "--device", "cpu", "--class", "random", "--num", "5", "--seed", "9",
       "--format", "frames"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("classes") / "model")


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    place = tmp_path_factory.mktemp("whole") / "clips"
    assert sample(folder, place) == 0
    return contents(place)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def sample(model: Path, place: Path, *more: str) -> int:
    return main(["sample", "--model", str(model), *RUN, "--output-dir", str(place), *more])


def contents(place: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    files = (path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def test_frames_are_the_librarys_without_loss(folder: Path, tmp_path: Path) -> None:
    assert sample(folder, tmp_path) == 0
    videos = find_videos(tmp_path)
    assert [video.name for video in videos] == [f"00000{k}" for k in range(5)]
    pipeline = ClassPipeline.from_pretrained(folder, device="cpu")
    made = pipeline("random", steps="1", seed=11).frames
    assert made is not None
    assert torch.equal(torch.stack(list(videos[2].frames())), bytes_from_frames(made))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_write_what_one_writes(
    folder: Path, whole: dict[str, bytes], tmp_path: Path, world: int
) -> None:
    made: list[set[str]] = []
    for rank in range(world):
        before = set(contents(tmp_path))
        assert sample(folder, tmp_path, "--rank", str(rank), "--world", str(world)) == 0
        new = set(contents(tmp_path)) - before - {"videos.json"}
        made.append({name.partition("/")[0] for name in new})
    shares = [{f"{k:06d}" for k in range(rank, 5, world)} for rank in range(world)]
    assert made == shares
    assert contents(tmp_path) == whole


def test_processes_share_out_whole_batches(folder: Path, tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    assert sample(folder, one, "--batch", "2") == 0
    assert sample(folder, several, "--batch", "2", "--rank", "0", "--world", "2") == 0
    made = [path.name for path in sorted(several.iterdir())]
    assert made == ["000000", "000001", "000004", "videos.json"]
    assert sample(folder, several, "--batch", "2", "--rank", "1", "--world", "2") == 0
    assert contents(several) == contents(one)


def test_processes_of_a_launcher_share_the_work_at_the_same_time(
    folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "latte_core", "sample", "--model", str(folder), *RUN]
    running = [
        subprocess.Popen(
            [*command, "--output-dir", str(tmp_path / "clips")],
            cwd=ROOT,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert contents(tmp_path / "clips") == whole


def test_process_goes_on_where_it_was_stopped(
    folder: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[int] = []
    make = ClassPipeline.__call__

    def stops(self: ClassPipeline, *arguments: object, **named: object) -> object:
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt
        return make(self, *arguments, **named)  # pyright: ignore[reportArgumentType]

    share = ["--rank", "0", "--world", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(ClassPipeline, "__call__", stops)
        assert sample(folder, tmp_path, *share) == 130
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000", "videos.json"]
    left = tmp_path / ".000002.0123abcd.part"  # as a killed process leaves it
    left.mkdir()
    (left / "000000.png").write_bytes(b"half")
    capsys.readouterr()
    assert sample(folder, tmp_path, *share) == 0
    shown = capsys.readouterr().out
    assert "Process 0 of 2: 3 of 5 videos" in shown and "1 of 3 videos are in" in shown
    assert sample(folder, tmp_path, "--rank", "1", "--world", "2") == 0
    assert contents(tmp_path) == whole


def test_more_processes_than_videos_leave_some_without_work(folder: Path, tmp_path: Path) -> None:
    assert sample(folder, tmp_path / "clips", "--rank", "7", "--world", "8") == 0
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rank", "0"], "belong together"),
        (["--rank", "2", "--world", "2"], "from 0 to 1"),
        (["--rank", "0", "--world", "0"], "--world"),
    ],
)
def test_shares_that_make_no_sense_are_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert sample(folder, tmp_path / "clips", *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_several_processes_cannot_write_one_file(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = str(tmp_path / "clip.mp4")
    assert main(["sample", "--model", str(folder), "--class", "1", "--output", path]) == 2
    assert "Give --output-dir in place of --output" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(InvalidInputError, match="RANK is 'one'"):
        Share.of(None, None, "clips")
    assert Share.of(0, 3, "clips") == Share(rank=0, world=3)


def test_processes_of_one_machine_get_an_accelerator_each(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = torch.accelerator
    monkeypatch.setattr(accelerator, "is_available", lambda: True)
    monkeypatch.setattr(accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(accelerator, "device_count", lambda: 2)
    shares = [Share(rank=rank, world=4, local_rank=rank) for rank in range(4)]
    assert [share.device(None) for share in shares] == ["xpu:0", "xpu:1", "xpu:0", "xpu:1"]
    assert shares[1].device("cpu") == "cpu"
    assert Share(rank=1, world=2).device(None) is None  # given by hand: the device is, too


def test_folder_grows_though_another_way_of_multiplying_was_faster(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, object]] = []
    for product, count in (("own", "1"), ("library", "2"), (None, "3")):
        entry = {} if product is None else {"precision_product": product}
        monkeypatch.setattr(sample_class, "precision_entry", lambda *_, told=entry: told)
        assert sample(folder, tmp_path, "--num", count, "--format", "mp4") == 0
        raw = (tmp_path / f"00000{len(found)}.mp4").read_bytes()
        comment = raw[raw.index(b'{"latte"') :].decode("utf-8", "replace")
        found.append(json.JSONDecoder().raw_decode(comment)[0])
    assert [one.get("precision_product") for one in found] == ["own", "library", None]
    assert "precision_product" not in json.loads((tmp_path / "videos.json").read_text())["run"]
