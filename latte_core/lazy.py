"""Packages whose parts are imported when a name of theirs is first asked for.

So the command line reads names and limits, and refuses what it must, before torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def names_from(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return a package's `__getattr__`.

    Args:
        package: its `__name__`.
        homes: modules of the package, and which of its public names each defines; none of the
            names may be that of a module.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{module_of[name]}", package), name)

    return find


def listing(package: str, public: Sequence[str]) -> Callable[[], list[str]]:
    """Return a package's `__dir__`: what it holds, and its public names, imported or not.

    Args:
        package: its `__name__`.
        public: its `__all__`.
    """
    return lambda: sorted({*vars(import_module(package)), *public})
