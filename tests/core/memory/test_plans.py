"""Presets, and which of them is taken for what is free."""

from __future__ import annotations

import pytest
import torch

from latte_core.errors import InvalidInputError
from latte_core.memory import (
    MEMORY_CHOICES,
    PRESETS,
    MemoryPlan,
    PartSizes,
    check_memory,
    choose_plan,
    smaller_than,
    stage_bytes,
)

GB = 10**9
ACCELERATOR = torch.device("meta")  # any device that is not the CPU
LATTE_1 = PartSizes(
    text=9_524_000_000,
    transformer=2_114_000_000,
    vae=195_000_000,
    text_blocks=24,
    transformer_blocks=28,
    text_rest=263_000_000,
    tokens=2 * 16 * 1024,
    width=1152,
    itemsize=2,
    num_frames=16,
    height=512,
    frame_width=512,
)
STARTER = PartSizes(
    text=3_000_000,
    transformer=9_000_000,
    vae=4_000_000,
    text_blocks=2,
    transformer_blocks=4,
    text_rest=1_000_000,
    tokens=2 * 16 * 16,
    width=128,
    itemsize=4,
    num_frames=16,
    height=64,
    frame_width=64,
)


def peak(plan: MemoryPlan, sizes: PartSizes = LATTE_1) -> int:
    return max(stage_bytes(plan, sizes).values())


def chosen(room: int | None, sizes: PartSizes = LATTE_1, memory: str = "auto") -> str:
    choice = choose_plan(memory, ACCELERATOR, lambda: sizes, free=lambda _: room)
    return choice.plan.name


@pytest.mark.parametrize("name", list(PRESETS))
def test_each_preset_fits_the_card_it_is_named_after(name: str) -> None:
    assert peak(PRESETS[name]) < 0.9 * int(name) * GB


def test_smaller_presets_need_less() -> None:
    peaks = [peak(plan) for plan in PRESETS.values()]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


@pytest.mark.parametrize(("name", "most"), [("8", 5.0), ("4", 2.5)])
def test_small_presets_keep_to_what_they_were_made_for(name: str, most: float) -> None:
    assert peak(PRESETS[name]) < most * GB


def test_resident_parts_count_in_every_stage() -> None:
    stages = stage_bytes(PRESETS["24"], LATTE_1)
    weights = LATTE_1.text + LATTE_1.transformer + LATTE_1.vae
    assert min(stages.values()) > weights


def test_text_encoder_on_the_cpu_needs_nothing_on_the_device() -> None:
    assert stage_bytes(PRESETS["4"], LATTE_1)["text"] == 0


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [(80, "24"), (23.3, "24"), (15, "12"), (11.2, "12"), (7.2, "8"), (3.4, "6"), (2.5, "4")],
)
def test_auto_takes_the_roomiest_preset_that_fits(gigabytes: float, expected: str) -> None:
    assert chosen(int(gigabytes * GB)) == expected


def test_auto_takes_the_smallest_when_none_fits() -> None:
    assert chosen(GB // 10) == "4"


def test_auto_keeps_a_small_model_whole_on_a_small_card() -> None:
    assert chosen(2 * GB, STARTER) == "24"


def test_auto_keeps_everything_where_the_device_has_no_memory_of_its_own() -> None:
    def unknown() -> PartSizes:
        raise AssertionError("nobody needs the sizes")

    choice = choose_plan("auto", torch.device("cpu"), unknown)
    assert choice.plan.keeps_all
    assert "cpu has no memory of its own" in choice.sentence()


def test_a_preset_that_is_asked_for_is_taken_whatever_is_free() -> None:
    assert chosen(GB, memory="24") == "24"


def test_the_line_names_the_preset_the_reason_and_what_is_where() -> None:
    choice = choose_plan("auto", ACCELERATOR, lambda: LATTE_1, free=lambda _: 11 * GB)
    assert choice.sentence() == (
        "Memory preset 12 (11.0 GB are free, about 9.8 GB are needed): text encoder on the device "
        "in its turn, transformer on the device in its turn, temporal VAE in tiles of 384 pixels."
    )


@pytest.mark.parametrize(("given", "expected"), [("auto", "auto"), (" 8GB ", "8"), (12, "12")])
def test_memory_is_read_as_people_write_it(given: str | int, expected: str) -> None:
    assert check_memory(given) == expected


@pytest.mark.parametrize("given", ["", "7", "low", -1, 0])
def test_other_memory_is_refused_with_the_choices(given: str | int) -> None:
    with pytest.raises(InvalidInputError, match="one of 24, 12, 8, 6, 4"):
        check_memory(given)


def test_each_preset_knows_the_next_smaller_one() -> None:
    plan: MemoryPlan | None = PRESETS["24"]
    names: list[str] = []
    while plan is not None:
        names.append(plan.name)
        plan = smaller_than(plan)
    assert ("auto", *names) == MEMORY_CHOICES
    assert smaller_than(MemoryPlan(name="own")) is None
