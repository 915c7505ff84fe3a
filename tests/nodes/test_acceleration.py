"""What the widgets of Latte Accelerate mean, without ComfyUI."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from latte_test_support.pack import load_pack

PACK = load_pack()
WIDGETS: dict[str, Any] = {
    **dict.fromkeys(("policy", "forecast", "schedule"), "auto"),
    "threshold": 0.0,
}


def part(name: str) -> Any:
    """Return a module of the pack."""
    return importlib.import_module(f"{PACK.__name__}.{name}")


def settings(**changes: Any) -> Any:
    """Return the settings that widgets stand for."""
    return part("nodes.acceleration.accelerate").settings_of(
        **{"mode": "balanced", **WIDGETS, **changes}
    )


@pytest.mark.parametrize(("mode", "full"), [("quality", 31), ("balanced", 25), ("fast", 15)])
def test_the_dial_says_how_many_steps_are_computed(mode: str, full: int) -> None:
    assert len(settings(mode=mode).make_policy(50, "ddim").full_steps) == full


def test_off_is_no_cache_whatever_else_is_set() -> None:
    assert settings(mode="off", policy="teacache", threshold=0.2) is None


def test_off_with_a_guidance_cache_skips_no_steps() -> None:
    made = settings(mode="off", guidance_cache=True)
    assert made.make_policy(50, "ddim") is None
    assert made.guidance is not None


@pytest.mark.parametrize("policy", ["auto", "teacache", "first-block", "pab"])
def test_a_guidance_cache_is_added_to_any_policy_and_off_by_default(policy: str) -> None:
    assert settings(policy=policy).guidance is None
    made = settings(policy=policy, guidance_cache=True)
    assert made.guidance is not None
    assert made.policy == settings(policy=policy).policy


def test_threshold_zero_is_the_policys_own() -> None:
    assert settings(policy="teacache").make_policy(50, "ddim").threshold == 0.15
    assert settings(policy="first-block", threshold=0.07).make_policy(9, "").threshold == 0.07


@pytest.mark.parametrize(("widget", "order"), [("auto", 1), ("0", 0), ("2", 2)])
def test_forecast_is_the_order(widget: str, order: int) -> None:
    assert settings(forecast=widget).order == order


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "faster"}, ["mode", "balanced"]),
        ({"policy": "fora"}, ["policy", "teacache"]),
        ({"forecast": "3"}, ["forecast", "auto"]),
        ({"threshold": float("nan")}, ["threshold", "number"]),
        ({"threshold": -1.0}, ["threshold", "0 to 10"]),
        ({"schedule": "../steps.json"}, ["schedule", "latte_schedules", "calibrate"]),
    ],
)
def test_values_over_a_wire_are_checked(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(part("latte_core.errors").InvalidInputError) as caught:
        settings(**changes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_schedule_beside_another_policy_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "steps.json"
    file.write_text("{}", encoding="utf-8")
    monkeypatch.setattr(part("nodes.host.base.paths"), "schedule_files", lambda: {file.name: file})
    with pytest.raises(part("latte_core.errors").IncompatibleInputsError, match="policy pab"):
        settings(schedule=file.name, policy="pab")
