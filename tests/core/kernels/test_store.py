"""Choices of kernels outlive a process, survive what may happen to a file, and can be fixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.kernels.tasks import ReadyKernels, double, same_double, wrong
from torch import Tensor

from latte_core.kernels import store as store_module
from latte_core.kernels.choice import (
    ATTEND_ACROSS_FRAMES,
    GATED_SUM,
    GATED_SUM_NORM,
    LINEAR_GELU,
    MODULATED_NORM,
    Kernel,
    KernelSet,
    KernelUse,
)
from latte_core.kernels.store import ChoiceFile, choice_key, read_choices

pytest.importorskip("triton")


class Kernels(ReadyKernels):
    """Kernels with a clock; `fast` is the function that the clock prefers."""

    def __init__(self, fast: str, **more: Any) -> None:
        self.asked = 0

        def clock(call: Any) -> float:
            self.asked += 1
            return 1.0 if call.func.__name__ == fast else 2.0

        super().__init__(timer=clock, **more)


def task(*ways: Callable[[Tensor], Tensor], fixed: int = 0) -> Kernel[[Tensor], Tensor]:
    return Kernel(name="double", ways=ways, fits=lambda _: True, fixed=fixed)


def chosen(kernels: Kernels, *sizes: int, way: Any = same_double) -> list[int]:
    for size in sizes or (4,):
        kernels.run(task(way), double, torch.ones(2, size))
    return list(kernels.choices.values())


def test_choice_is_read_by_the_next_process_without_timing(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "kernels.json"
    first = Kernels("same_double", store=ChoiceFile(path))
    assert chosen(first) == [0]
    assert first.asked > 0
    later = Kernels("double", store=ChoiceFile(path))  # a timing would choose otherwise
    assert chosen(later) == [0]
    assert later.asked == 0
    assert chosen(later, 5) == [0, -1]  # another shape is timed
    assert len(read_choices(path)) == 2


def test_choices_of_processes_side_by_side_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    two = [Kernels("same_double", store=ChoiceFile(path)) for _ in range(2)]
    for number, kernels in enumerate(two):
        assert ChoiceFile(path).load("missing") is None
        chosen(kernels, 4 + number)
    assert len(read_choices(path)) == 2


@pytest.mark.parametrize("versions", ["torch", "triton", "pack", "device", "capability"])
def test_another_card_or_version_is_timed_anew(
    versions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kernels.json"
    chosen(Kernels("same_double", store=ChoiceFile(path)))
    told = {**store_module.computing(torch.ones(1)), versions: "another"}
    monkeypatch.setattr(store_module, "computing", lambda _: told)
    assert chosen(Kernels("double", store=ChoiceFile(path))) == [-1]


def test_key_tells_kernels_types_shapes_and_layouts_apart() -> None:
    tokens = torch.ones(2, 4)
    others = (tokens.half(), tokens.T.contiguous().T, torch.ones(4, 2))
    keys = {choice_key("sum", one, (one, 1)) for one in (tokens, *others)}
    keys |= {choice_key("norm", tokens, (tokens, 1)), choice_key("sum", tokens, (tokens, 2))}
    assert len(keys) == 6


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"version": 0, "choices": {}}',
        b'{"version": 1, "choices": [1]}',
        b'{"version": 1}',
    ],
)
def test_damaged_file_is_begun_anew(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.write_bytes(damage)
    assert chosen(Kernels("same_double", store=ChoiceFile(path))) == [0]
    assert list(read_choices(path).values()) == [0]


@pytest.mark.parametrize("said", [7, -2, True, "0", None])
def test_choice_that_cannot_be_is_made_again(said: Any, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    chosen(Kernels("same_double", store=ChoiceFile(path)))
    whole = json.loads(path.read_text(encoding="utf-8"))
    whole["choices"] = dict.fromkeys(whole["choices"], said)
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert chosen(Kernels("same_double", store=ChoiceFile(path))) == [0]


def test_kept_kernel_with_another_result_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    chosen(Kernels("same_double", store=ChoiceFile(path)))
    with pytest.warns(UserWarning, match="does not give torch's result"):
        assert chosen(Kernels("double", store=ChoiceFile(path)), way=wrong) == [-1]


def test_folder_that_cannot_be_written_changes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    kept = ChoiceFile(tmp_path / "file" / "kernels.json")
    kernels = Kernels("same_double", store=kept)
    assert chosen(kernels, 4, 5) == [0, 0]
    assert (tmp_path / "file").read_text(encoding="utf-8") == ""


def test_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MOST_CHOICES", 3)
    kept = ChoiceFile(tmp_path / "kernels.json")
    for number in range(5):
        kept.save(str(number), number)
    assert read_choices(tmp_path / "kernels.json") == {"2": 2, "3": 3, "4": 4}
    monkeypatch.setattr(store_module, "MOST_BYTES", 10)
    assert read_choices(tmp_path / "kernels.json") == {}


def test_cards_keep_choices_in_the_users_cache_folder_and_cpus_keep_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATTE_CACHE_DIR", str(tmp_path))
    kernels = KernelSet()
    assert kernels.store_for(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kept: Any = kernels.store_for(torch.device("cuda"))
    kept.save("a", 1)
    assert [one.name for one in tmp_path.iterdir()] == ["kernels.json"]


@pytest.mark.parametrize(("fixed", "choice"), [(0, 0), (1, 1), (-1, -1)])
def test_fixed_choice_is_the_same_whatever_a_clock_says(
    fixed: int, choice: int, tmp_path: Path
) -> None:
    path = tmp_path / "kernels.json"
    kernels = Kernels("double", use=KernelUse.FIXED, store=ChoiceFile(path))
    kernels.run(task(same_double, same_double, fixed=fixed), double, torch.ones(2, 4))
    assert list(kernels.choices.values()) == [choice]
    assert kernels.asked == 0
    assert not path.exists()


def test_fixed_kernel_with_another_result_is_not_used() -> None:
    kernels = Kernels("double", use=KernelUse.FIXED)
    with pytest.warns(UserWarning, match="does not give torch's result"):
        found = kernels.run(task(wrong), double, torch.ones(2, 4))
    assert torch.equal(found, torch.full((2, 4), 2.0))


def test_rule_takes_what_spares_memory_and_leaves_products_to_torch() -> None:
    fused = (MODULATED_NORM, GATED_SUM, GATED_SUM_NORM, ATTEND_ACROSS_FRAMES)
    assert [kernel.fixed for kernel in (*fused, LINEAR_GELU)] == [0, 0, 0, 0, -1]
