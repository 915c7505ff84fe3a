"""`sample` with class models: classes, grids, folders, presets and settings files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.classes import (
    FRAMES,
    NAMES,
    SIDE,
    write_class_folder,
    write_released_file,
    write_vae,
)
from latte_test_support.tiny.latte import NO_CLASSES
from latte_test_support.tiny.pipeline import write_tiny_latte

from latte_core.checks import MAX_SEED
from latte_core.cli.main import main
from latte_core.cli.sample.jobs import plan
from latte_core.errors import InvalidInputError
from latte_core.pipelines.classes.labels import random_labels
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.video import Grid, bytes_from_frames, frames_from_bytes, read_video, write_video

QUICK = ["--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("classes") / "model")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the authors publish it: files, and VAEs beside them."""
    place = tmp_path_factory.mktemp("released")
    write_released_file(place / "ffs.pt", **NO_CLASSES)
    write_released_file(place / "ucf101.pt", num_classes=101)
    write_vae(place / "sd-vae-ft-ema")
    return place


def sample(model: Path, *more: str | Path) -> int:
    return main(["sample", "--model", str(model), *QUICK, *map(str, more)])


def recipe_in(path: Path) -> dict[str, Any]:
    """Return the comment of an mp4 file."""
    raw = path.read_bytes()
    text = raw[raw.index(b'{"latte"') :].decode("utf-8", "replace")
    return json.JSONDecoder().raw_decode(text)[0]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_class_by_name_is_what_the_library_makes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    options = ["--class", "blue SQUARE", "--seed", "5", "--guidance", "2", "--method", "ddim"]
    assert sample(folder, "--output", path, *options, "--eta", "0.5") == 0
    result = ClassPipeline.from_pretrained(folder, device="cpu")(
        3, steps="2", seed=5, guidance_scale=2.0, method="ddim", eta=0.5
    )
    assert result.frames is not None
    expected = write_video(tmp_path / "expected.mp4", result.frames)
    assert torch.equal(read_video(path).frames, read_video(expected).frames)
    assert "3 frames at 8 per second, 64 x 64 pixels" in capsys.readouterr().out
    recipe = recipe_in(path)
    assert (recipe["class"], recipe["class_name"], recipe["seed"]) == (3, "blue square", 5)
    assert (recipe["method"], recipe["steps"], recipe["guidance_scale"]) == ("ddim", "2", 2.0)


def test_files_of_the_authors_open_beside_their_vae(released: Path, tmp_path: Path) -> None:
    path = tmp_path / "guitar.mp4"
    assert sample(released / "ucf101.pt", "--class", "Playing Guitar", "--output", path) == 0
    assert read_video(path).frames.shape == (FRAMES, SIDE, SIDE, 3)
    recipe = recipe_in(path)
    assert (recipe["model"], recipe["class"], recipe["guidance_scale"]) == ("ucf101.pt", 62, 7.0)
    assert sample(released / "ffs.pt", "--output", tmp_path / "face.mp4") == 0
    assert recipe_in(tmp_path / "face.mp4")["guidance_scale"] == 1.0


def test_several_videos_are_numbered_and_each_as_if_made_alone(
    folder: Path, tmp_path: Path
) -> None:
    classes = ["--class", "red circle", "--class", "4"]
    assert sample(folder, *classes, "--num", "3", "--output", tmp_path / "clip.gif") == 0
    assert sorted(contents(tmp_path)) == ["clip-001.gif", "clip-002.gif", "clip-003.gif"]
    for name, label, seed in (("clip-002", "4", "0"), ("clip-003", "0", "1")):
        alone, anew = tmp_path / "alone.gif", ["--overwrite"]
        assert sample(folder, "--class", label, "--seed", seed, *anew, "--output", alone) == 0
        assert alone.read_bytes() == (tmp_path / f"{name}.gif").read_bytes()


