"""The class starter's training machinery and its measure."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import Tensor

from latte_core.cli.main import main
from latte_core.errors import IncompatibleInputsError
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.starter.class_starter import train_class_starter
from latte_core.starter.drawing import COLORS, SHAPES, draw_clips, make_clip_spec
from latte_core.starter.recipe import CLASS_NAMES
from latte_core.starter.scores import score_class_starter, total_class_clips


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class starter after one step."""
    base = tmp_path_factory.mktemp("classes")
    train_class_starter(base / "model", base / "work", steps_scale=1e-9)
    return base / "model"


def test_a_trained_folder_opens_through_the_ordinary_pipeline(made: Path) -> None:
    pipeline = ClassPipeline.from_pretrained(made)
    assert pipeline.class_names == CLASS_NAMES
    result = pipeline("Purple Triangle", steps=2)
    assert result.class_labels == (CLASS_NAMES.index("purple triangle"),)
    assert result.frames is not None
    assert result.frames.shape == (16, 64, 64, 3)


def test_the_folder_is_small_enough_to_ship_and_lists_every_file(made: Path) -> None:
    files = [path for path in made.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6
    digests = json.loads((made / "digests.json").read_text())
    assert set(digests) == {path.relative_to(made).as_posix() for path in files} - {"digests.json"}


def test_it_can_be_trained_further(made: Path, tmp_path: Path) -> None:
    train_class_starter(
        tmp_path / "next", tmp_path / "work", seed=1, steps_scale=1e-9, start_from=made
    )
    card = json.loads((tmp_path / "next" / "card.json").read_text())
    assert [run["seed"] for run in card["recipe"]["runs"]] == [0, 1]


@pytest.mark.parametrize("variant", [2, 3, 4])
def test_every_variant_is_trained_and_opened_as_what_it_is(variant: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    train_class_starter(folder, tmp_path / "work", steps_scale=1e-9, variant=variant)
    opened = ClassPipeline.from_pretrained(folder).parts.transformer
    assert opened.config.variant == variant
    with pytest.raises(IncompatibleInputsError, match=f"is a Latte of variant {variant}"):
        train_class_starter(
            tmp_path / "next", tmp_path / "more", steps_scale=1e-9, start_from=folder
        )


def test_every_color_and_shape_has_its_class() -> None:
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == 18
    assert set(CLASS_NAMES) == {f"{color} {shape}" for color in COLORS for shape in SHAPES}


def test_scores_are_right_when_clips_show_their_class() -> None:
    def draw(names: Sequence[str], seeds: Sequence[int], scale: float) -> Tensor:
        specs = []
        for name, seed in zip(names, seeds, strict=True):
            color, shape = name.split()
            shown = shape if scale > 1 else "circle"
            specs.append(make_clip_spec(random.Random(seed), color=color, shape=shown))
        return draw_clips(specs).permute(0, 1, 3, 4, 2)

    done: list[int] = []
    scores = score_class_starter(draw, 2.0, num_seeds=1, report=done.append)
    assert (scores.color, scores.shape, scores.color_unguided) == (1.0, 1.0, 1.0)
    assert scores.shape_unguided == pytest.approx(1 / 3)
    assert sum(done) == total_class_clips(1)


def test_the_commands_train_and_measure_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert main(["train-starter", str(folder), "--kind", "class", "--scale", "1e-9"]) == 0
    assert main(["evaluate", str(folder), "--seeds", "1", "--steps", "1", "--card"]) == 0
    card = json.loads((folder / "card.json").read_text())
    assert card["scores"]["clips"] == 18
    assert "colour right" in capsys.readouterr().out


def test_contradicting_sources_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "mine")
    both = ["--start-from", folder, "--base", folder]
    assert main(["train-starter", folder, *both]) == 2
    assert "Leave one of them" in capsys.readouterr().err
    assert main(["train-starter", folder, "--variant", "2"]) == 2
    assert "variant 1 only" in capsys.readouterr().err
