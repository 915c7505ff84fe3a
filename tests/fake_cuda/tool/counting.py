"""Launches and bytes of what runs on the card, by the rules of the benchmarks."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .tensors import FakeCuda, flat, is_card

SCRIPTS = Path(__file__).resolve().parents[3] / "benchmarks"


@cache
def rules() -> Any:
    """Import what benchmarks count with."""
    return _load(SCRIPTS / "measuring" / "counting.py")


@cache
def full_size() -> Any:
    """Import the benchmark that counts a pass of Latte-1."""
    return _load(SCRIPTS / "op_count.py")


def _load(path: Path) -> Any:
    """Import a file of the benchmarks by its location, with its neighbours by name."""
    spec = importlib.util.spec_from_file_location(f"latte_fake_cuda_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        spec.loader.exec_module(module)
    return module


def make_counter() -> Any:
    """Return a mode that counts the operators of the card; the host's own cost it nothing."""

    class CardCounter(rules().OpCounter):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            is_on_card = any(isinstance(one, FakeCuda) for one in flat((args, kwargs)))
            if is_on_card or is_card(kwargs.get("device")):
                return super().__torch_dispatch__(func, types, args, kwargs)
            return func(*args, **kwargs)

    return CardCounter()


def attention_as_one() -> Any:
    """Return the mode that counts attention as one operator; for tensors without data."""
    return rules().AttentionAsOneOp()
