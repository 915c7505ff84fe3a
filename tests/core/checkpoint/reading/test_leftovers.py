"""What training runs leave beside the weights is passed over without running any of its code."""

from __future__ import annotations

import argparse
import datetime
import pickle
import sys
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latte_test_support.malformed import torch_bytes

from latte_core.checkpoint import read_tensors
from latte_core.checkpoint.reading.leftovers import is_leftover
from latte_core.errors import UnsafeCheckpointError

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3)}
LEFT: dict[str, Any] = {
    "NumPy numbers": {"lr": np.float64(1e-4), "step": np.int64(7), "done": np.bool_(True)},
    "a NumPy number as a key": {np.int64(3): "x"},
    "a NumPy array": np.arange(12.0).reshape(3, 4),
    "the state of NumPy's generator": np.random.RandomState(0).get_state(),
    "a path": {"results": Path("runs")},
    "a table with a default": defaultdict(list, {"loss": [0.5, 0.25]}),
    "a date": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "settings": argparse.Namespace(lr=np.float32(0.1), out=Path("x")),
    "a namespace": types.SimpleNamespace(a=1),
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("is_zip", [True, False])
def test_r13_weights_are_read_beside_what_a_run_left(
    tmp_path: Path, left: Any, is_zip: bool
) -> None:
    path = tmp_path / "0001000.pt"
    path.write_bytes(torch_bytes({"model": WEIGHTS, "opt": left}, is_zip=is_zip))

    assert torch.equal(read_tensors(path).tensors["layer.weight"], WEIGHTS["layer.weight"])


def test_settings_of_omegaconf_are_passed_over_although_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("omegaconf.dictconfig")
    settings = type("DictConfig", (), {"__module__": module.__name__})()
    settings.lr = 1e-4
    module.DictConfig = type(settings)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patched.setitem(sys.modules, module.__name__, module)
        data = torch_bytes({"ema": WEIGHTS, "args": settings})
    path = tmp_path / "0300000.pt"
    path.write_bytes(data)

    assert list(read_tensors(path).tensors) == ["layer.weight"]
    assert module.__name__ not in sys.modules


class Runs:
    """Calls something while it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "bad",
    [
        Runs(np.load, "x.npy"),
        Runs(Path.unlink, Path("x")),
        Runs(eval, "1"),
        Runs(getattr, Path, "unlink"),
        Runs(pickle.loads, b""),
    ],
)
def test_r13_anything_else_of_the_same_packages_is_still_refused(tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes({"model": WEIGHTS, "opt": bad}))

    with pytest.raises(UnsafeCheckpointError, match="asks Python to import"):
        read_tensors(path)


@pytest.mark.parametrize(
    "name", ["numpy.load", "numpy.dtypes.a.b", "builtins.eval", "pathlib.os", "omegaconf.nodes."]
)
def test_a_name_that_only_begins_like_a_leftover_is_none(name: str) -> None:
    assert not is_leftover(name)
