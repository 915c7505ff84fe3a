"""What a PyTorch pickle would build, as descriptions of tensors (R01, R03).

Nothing is imported and no tensor is allocated, so a hostile file can be described, and refused,
before torch sees it. The calls a PyTorch file makes are those of `torch._utils`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch

from ...checks import is_whole
from .leftovers import is_leftover
from .records import TensorInfo, size_text

MAX_DIMENSIONS = 16
PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
UNTYPED_STORAGE = "torch.storage.UntypedStorage"
UNUSUAL_TENSORS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without data",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_wrapper_subclass": "a tensor subclass",
    "_rebuild_from_type_v2": "a tensor subclass",
    "_rebuild_parameter_with_state": "a parameter with Python state",
    "_rebuild_device_tensor_from_numpy": "a tensor of a special device",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of a special device",
}
QUANTISED_STORAGES = (
    "QInt8Storage",
    "QInt32Storage",
    "QUInt8Storage",
    "QUInt4x2Storage",
    "QUInt2x4Storage",
)
HARMLESS = frozenset(
    {
        "_codecs.encode",
        "builtins.set",
        "builtins.bytearray",
        "builtins.complex",
        "collections.OrderedDict",
        "collections.Counter",
        "torch.Size",
        "torch.Tensor",
        "torch.nn.parameter.Buffer",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.nn.parameter.Parameter",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        UNTYPED_STORAGE,
    }
)


class MalformedPickleError(Exception):
    """The instructions make no sense; the message says why."""


class ShortPickleError(MalformedPickleError):
    """The instructions end before the pickle does."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A thing that a pickle wants to import, by its dotted name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageInfo:
    """A block of numbers that tensors point into."""

    key: str
    dtype: torch.dtype | None
    num_bytes: int