def test_frames_decoded_together_are_stored_where_asked_for(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    assert sample(folder, "--class", "1", "--decode-chunk", "1", "--output", path) == 0
    assert recipe_in(path)["decode_chunk"] == 1


def test_grid_shows_every_video_in_its_place(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.mp4"
    options = ["--upscale", "2", "--seed", "4"]
    assert sample(folder, "--class", "all", "--grid", "3", *options, "--output", path) == 0
    back = read_video(path).frames
    assert back.shape == (FRAMES, 2 * 128 + 2, 3 * 128 + 4, 3)
    recipe = recipe_in(path)
    assert [video["class_name"] for video in recipe["videos"]] == NAMES
    cells = [
        back[:, top : top + 128, left : left + 128] for top in (0, 130) for left in (0, 130, 260)
    ]
    for label in range(5):
        alone = tmp_path / f"{label}.mp4"
        assert sample(folder, "--class", str(label), *options, "--output", alone) == 0
        frames = read_video(alone).frames
        far = [float((cell - frames).abs().mean()) for cell in cells]
        assert far.index(min(far)) == label and 2 * far[label] < min(far[:label] + far[label + 1 :])
    assert cells[5][:, 2:, 2:].max() < 0.05  # the sixth place is empty


def test_random_classes_follow_the_seeds(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.mp4"
    assert sample(folder, "--class", "random", "--num", "4", "--grid", "--output", path) == 0
    videos = recipe_in(path)["videos"]
    assert [video["class"] for video in videos] == [random_labels([k], 1, 5)[0] for k in range(4)]
    assert [video["seed"] for video in videos] == [0, 1, 2, 3]


def test_folder_goes_on_where_it_was_stopped_with_the_same_bytes(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--class", "random", "--num-videos", "4", "--seed", "8"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert sample(folder, *options, "--output-dir", whole) == 0

    made: list[object] = []
    make = ClassPipeline.__call__

    def stops(self: ClassPipeline, *arguments: Any, **named: Any) -> Any:
        made.append(arguments)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(ClassPipeline, "__call__", stops)
        assert sample(folder, *options, "--output-dir", parts) == 130
    assert len(list(parts.glob("*.mp4"))) == 2
    left = parts / ".000002.0123abcd.part.mp4"  # as a killed process leaves it
    left.write_bytes(b"half")
    capsys.readouterr()
    assert sample(folder, *options, "--output-dir", parts) == 0
    assert "2 of 4 videos are in" in capsys.readouterr().out
    assert contents(parts) == contents(whole)
    assert sorted(contents(whole)) == [*(f"00000{k}.mp4" for k in range(4)), "videos.json"]
    assert read_video(whole / "000003.mp4").frames.shape == (FRAMES, SIDE, SIDE, 3)
    listed = json.loads((whole / "videos.json").read_text())["videos"]
    assert [one["seed"] for one in listed] == [8, 9, 10, 11]
    assert [one["class"] for one in listed] == [random_labels([s], 1, 5)[0] for s in range(8, 12)]


def test_folder_can_be_made_longer_but_not_with_other_settings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "clips"
    options = ["--class", "1", "--output-dir", place, "--format", "gif"]
    assert sample(folder, *options, "--num-videos", "1") == 0
    first = contents(place)
    assert sample(folder, *options, "--num-videos", "2") == 0
    assert contents(place)["000000.gif"] == first["000000.gif"]
    before = contents(place)
    assert sample(folder, *options, "--num-videos", "1") == 0
    assert contents(place) == before
    assert len(json.loads(before["videos.json"])["videos"]) == 2
    for changed, message in (
        (["--guidance", "3"], "guidance_scale was 7.0, but is 3.0 now"),
        (["--seed", "1"], "seed was 0, but is 1 now"),
        (["--class", "2"], "class was 1, but is 2 now"),
    ):
        capsys.readouterr()
        assert sample(folder, *options, "--num-videos", "2", *changed) == 2
        assert message in error_of(capsys)
    assert contents(place) == before


def test_folder_of_somebody_else_is_left_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "000000.mp4").write_bytes(b"mine")
    options = ["--class", "1", "--output-dir", tmp_path]
    assert sample(folder, *options) == 2
    assert "no videos.json" in error_of(capsys)
    (tmp_path / "videos.json").write_text("[1]")
    assert sample(folder, *options) == 2
    assert "does not say how" in error_of(capsys)
    assert contents(tmp_path) == {"000000.mp4": b"mine", "videos.json": b"[1]"}


def test_settings_that_fail_leave_nothing_in_the_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "clips"
    assert sample(folder, "--class", "1", "--seed", "-1", "--output-dir", place) == 2
    assert "seed" in error_of(capsys)
    assert not place.exists()


def test_preset_and_settings_file_run_what_the_authors_run(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = tmp_path / "ucf101_sample.yaml"
    yaml.write_text(
        "model: Latte-S/2\nextras: 2\nnum_classes: 101\nlearn_sigma: True\nimage_size: 64\n"
        f"num_frames: 3\nckpt: {released / 'ucf101.pt'}\npretrained_model_path: {released}\n"
        "use_fp16: True\nseed: 6\nsample_method: 'ddpm'\nnum_sampling_steps: 250\n"
        "cfg_scale: 7.0\nnum_fvd_samples: 2\n"
    )
    place = tmp_path / "clips"
    assert main(["sample", "--config", str(yaml), *QUICK, "--output-dir", str(place)]) == 2
    assert "depth" in error_of(capsys)  # this file has 2 blocks, not Latte-S's 12
    yaml.write_text(yaml.read_text().replace("model: Latte-S/2\n", ""))
    assert main(["sample", "--config", str(yaml), *QUICK, "--output-dir", str(place)]) == 0
    found = json.loads((place / "videos.json").read_text())
    run = found["run"]
    assert (run["guidance_scale"], run["method"], run["steps"]) == (7.0, "ddpm", "2")
    assert [one["seed"] for one in found["videos"]] == [6, 7]
    grid = tmp_path / "grid.mp4"
    options = ["--preset", "ucf101", "--seed", "6", "--num", "2", "--grid", "--output", grid]
    assert sample(released / "ucf101.pt", *options) == 0
    assert recipe_in(grid)["videos"] == [
        {key: value for key, value in one.items() if key != "file"} for one in found["videos"]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{classes}"], "Say which with --class: a name, a number from 0 to 4"),
        (["--model", "{classes}", "--class", "red cirkle"], 'Did you mean "red circle"'),
        (["--model", "{classes}", "--class", "9"], "0 to 4"),
        (["--model", "{classes}", "--prompt", "a cat"], "no text-to-video model"),
        (["--model", "{classes}", "--class", "1", "--method", "euler"], "'ddpm' or 'ddim'"),
        (["--model", "{classes}", "--class", "1", "--steps", "ddim51"], "ddim50"),
        (["--model", "{classes}", "--class", "1", "--vae", "nowhere"], "no VAE 'nowhere'"),
        (["--model", "{classes}", "--class", "1", "--preset", "t2v"], "text-to-video model, but"),
        (["--model", "{classes}", "--class", "1", "--preset", "ffs"], "unconditional model, but"),
        (["--model", "{ffs}", "--class", "1"], "it has no classes"),
        (["--model", "{ffs}", "--guidance", "7"], "no class to follow"),
        (["--model", "{ffs}", "--preset", "ucf101"], "class-conditional model, but"),
        (["--preset", "ffs"], "ffs.pt, skytimelapse.pt or taichi-hd.pt as --model"),
        (["--preset", "ucf101", "--class", "1"], "ucf101.pt as --model"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_every_mistake_is_one_sentence(
    folder: Path,
    released: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    names = {"classes": str(folder), "ffs": str(released / "ffs.pt")}
    words = [word.format(**names) for word in arguments]
    path = str(tmp_path / "clip.mp4")
    assert main(["sample", "--device", "cpu", *words, "--output", path]) == 2
    assert message in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_text_to_image_preset_writes_one_picture_with_the_image_vae(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_latte(tmp_path / "latte")
    options = ["--preset", "t2i", "--steps", "2", "--prompt", "a red circle", "--device", "cpu"]
    place = tmp_path / "pictures"
    assert main(["sample", "--model", str(model), *options, "--output-dir", str(place)]) == 0
    assert read_video(place / "000000.png").frames.shape == (1, 32, 32, 3)
    run = json.loads((place / "videos.json").read_text())["run"]
    assert (run["vae"], run["sampler"], run["guidance"]) == ("image", "ddim", 7.5)
    assert main(["sample", "--model", str(model), *options[:4], "--output", "x.png"]) == 2
    assert "needs --prompt TEXT" in error_of(capsys)


def test_prompts_of_a_settings_file_become_numbered_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_latte(tmp_path / "latte")
    yaml = tmp_path / "t2v_sample.yaml"
    text = (
        "model: LatteT2V\nvideo_length: 2\nimage_size: [32, 48]\nbeta_start: 0.0001\n"
        "beta_end: 0.02\nbeta_schedule: linear\nsample_method: DDIM\nnum_sampling_steps: 2\n"
        "guidance_scale: 7.5\nenable_vae_temporal_decoder: True\n"
        "text_prompt: ['a red circle', 'a blue square']\n"
    )
    yaml.write_text(text)
    run = ["sample", "--model", str(model), "--config", str(yaml), "--device", "cpu"]
    assert main([*run, "--output", str(tmp_path / "clip.mp4")]) == 0
    assert recipe_in(tmp_path / "clip-002.mp4")["prompt"] == "a blue square"
    assert read_video(tmp_path / "clip-002.mp4").frames.shape == (2, 32, 48, 3)
    yaml.write_text(text.replace("0.0001", "0.00085"))
    assert main([*run, "--output", str(tmp_path / "other.mp4")]) == 2
    assert "betas from 0.00085 to 0.02" in error_of(capsys)


def test_note_of_another_size_is_shown_once_for_many_videos(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--class", "1", "--num", "2", "--height", "32", "--width", "48"]
    assert sample(folder, *options, "--output", tmp_path / "clip.gif") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 1 and "unproven" in notes[0]


def test_items_take_turns_and_the_seed_rises_each_round() -> None:
    jobs = plan(["a", "b"], 5, MAX_SEED)
    assert [(job.index, job.item) for job in jobs] == [
        (0, "a"), (1, "b"), (2, "a"), (3, "b"), (4, "a"),
    ]  # fmt: skip
    assert [job.seed for job in jobs] == [MAX_SEED, MAX_SEED, 0, 0, 1]
    assert len(plan(["a", "b"], None, 0)) == 2
    with pytest.raises(InvalidInputError, match="--num"):
        plan(["a"], 0, 0)


def test_grid_in_bytes_is_the_grid_in_numbers(tmp_path: Path) -> None:
    frames = torch.rand(1, 4, 4, 3)
    joined = frames_from_bytes(Grid.of(1).join([bytes_from_frames(frames)]))
    assert (joined - frames).abs().max() <= 0.5 / 255 + 1e-6


def test_batch_is_a_setting_of_a_folder_that_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(place: Path, *more: str) -> int:
        options = ["--class", "0", "--class", "2", "--num", "3", "--format", "gif", *more]
        return sample(folder, *options, "--output-dir", place)

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert fill(whole, "--batch", "2") == fill(resumed, "--batch", "2") == 0
    (resumed / "000001.gif").unlink()
    assert fill(resumed, "--batch", "2") == 0
    names = [f"{index:06d}.gif" for index in range(3)]
    assert [(whole / n).read_bytes() for n in names] == [(resumed / n).read_bytes() for n in names]
    assert json.loads((whole / "videos.json").read_text())["run"]["batch"] == 2
    capsys.readouterr()
    assert fill(whole) == 2
    assert "batch was 2, but is None now" in error_of(capsys)
    assert fill(tmp_path / "none", "--batch", "0") == 2
    assert "--batch is 0" in error_of(capsys)
