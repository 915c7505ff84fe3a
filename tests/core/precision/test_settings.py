"""Precisions by name, and sums in float16."""

from __future__ import annotations

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model

from latte_core.errors import InvalidInputError
from latte_core.precision.accumulation import (
    SWITCH,
    accumulate_in_float16,
    check_float16_accumulation,
)
from latte_core.precision.layers import is_quantised
from latte_core.precision.settings import apply_precision

FIRST_CARD = torch.device("cuda", 0)


def switch() -> bool:
    return bool(getattr(torch.backends.cuda.matmul, SWITCH))


def test_the_switch_is_on_inside_and_put_back_after_an_exception() -> None:
    before = switch()
    with pytest.raises(KeyboardInterrupt), accumulate_in_float16():
        assert switch()
        raise KeyboardInterrupt
    assert switch() == before is False


def test_a_switch_that_was_on_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cuda.matmul.allow_fp16_accumulation = True
    try:
        with accumulate_in_float16():
            assert switch()
        assert switch()
    finally:
        torch.backends.cuda.matmul.allow_fp16_accumulation = False


def test_sums_in_float16_want_a_card_and_float16() -> None:
    check_float16_accumulation(torch.float16, FIRST_CARD)
    with pytest.raises(InvalidInputError, match="model is on cpu"):
        check_float16_accumulation(torch.float16, torch.device("cpu"))
    with pytest.raises(InvalidInputError, match=r"float16, but these are torch\.bfloat16"):
        check_float16_accumulation(torch.bfloat16, FIRST_CARD)


def test_an_older_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latte_core.precision.accumulation.has_switch", lambda: False)
    with pytest.raises(InvalidInputError, match=r"torch 2\.7 or later"):
        check_float16_accumulation(torch.float16, FIRST_CARD)


def test_names_do_what_they_say() -> None:
    model = tiny_model()
    with apply_precision(model, None).active():
        assert not is_quantised(model) and not switch()
    with apply_precision(model, "int8").active():
        assert is_quantised(model) and not switch()
    with pytest.raises(InvalidInputError, match="model is on cpu"):
        apply_precision(tiny_model().half(), "fp16-acc")
    with pytest.raises(InvalidInputError, match="fp8, int8, fp16-acc"):
        apply_precision(tiny_model(), "fp4")
