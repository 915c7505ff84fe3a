"""The command line, run in this process on a tiny model."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import write_tiny_latte
from torch import Tensor

from latte_core.checkpoint import load_transformer
from latte_core.cli.command import CommandName
from latte_core.cli.main import COMMANDS, main, make_parser
from latte_core.cli.sample import targets as sample_targets
from latte_core.cli.sample import text as sample_text
from latte_core.cli.sample.jobs import Job
from latte_core.errors import LatteError
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.video import enlarge, read_video

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "a red circle moving left"
QUICK = ["--frames", "2", "--height", "32", "--width", "48", "--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("latte"))


def sample(folder: Path, *more: str | Path) -> int:
    return main(["sample", "--model", str(folder), *QUICK, *map(str, more)])


def only_error(captured: Any) -> str:
    """Return the one line on the error stream that is an error."""
    lines = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif"])
def test_sample_writes_a_video_that_reads_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert sample(folder, "--prompt", PROMPT, "--output", tmp_path / name) == 0
    back = read_video(tmp_path / name)
    assert back.frames.shape == (2, 32, 48, 3)
    captured = capsys.readouterr()
    assert f"{name}: 2 frames at 8 per second, 48 x 32 pixels" in captured.out
    assert PROMPT in captured.err  # the progress bar
    assert "100%" in captured.err


def test_sample_writes_what_the_library_makes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    options = ["--frames", "1", "--seed", "5", "--guidance", "3", "--sampler", "EulerDiscrete"]
    more = ["--negative", "blurry", "--vae", "image", "--upscale", "2"]
    assert sample(folder, "--prompt", PROMPT, "--output", path, *options, *more) == 0
    result = Pipeline.from_pretrained(folder, device="cpu")(
        PROMPT,
        negative_prompt="blurry",
        num_frames=1,
        height=32,
        width=48,
        num_steps=2,
        guidance_scale=3,
        sampler="euler",
        seed=5,
        vae="image",
    )
    expected = enlarge(result.frames, 2)
    assert (read_video(path).frames - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_frames_decoded_together_are_the_librarys_and_stored_where_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files: list[bytes] = []
    for chunk in ([], ["--decode-chunk", "1"], ["--decode-chunk", "2"]):
        path = tmp_path / f"clip{len(files)}.gif"
        assert sample(folder, "--prompt", PROMPT, "--output", path, *chunk) == 0
        files.append(path.read_bytes())
    assert files[0] == files[2] != files[1]

    path = tmp_path / "clip.mp4"
    assert sample(folder, "--prompt", PROMPT, "--output", path, "--decode-chunk", "14") == 0
    assert b'"decode_chunk": 14' in path.read_bytes()

    assert sample(folder, "--prompt", PROMPT, "--output", path, "--decode-chunk", "0") == 2
    assert "--decode-chunk is 0" in only_error(capsys.readouterr())


def test_frame_rate_and_recipe_are_stored_in_the_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    assert sample(folder, "--prompt", PROMPT, "--output", path, "--fps", "12.5") == 0
    assert read_video(path).fps == Fraction(25, 2)
    raw = path.read_bytes()
    start = raw.index(b'{"latte"')
    recipe, _ = json.JSONDecoder().raw_decode(raw[start:].decode("utf-8", "replace"))
    assert recipe["prompt"] == PROMPT
    assert (recipe["seed"], recipe["steps"], recipe["sampler"]) == (0, 2, "ddim")
    assert (recipe["vae"], recipe["temporal_attention"]) == ("temporal", True)


def test_lines_of_a_file_become_numbered_videos_each_as_if_made_alone(
    folder: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"\ufeff{PROMPT}\n\n  a blue square moving up  \n", encoding="utf-8")
    assert sample(folder, "--prompts", prompts, "--output", tmp_path / "clip.gif") == 0
    assert sample(folder, "--prompt", PROMPT, "--output", tmp_path / "alone.gif") == 0
    made = sorted(path.name for path in tmp_path.glob("*.gif"))
    assert made == ["alone.gif", "clip-001.gif", "clip-002.gif"]
    first, second, alone = (
        (tmp_path / name).read_bytes() for name in ("clip-001.gif", "clip-002.gif", "alone.gif")
    )
    assert first == alone
    assert second != alone


def test_numbers_get_as_many_digits_as_they_need() -> None:
    names = [path.name for path in sample_targets.numbered(Path("a/clip.mp4"), 1234)]
    assert (names[0], names[-1]) == ("clip-0001.mp4", "clip-1234.mp4")


def test_options_left_out_come_from_the_models_card(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "carded"
    shutil.copytree(folder, other)
    card = {"num_steps": 3, "guidance_scale": 2.5, "num_frames": 2, "sampler": "euler"}
    (other / "card.json").write_text(json.dumps(card))
    used: list[sample_text.Recipe] = []

    def make(maker: sample_text.TextMaker, job: Job, _: object) -> Tensor:
        used.append(maker._recipe)  # pyright: ignore[reportPrivateUsage]
        return torch.zeros(*maker.size, 3)

    monkeypatch.setattr(sample_text.TextMaker, "make", make)
    path = tmp_path / "clip.gif"
    assert main(["sample", "--prompt", "x", "--model", str(other), "--output", str(path)]) == 0
    recipe = used[0]
    assert (recipe.steps, recipe.guidance, recipe.frames, recipe.sampler) == (3, 2.5, 2, "euler")
    assert (recipe.height, recipe.width) == (32, 32)


def test_transformer_file_uses_the_folders_around_it(folder: Path, tmp_path: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path = tmp_path / "clip.gif"
    assert sample(weights, "--prompt", PROMPT, "--output", path) == 0
    assert read_video(path).frames.shape == (2, 32, 48, 3)


BAD_SAMPLES: list[tuple[list[str], str]] = [
    (["--output", "clip.avi"], "clip.avi"),
    (["--output", "clip.png"], "holds 1 frame"),
    (["--output", "clip.mp4", "--height", "40"], "nearest sizes are 32 and 48"),
    (["--output", "clip.mp4", "--steps", "0"], "steps"),
    (["--output", "clip.mp4", "--steps", "ddim50"], "whole number"),
    (["--output", "clip.mp4", "--eta", "2"], "eta"),
    (["--output", "clip.mp4", "--num", "0"], "--num"),
    (["--output", "clip.mp4", "--vae", "vae.pt"], "temporal or image"),
    (["--output", "clip.mp4", "--class", "3"], "steered by words"),
    (["--output", "clip.mp4", "--preset", "ucf101"], "class-conditional model, but"),
    (["--output", "clip.mp4", "--format", "gif"], "--format is for --output-dir"),
    (["--output", "clip.mp4", "--grid", "-1", "--num", "2"], "columns"),
    (["--output-dir", "clips", "--grid"], "--grid writes one file"),
    (["--output-dir", "blocker"], "blocker"),
    (["--output", "clip.mp4", "--seed", "-1"], "seed"),
    (["--output", "clip.mp4", "--guidance", "nan"], "guidance_scale"),
    (["--output", "clip.mp4", "--sampler", "eular"], "Did you mean 'euler'"),
    (["--output", "clip.mp4", "--frames", "0"], "frames"),
    (["--output", "clip.mp4", "--fps", "0"], "fps"),
    (["--output", "clip.mp4", "--device", "toaster"], "device"),
    (["--output", "clip.mp4", "--model", "nowhere"], "nowhere"),
    (["--output", "blocker/clip.mp4"], "blocker"),
]


@pytest.mark.parametrize(("options", "message"), BAD_SAMPLES)
def test_every_mistake_is_one_sentence_and_exit_code_2(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocker").touch()
    assert sample(folder, "--prompt", PROMPT, *options) == 2
    assert message in only_error(capsys.readouterr())
    assert [path.name for path in tmp_path.iterdir()] == ["blocker"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sampel"],
        ["sample"],
        ["sample", "--prompt", "x"],
        ["sample", "--prompt", "x", "--output", "x.mp4", "--output-dir", "y"],
        ["sample", "--preset", "ffs", "--config", "ffs.yaml", "--output", "x.mp4"],
        ["sample", "--preset", "cats", "--output", "x.mp4"],
        ["sample", "--prompt", "x", "--prompts", "y", "--output", "x.mp4"],
        ["sample", "--prompt", "x", "--output", "x.mp4", "--upscale", "3"],
        ["sample", "--prompt", "x", "--output", "x.mp4", "--num", "many"],
        ["inspect"],
        ["convert", "a.pt"],
    ],
)
def test_wrong_options_are_one_sentence_that_names_the_help(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "--help" in only_error(capsys.readouterr())


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe\x00", None])
def test_prompt_file_without_prompts_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    prompts = tmp_path / "prompts.txt"
    if content is not None:
        prompts.write_bytes(content)
    assert sample(folder, "--prompts", prompts, "--output", tmp_path / "clip.mp4") == 2
    assert "prompts.txt" in only_error(capsys.readouterr())


def test_note_of_a_long_clip_is_shown_as_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.gif"
    assert sample(folder, "--prompt", PROMPT, "--output", path, "--frames", "17") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 1
    assert "trained on 16" in notes[0]


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "Stopped"),
        (torch.OutOfMemoryError("x"), 2, "not enough memory"),
        (LatteError("Something is wrong."), 2, "Something is wrong."),
    ],
)
def test_interrupt_and_full_memory_end_in_a_sentence(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
    message: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(sample_text.TextMaker, "make", fails)
    assert sample(folder, "--prompt", PROMPT, "--output", tmp_path / "clip.mp4") == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_command_line_leaves_no_log_handler_behind(folder: Path, tmp_path: Path) -> None:
    before = list(logging.getLogger("latte").handlers)
    sample(folder, "--prompt", PROMPT, "--output", tmp_path / "clip.avi")
    assert logging.getLogger("latte").handlers == before


def test_inspect_says_which_part_of_latte_a_file_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert main(["inspect", str(weights)]) == 0
    shown = capsys.readouterr().out
    assert "Latte" in shown
    assert "yes" in shown


def test_inspect_of_a_cut_file_says_so_and_ends_with_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    assert main(["inspect", str(cut)]) == 2
    assert "incomplete" in capsys.readouterr().out


def test_inspect_of_a_missing_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "missing.pt")]) == 2
    assert "missing.pt" in only_error(capsys.readouterr())


def test_convert_writes_one_file_that_loads_as_the_folder_does(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "latte.safetensors"
    assert main(["convert", str(folder), str(target)]) == 0
    assert "latte.safetensors" in capsys.readouterr().out
    expected = load_transformer(folder).state_dict()
    loaded = load_transformer(target).state_dict()
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_convert_can_pick_a_part_and_a_number_format(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    target = tmp_path / "vae.safetensors"
    options = ["--part", "temporal_vae", "--dtype", "float16"]
    assert main(["convert", str(folder), str(target), *options]) == 0
    assert {tensor.dtype for tensor in load_file(target).values()} == {torch.float16}


def test_convert_onto_its_source_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    assert main(["convert", str(weights), str(weights)]) == 2
    assert "never overwritten" in only_error(capsys.readouterr())
    assert weights.read_bytes() == before


@pytest.mark.parametrize("command", [entry.name for entry in COMMANDS])
def test_help_of_every_command_shows_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert f"python -m latte_core {command} " in shown


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_example_in_the_help_is_understood(entry: CommandName) -> None:
    command = entry.load()
    joined = command.examples.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if "python -m latte_core" in line]
    understood = [make_parser().parse_args(shlex.split(line)[3:]).run for line in lines]
    assert command.run in understood


def test_module_runs_as_a_program(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip with a space.mp4"
    command = [sys.executable, "-m", "latte_core", "sample", "--model", str(folder), *QUICK]
    ended = subprocess.run(
        [*command, "--prompt", PROMPT, "--output", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert read_video(path).frames.shape == (2, 32, 48, 3)
    assert "Traceback" not in ended.stderr
