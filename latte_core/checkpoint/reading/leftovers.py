"""What training runs leave beside the weights in a PyTorch file, and what stands in for it.

Settings, paths, dates and NumPy numbers take no part in the weights. Their classes are never
imported and none of their code runs: the unpickler is given `Leftover` under each of their names,
which takes every argument and keeps nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

DEFAULT_DICT = "collections.defaultdict"
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric")
LEFTOVERS = frozenset(
    {
        "argparse.Namespace",
        "types.SimpleNamespace",
        DEFAULT_DICT,
        *(f"{module}.{name}" for module in NUMPY for name in ("scalar", "_reconstruct")),
        "numpy.dtype",
        "numpy.ndarray",
        "numpy._core.numeric._frombuffer",
        "numpy.core.numeric._frombuffer",
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
        *(f"builtins.{name}" for name in ("frozenset", "range", "slice")),
        "typing.Any",
        "typing.Union",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    }
)
PATH_CLASSES = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
OMEGACONF_NODES = "omegaconf.nodes."
NUMPY_TYPES = "numpy.dtypes."


class Leftover:
    """Stands in for something that is not weights; it takes everything and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Leftover:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        """Forget the state."""


def is_leftover(name: str) -> bool:
    """Return whether `name` is that of something that training runs leave behind."""
    module, _, last = name.rpartition(".")
    if module in ("pathlib", "pathlib._local"):
        return last in PATH_CLASSES
    is_simple = last.isidentifier() and name in (f"{OMEGACONF_NODES}{last}", f"{NUMPY_TYPES}{last}")
    return name in LEFTOVERS or is_simple


def empty_table(*_: Any) -> OrderedDict[Any, Any]:
    """Stand in for `defaultdict`: torch puts entries into tables of its own kinds alone."""
    return OrderedDict()


def stand_ins(imports: Iterable[str]) -> list[tuple[Callable[..., Any], str]]:
    """Return what `torch.serialization.safe_globals` takes for the leftovers among `imports`."""
    found = [name for name in imports if is_leftover(name)]
    return [(empty_table if name == DEFAULT_DICT else Leftover, name) for name in found]
