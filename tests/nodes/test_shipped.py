"""Which runs follow the lists of steps that a model came with, without ComfyUI."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.pack import load_pack

PACK = load_pack()


def part(name: str) -> Any:
    """Return a module of the pack."""
    return importlib.import_module(f"{PACK.__name__}.{name}")


SHIPPED = part("nodes.host.run.shipped_schedules")
Origin = part("nodes.host.model.origin").Origin
FILES = part("latte_core.acceleration.schedule_file")
SETTINGS = part("latte_core.acceleration.settings")
TEXT = part("latte_core.config.t2v").LatteT2VConfig()
CLASSES = part("latte_core.config.latte").LatteConfig()
STEPS = 10
OWN = SETTINGS.CacheSettings()


def sigma_at(timestep: int) -> float:
    """Return the noise level of a training-time step, from the formula of the linear schedule."""
    kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * index / 999) for index in range(timestep + 1))
    return math.sqrt((1 - kept) / kept)


def model_folder(path: Path, sampler: str = "ddim", digest: str = "") -> Any:
    """Make a folder with one file of lists; return the origin of a model in it."""
    (path / "cache_schedules").mkdir()
    FILES.ScheduleFile(
        model="tiny",
        digest=digest,
        sampler=sampler,
        num_steps=STEPS,
        guidance_scale=4.0,
        forecast=2,
        prompts=1,
        schedules=(FILES.CalibratedSchedule(full_steps=(0, 1, 2, 9)),),
    ).write(path / "cache_schedules" / f"{sampler}-{STEPS}.json")
    return Origin.of(path, {"latte_sha256": "aa"})


def settle(origin: Any, sampler: str = "ddim", settings: Any = OWN, **changes: Any) -> Any:
    """Settle a run at Latte's own levels; return settings and the sampler's name."""
    config = changes.get("config", TEXT)
    sigmas = changes.get("sigmas", SHIPPED.own_levels(config, STEPS))
    return SHIPPED.settle_schedules(settings, origin, sampler=sampler, sigmas=sigmas, config=config)


@pytest.mark.parametrize(
    ("config", "num_steps", "visits"),
    [
        (TEXT, 4, (750, 500, 250, 0)),
        (TEXT, 3, (666, 333, 0)),
        (CLASSES, 4, (999, 666, 333, 0)),
        (CLASSES, 3, (999, 500, 0)),
    ],
)
def test_own_levels_are_those_of_the_timesteps_that_latte_visits(
    config: Any, num_steps: int, visits: tuple[int, ...]
) -> None:
    expected = [sigma_at(visit) for visit in visits]
    assert SHIPPED.own_levels(config, num_steps) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_a_number_of_steps_that_no_run_has_gives_no_levels(num_steps: int) -> None:
    assert SHIPPED.own_levels(TEXT, num_steps) == []


def test_levels_of_a_folder_follow_its_scheduler_config(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"steps_offset": 1}), encoding="utf-8")
    expected = [sigma_at(visit) for visit in (501, 1)]
    assert SHIPPED.own_levels(TEXT, 2, tmp_path) == pytest.approx(expected, rel=1e-9)
    assert SHIPPED.own_levels(TEXT, 1000, tmp_path) == []  # the first would be timestep 1000


def test_rounded_levels_fit_and_a_neighbouring_timestep_does_not() -> None:
    levels = SHIPPED.own_levels(TEXT, STEPS)
    assert SHIPPED.fits([level * (1 + 1e-4) for level in levels], levels)
    for index in range(STEPS):
        moved = [*levels]
        moved[index] = sigma_at(round(900 - 100 * index) + 1)
        assert not SHIPPED.fits(moved, levels)
    assert not SHIPPED.fits(levels[1:], levels)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_run_at_the_models_own_levels_follows_its_list(tmp_path: Path, sampler: str) -> None:
    settings, name = settle(model_folder(tmp_path), sampler)
    assert name == "ddim"
    assert settings.make_policy(STEPS, name).full_steps == (0, 1, 2, 9)
    assert settings.order == 2


def test_class_models_have_lists_too(tmp_path: Path) -> None:
    origin = model_folder(tmp_path, "ddpm")
    assert settle(origin, "ddpm", config=CLASSES)[0].schedules is not None
    assert settle(origin, "ddim", config=CLASSES)[0].schedules is None
    of_text = SHIPPED.own_levels(TEXT, STEPS)
    assert settle(origin, "ddpm", config=CLASSES, sigmas=of_text)[0].schedules is None


@pytest.mark.parametrize(
    ("sampler", "changes"),
    [
        ("dpmpp_2m", {}),
        ("euler_ancestral", {}),
        ("ddpm", {}),
        ("ddim", {"sigmas": SHIPPED.own_levels(TEXT, STEPS + 1)}),
        ("ddim", {"sigmas": SHIPPED.own_levels(TEXT, STEPS + 1)[:STEPS]}),
        ("euler", {"sigmas": [14.0, *SHIPPED.own_levels(TEXT, STEPS)[1:]]}),
        ("ddim", {"settings": SETTINGS.CacheSettings(policy="teacache")}),
        ("ddim", {"settings": SETTINGS.CacheSettings(speed_up=1)}),
    ],
)
def test_other_runs_keep_their_settings(
    tmp_path: Path, sampler: str, changes: dict[str, Any]
) -> None:
    given = changes.get("settings", OWN)
    settings, _ = settle(model_folder(tmp_path), sampler, **changes)
    assert settings == given


def test_models_without_a_folder_or_a_list_keep_the_rule(tmp_path: Path) -> None:
    file = tmp_path / "latte.safetensors"
    file.touch()
    assert Origin.of(file, {}) is None
    assert settle(None) == (OWN, "ddim")
    assert settle(Origin.of(tmp_path, {})) == (OWN, "ddim")


@pytest.mark.parametrize(("digest", "is_followed"), [("", True), ("aa", True), ("bb", False)])
def test_a_list_for_other_weights_is_not_followed(
    tmp_path: Path, digest: str, is_followed: bool
) -> None:
    settings, _ = settle(model_folder(tmp_path, digest=digest))
    assert (settings.schedules is not None) == is_followed


def test_a_list_chosen_by_hand_is_kept_and_fits_euler_at_its_levels(tmp_path: Path) -> None:
    origin = model_folder(tmp_path)
    chosen = SETTINGS.CacheSettings(schedules=settle(origin)[0].schedules)
    assert settle(None, "euler", chosen) == (chosen, "ddim")
    assert settle(None, "euler", chosen, sigmas=[3.0, 2.0, 1.0]) == (chosen, "euler")


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    origin = model_folder(tmp_path)
    (tmp_path / "cache_schedules" / f"ddim-{STEPS}.json").write_text("{}", encoding="utf-8")
    with pytest.raises(part("latte_core.errors").CorruptCheckpointError, match="ddim-10.json"):
        settle(origin)
