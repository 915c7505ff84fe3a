"""Pickles are followed without being carried out."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import (
    pickle_bytes,
    repack,
    safetensors_bytes,
    torch_bytes,
)

from latte_core.checkpoint import read_header, read_tensors
from latte_core.checkpoint.reading import reader as reader_module
from latte_core.checkpoint.reading.containers import enter
from latte_core.checkpoint.reading.instructions import MAX_INSTRUCTIONS, PickleReader
from latte_core.checkpoint.reading.outline import (
    MalformedPickleError,
    Outline,
    ShortPickleError,
    TensorOutline,
)
from latte_core.checkpoint.reading.pickle_header import MAX_PICKLE_BYTES
from latte_core.checkpoint.reading.reader import check_tensors, plain_tensor
from latte_core.checkpoint.reading.records import TensorInfo
from latte_core.checkpoint.reading.safetensors_header import read_safetensors_header
from latte_core.errors import CheckpointError, CorruptCheckpointError


def outline_of(data: bytes) -> Outline:
    outline = Outline()
    PickleReader(outline).run(io.BytesIO(data))
    return outline


VALUES: list[Any] = [
    None,
    True,
    False,
    5,
    -70_000,
    2**80,
    1.5,
    "text",
    b"bytes",
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1],
    [1, [2, 3]],
    {},
    {"a": 1},
    {"a": {"b": [1]}, 3: None, 1.5: "x"},
]


# Protocols below 3 build bytes by a call, so their bytes stay unknown.
@pytest.mark.parametrize(
    ("value", "protocol"),
    [(v, p) for v in VALUES for p in range(6) if p >= 3 or not isinstance(v, bytes)],
)
def test_plain_values_are_followed_in_every_protocol(value: Any, protocol: int) -> None:
    assert outline_of(pickle.dumps(value, protocol)).tree == value


@pytest.mark.parametrize("value", [{1, 2}, frozenset({1}), bytearray(b"x"), Counter("aab"), 1j])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_harmless_values_are_no_obstacle(value: Any, protocol: int) -> None:
    assert outline_of(pickle.dumps({"x": value, "y": 2}, protocol)).tree["y"] == 2


def test_old_ordered_dicts_made_from_pairs_are_followed() -> None:
    data = b"\x80\x02ccollections\nOrderedDict\n](X\x01\x00\x00\x00aK\x05\x86e\x85R."
    assert outline_of(data).tree == {"a": 5}


@pytest.mark.parametrize(
    "data",
    [
        b".",
        b"\x80\x02(.",
        b"\x80\x02a.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02h\x07.",
        b"\x80\x02K\x01K\x02\x93.",
        b"\x80\x02P12\n.",
        b"\x80\x05\x97.",
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
        b"\x80\x02(X\x07\x00\x00\x00storageNNNNtQ.",
        b"\x80\x02(X\x07\x00\x00\x00storagecos\nx\nX\x01\x00\x00\x000NK\x01tQ.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nOdd\nX\x01\x00\x00\x000NK\x01tQ.",
        b"\x80\x02ccollections\nOrderedDict\nN\x85R.",
        b"\x80\x02ccollections\nOrderedDict\n]K\x05a\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00NNtR.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00(" + b"K\x01" * 17 + b"t)tR.",
        b"\x80\x02]q\x00K\x01\x85a\x8f\x90.",
        b"\x80\x02\x8a\x01",
    ],
)
def test_impossible_instructions_end_in_one_error(data: bytes) -> None:
    with pytest.raises(MalformedPickleError):
        outline_of(data)


def test_pickle_that_ends_early_is_told_apart() -> None:
    with pytest.raises(ShortPickleError):
        outline_of(pickle.dumps({"a": [1, 2, 3]})[:-4])


def test_unknown_calls_give_unknown_things() -> None:
    for data in (
        b"\x80\x02K\x05)R.",
        b"\x80\x02cos\nx\n)R.",
        b"\x80\x02cos\nx\n]R.",
        b"\x80\x02cos\nx\n)\x81}b.",
        b"\x80\x04cos\nx\n)}\x92.",
        b"\x80\x02(cos\nx\nK\x01o.",
        b"\x80\x02(K\x01ios\nx\n.",
        b"\x80\x02K\x01K\x02a0}.",
        b"\x80\x02NK\x01K\x02s0}.",
        b"\x80\x02(K\x011}.",
        b"\x80\x02}2.",
        b"\x80\x02}}K\x01\x86K\x02s0}.",
    ):
        assert outline_of(data).tree != 5


def test_endless_pickle_is_refused() -> None:
    with pytest.raises(MalformedPickleError, match="instructions"):
        outline_of(b"\x80\x02" + b"N0" * (MAX_INSTRUCTIONS // 2 + 1) + b"N.")


def test_storage_with_two_sizes_is_refused() -> None:
    part = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK%ctQ"
    two = part.replace(b"%c", b"\x01") + b"0" + part.replace(b"%c", b"\x02")
    with pytest.raises(MalformedPickleError, match="two sizes"):
        outline_of(b"\x80\x02" + two + b".")


def test_untyped_storage_needs_a_named_type() -> None:
    storage = b"(X\x07\x00\x00\x00storagectorch.storage\nUntypedStorage\nX\x01\x00\x00\x000NK\x04tQ"
    data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00))tR."
    tree = outline_of(data).tree
    assert isinstance(tree, TensorOutline)
    assert "quantised" in tree.problem
    assert tree.num_bytes == 0


def test_parameters_and_every_number_type_are_described(tmp_path: Path) -> None:
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64".split()
    tensors = {name: torch.ones(2, 3).to(getattr(torch, name)) for name in names}
    tensors["parameter"] = torch.nn.Parameter(torch.ones(1))
    tensors["fp8"] = torch.ones(2).to(torch.float8_e5m2)
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes(OrderedDict(tensors)))
    header, found = read_header(path), read_tensors(path).tensors
    for key, value in tensors.items():
        assert header.tensors[key].dtype == value.dtype == found[key].dtype
        assert header.tensors[key].shape == tuple(value.shape)
    assert not found["parameter"].requires_grad


@pytest.mark.filterwarnings("ignore:Sparse")
def test_odd_tensor_beside_the_weights_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes({"model": {"w": torch.ones(1)}, "x": torch.eye(2).to_sparse()}))
    with pytest.raises(CorruptCheckpointError, match="holds a sparse tensor"):
        read_header(path)


def test_safetensors_header_that_is_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_bytes([1]))
    with path.open("rb") as handle, pytest.raises(CorruptCheckpointError, match="not a table"):
        read_safetensors_header(path, handle)


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    shared = torch.zeros(0)
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes({str(n): shared for n in range(20_001)}))
    with pytest.raises(CorruptCheckpointError, match="20001 tensors"):
        read_header(path)


def test_legacy_storage_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    data = torch_bytes({"w": torch.ones(2)}, is_zip=False)
    keys = data.rindex(b"\x80\x02]")
    end = data.index(b".", keys)
    path = tmp_path / "w.pt"
    for other in (b"\x80\x02]N", b"\x80\x02N", b"\x80\x02]]"):
        path.write_bytes(data[:keys] + other + data[end:])
        with pytest.raises(CorruptCheckpointError):
            read_header(path)


def test_giant_legacy_table_of_contents_is_refused(tmp_path: Path) -> None:
    data = torch_bytes({"w": torch.ones(2), "note": "x" * MAX_PICKLE_BYTES}, is_zip=False)
    path = tmp_path / "w.pt"
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="exceeds"):
        read_header(path)


def test_plain_pickle_without_imports_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle_bytes([1.5, 2.5, 3.5]))
    with pytest.raises(CorruptCheckpointError, match="a Python pickle"):
        read_tensors(path)


def test_what_torch_itself_refuses_is_our_error(tmp_path: Path) -> None:
    """A frozen set passes the outline, but not torch's own safe unpickler."""
    good = torch_bytes({"w": torch.ones(2)})
    target = io.BytesIO()
    torch.save({"w": torch.ones(2), "s": frozenset({1})}, target, pickle_protocol=4)
    path = tmp_path / "w.pt"
    path.write_bytes(target.getvalue())
    with pytest.raises(CorruptCheckpointError, match="as its contents describe") as caught:
        read_tensors(path)
    assert "weights_only" not in str(caught.value)
    path.write_bytes(repack(good, version=b"99999999999\n"))
    with pytest.raises(CorruptCheckpointError):
        read_tensors(path)