@dataclass(frozen=True, slots=True)
class TensorOutline:
    """A tensor as a view on a storage; `problem` says why it is no ordinary one."""

    info: TensorInfo
    problem: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes the shape asks for."""
        return self.info.num_elements * (self.info.dtype.itemsize if self.info.dtype else 0)


class Unknown:
    """Anything else a pickle would build."""


@dataclass(slots=True)
class Outline:
    """What the pickles of one file would build.

    Args:
        tree: the last object built.
        imports: dotted names of everything to be imported, as keys in order of first use.
        storages: every storage, by key.
        unusual: descriptions of tensors that are not ordinary ones.
    """

    tree: object = None
    imports: dict[str, None] = field(default_factory=dict[str, None])
    storages: dict[str, StorageInfo] = field(default_factory=dict[str, StorageInfo])
    unusual: list[str] = field(default_factory=list[str])

    @property
    def forbidden(self) -> list[str]:
        """The imports that weights never need."""
        return [name for name in self.imports if not is_harmless(name)]

    def reference(self, module: str, name: str) -> Reference:
        """Record that the pickle wants to import something."""
        dotted = f"{PYTHON_2_MODULES.get(module, module)}.{name}"
        if dotted not in self.imports:
            self.imports[dotted] = None
        return Reference(dotted)

    def result_of(self, function: str, arguments: tuple[object, ...]) -> object:
        """Return the outline of what a call would build."""
        if function == "collections.OrderedDict":
            return ordered_dict(arguments)
        module, _, name = function.rpartition(".")
        if name in UNUSUAL_TENSORS:
            self.unusual.append(UNUSUAL_TENSORS[name])
            return unusual_tensor(UNUSUAL_TENSORS[name])
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return tensor_outline(arguments, None)
        if function == "torch._utils._rebuild_tensor_v3":
            return tensor_outline(arguments, arguments[6])
        if function == "torch._utils._rebuild_parameter":
            return arguments[0]
        return Unknown()

    def storage_of(self, found: object) -> StorageInfo:
        """Return the storage that a persistent id describes, and remember it.

        The id is ("storage", type, key, device, number of elements).
        """
        if not isinstance(found, tuple):
            raise MalformedPickleError("a storage without a description")
        parts = cast("tuple[object, ...]", found)
        if len(parts) not in (5, 6) or parts[0] != "storage" or parts[5:] not in ((), (None,)):
            raise MalformedPickleError("a storage of an unknown kind")
        kind, key, elements = parts[1], parts[2], parts[4]
        if not isinstance(kind, Reference) or not isinstance(key, str) or not is_count(elements):
            raise MalformedPickleError("a storage without type, name or size")
        dtype, width = storage_type(kind.name)
        storage = StorageInfo(key, dtype, cast("int", elements) * width)
        known = self.storages.setdefault(key, storage)
        if known.num_bytes != storage.num_bytes:
            raise MalformedPickleError("a storage with two sizes")
        return storage


def is_harmless(name: str) -> bool:
    """Return whether importing `name` is part of ordinary weights."""
    module, _, last = name.rpartition(".")
    if module == "torch":
        is_type = isinstance(getattr(torch, last, None), (torch.dtype, torch.qscheme))
        if is_type or last in STORAGE_TYPES or last in QUANTISED_STORAGES:
            return True
    is_tensor = module == "torch._utils" and last in UNUSUAL_TENSORS
    return name in HARMLESS or is_tensor or is_leftover(name)


def fill(target: dict[object, object], pairs: list[object]) -> None:
    """Put a flat list of keys and values into a dict; only plain keys matter to an outline."""
    if len(pairs) % 2:
        raise MalformedPickleError("a table with a key but no value")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if isinstance(key, (str, int, float, bytes)) or key is None:
            target[key] = value


def ordered_dict(arguments: tuple[object, ...]) -> dict[object, object]:
    """Return the dict that `OrderedDict(*arguments)` would be."""
    result: dict[object, object] = {}
    if not arguments:
        return result
    pairs = arguments[0]
    if not isinstance(pairs, list):
        raise MalformedPickleError("a table made from something unknown")
    for pair in cast("list[object]", pairs):
        if not isinstance(pair, (list, tuple)):
            raise MalformedPickleError("a table made from something unknown")
        fill(result, list(cast("list[object]", pair)))
    return result


def is_count(value: object) -> bool:
    """Return whether `value` is a number of elements or bytes a machine could hold."""
    return is_whole(value, 0, 2**63 - 1)


def storage_type(name: str) -> tuple[torch.dtype | None, int]:
    """Return dtype and bytes per element of a storage class; bytes for an untyped one."""
    if name == UNTYPED_STORAGE:
        return None, 1
    module, _, last = name.rpartition(".")
    if module == "torch" and last in STORAGE_TYPES:
        dtype: torch.dtype = getattr(torch, STORAGE_TYPES[last])
        return dtype, dtype.itemsize
    if module == "torch" and last in QUANTISED_STORAGES:
        return None, 4 if "32" in last else 1
    raise MalformedPickleError("a storage of an unknown type")


def unusual_tensor(problem: str) -> TensorOutline:
    """Return a stand-in for a tensor that is not an ordinary one."""
    info = TensorInfo(shape=(), dtype=None, type_name="?")
    return TensorOutline(info, f"is {problem}, not an ordinary one")


def counts(value: object) -> tuple[int, ...]:
    """Return a shape or a stride."""
    if not isinstance(value, tuple) or not all(
        is_count(item) for item in cast("tuple[object, ...]", value)
    ):
        raise MalformedPickleError("a tensor with an impossible shape")
    sizes = cast("tuple[int, ...]", value)
    if len(sizes) > MAX_DIMENSIONS:
        raise MalformedPickleError("a tensor with an impossible shape")
    return sizes


def tensor_outline(arguments: tuple[object, ...], named_dtype: object) -> TensorOutline:
    """Return the outline of `_rebuild_tensor*(storage, offset, size, stride, ...)`."""
    storage, offset = arguments[0], arguments[1]
    shape, stride = counts(arguments[2]), counts(arguments[3])
    if not isinstance(storage, StorageInfo) or not is_count(offset) or len(shape) != len(stride):
        raise MalformedPickleError("a tensor without storage or shape")
    dtype = storage.dtype
    if isinstance(named_dtype, Reference):
        found: object = getattr(torch, named_dtype.name.removeprefix("torch."), None)
        dtype = found if isinstance(found, torch.dtype) else None
    if dtype is None:
        return unusual_tensor("a quantised tensor")
    info = TensorInfo(shape=shape, dtype=dtype, type_name=str(dtype).removeprefix("torch."))
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    end = (cast("int", offset) + last + 1) * dtype.itemsize if info.num_elements else 0
    claimed = max(end, info.num_elements * dtype.itemsize)
    problem = ""
    if claimed > storage.num_bytes:
        problem = f"claims {size_text(claimed)} but stores {size_text(storage.num_bytes)}"
    return TensorOutline(info, problem)
