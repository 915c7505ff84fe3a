"""The starter models that ship: whole, small enough, and as good as their cards say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from latte_core import Pipeline
from latte_core.acceleration import CacheSettings, ScheduleFile
from latte_core.checkpoint.lora.writer import base_of
from latte_core.pipelines.calibration.calibration import psnr
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.starter.drawing import DIRECTIONS, base_prompt
from latte_core.starter.measure import measure_clip

ASSETS = Path(__file__).resolve().parents[1] / "latte_core" / "assets"
LIMITS = {"starter": 12e6, "class_starter": 6e6}
BARS = {
    "starter": {
        "color": 0.98,
        "direction": 0.98,
        "shape": 0.95,
        "held_out_wordings": 0.9,
        "unseen_pairs": 0.9,
        "sizes": 0.95,
        "backgrounds": 0.95,
    },
    "class_starter": {"color": 0.98, "shape": 0.98},
}
MOST_FLICKER = 1.0  # of 255, frame to frame
LOOKS = [
    ("red", "square"),
    ("green", "circle"),
    ("blue", "triangle"),
    ("yellow", "square"),
    ("purple", "circle"),
]


def read(folder: str, name: str) -> dict[str, Any]:
    """Return a JSON file of a starter."""
    return json.loads((ASSETS / folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", LIMITS)
def test_every_file_is_the_one_that_was_written(folder: str) -> None:
    digests = read(folder, "digests.json")
    files = {
        path.relative_to(ASSETS / folder).as_posix(): path
        for path in (ASSETS / folder).rglob("*")
        if path.is_file() and path.name != "digests.json"
    }
    found = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert found == digests
    assert sum(path.stat().st_size for path in files.values()) <= LIMITS[folder]


@pytest.mark.parametrize("folder", LIMITS)
def test_its_card_holds_scores_above_the_bars(folder: str) -> None:
    scores = read(folder, "card.json")["scores"]
    assert {name: scores[name] for name, bar in BARS[folder].items() if scores[name] < bar} == {}
    assert scores["background_flicker"] < MOST_FLICKER


def test_guidance_and_the_negative_prompt_matter() -> None:
    scores = read("starter", "card.json")["scores"]
    gained = scores["color"] - scores["color_unguided"]
    both_right = min(scores["color"], scores["color_unguided"]) >= 0.95
    assert gained >= 0.1 or (both_right and scores["direction"] > scores["direction_unguided"])
    assert scores["red_with_negative"] < scores["red_without_negative"] / 3


def test_starter_does_what_prompts_say() -> None:
    wanted = [(*looks, direction) for looks, direction in zip(LOOKS, DIRECTIONS, strict=True)]
    pipeline = Pipeline.from_pretrained("starter")
    best = pipeline.defaults
    frames = pipeline(
        [base_prompt(*one) for one in wanted],
        seed=list(range(len(wanted))),
        num_steps=best.num_steps,
        guidance_scale=best.guidance_scale,
    ).frames
    assert frames is not None
    seen = [measure_clip(clip) for clip in frames]
    right = [
        (one.color, one.shape, one.direction) == want
        for one, want in zip(seen, wanted, strict=True)
    ]
    assert sum(right) >= 4, list(zip(wanted, seen, strict=True))


def test_class_starter_shows_its_classes() -> None:
    pipeline = ClassPipeline.from_pretrained("class-starter")
    names = [" ".join(looks) for looks in LOOKS]
    frames = pipeline(names, seed=list(range(len(names)))).frames
    assert frames is not None
    seen = [measure_clip(clip) for clip in frames]
    right = [f"{one.color} {one.shape}" == name for one, name in zip(seen, names, strict=True)]
    assert sum(right) >= 4, list(zip(names, seen, strict=True))


@pytest.mark.parametrize("num_steps", [20, 50])
def test_the_text_starter_comes_with_schedules_of_its_own_weights(num_steps: int) -> None:
    schedules = ScheduleFile.beside(ASSETS / "starter", "ddim", num_steps)
    assert schedules is not None
    assert schedules.digest == base_of(ASSETS / "starter" / "transformer").digest  # else calibrate
    assert schedules.guidance_scale == read("starter", "card.json")["guidance_scale"]
    counts = [len(one.full_steps) for one in schedules.schedules]
    speed_ups = [num_steps / count for count in counts]
    assert speed_ups == pytest.approx([1.25, 1.6, 2.0, 2.5, 3.3], rel=0.06)
    bars = {1.6: 30.0, 2.0: 26.0, 3.3: 20.0}  # decibels
    for speed_up, bar in bars.items():
        nearest = min(
            schedules.schedules, key=lambda one: abs(len(one.full_steps) - num_steps / speed_up)
        )
        assert nearest.psnr is not None and nearest.psnr >= bar


def test_a_cached_video_stays_close_to_the_video_without_a_cache() -> None:
    pipeline = Pipeline.from_pretrained("starter")
    scale = read("starter", "card.json")["guidance_scale"]
    options: dict[str, Any] = {"num_steps": 50, "seed": 9, "guidance_scale": scale}
    plain = pipeline("a blue circle moving left", **options)
    cached = pipeline("a blue circle moving left", **options, cache=CacheSettings(speed_up=2))
    assert cached.cache[0].full_steps == 25
    assert cached.frames is not None and plain.frames is not None
    assert psnr(cached.frames, plain.frames) >= 26.0