def test_entering_something_that_is_no_table_is_an_error() -> None:
    with pytest.raises(TypeError):
        enter({"ema": [1]}, ("ema",))


INFO = TensorInfo(shape=(2,), dtype=torch.float32, type_name="F32")


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3),
        torch.ones(2, dtype=torch.float16),
        torch.empty(2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.ones(1).expand(2),
        None,
        [1.0, 2.0],
    ],
    ids=str,
)
def test_tensors_are_checked_again_after_loading(value: Any) -> None:
    with pytest.raises(CorruptCheckpointError):
        check_tensors("w.pt", {"w": value}, {"w": INFO})


def test_claim_beyond_the_storage_is_refused_after_loading() -> None:
    with pytest.raises(CorruptCheckpointError, match="claims 40 bytes but stores 4 bytes"):
        plain_tensor("w.pt", "w", torch.ones(1).expand(10))


def test_library_that_refuses_a_good_header_is_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def refuse(*_: Any, **__: Any) -> Any:
        raise SafetensorError("any words")

    monkeypatch.setattr(reader_module, "safe_open", refuse)
    with pytest.raises(CorruptCheckpointError, match="as its header describes"):
        reader_module.load_safetensors(tmp_path / "w.safetensors")


def test_file_that_cannot_be_opened_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"x" * 20)

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    error: OSError = PermissionError(13, "Permission denied")
    with pytest.raises(CheckpointError, match="cannot be opened: Permission denied"):
        read_tensors(path)
    error = FileNotFoundError(2, "gone")
    with pytest.raises(CheckpointError, match="was not found"):
        read_tensors(path)


def test_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    from latte_core.checkpoint.reading.sniff import open_weights

    with pytest.raises(CheckpointError, match="is a folder"), open_weights(tmp_path):
        pass
