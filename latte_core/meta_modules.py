"""Modules made on the meta device, where weights have shapes and no numbers, and then filled.

Weights are read by a function that the caller hands in, so that only the safe reader ever opens an
untrusted file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import WeightMismatchError

TensorReader = Callable[[Path], Mapping[str, Tensor]]
"""Reads a weights file, or the weights of a folder in shards, and returns the tensors by name."""

LISTED_NAMES = 5
INITIAL_VALUES = frozenset(
    {
        *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_),
        *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
    }
)


class WithoutNumbers(TorchFunctionMode):
    """While it is active, modules on the meta device are made without initial values.

    There is no storage to hold them, and for some of them torch imports its compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in INITIAL_VALUES:
            tensor: Tensor = args[0] if args else named["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **named)


def fill_module(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    part: str,
    dtype: torch.dtype,
    device: torch.device | str,
    float32_names: Sequence[str] = (),
) -> None:
    """Give a module made on the meta device its weights: all of them, and nothing else.

    Args:
        module: changed in place; afterwards in evaluation mode and without gradients.
        tensors: by the module's own names.
        part: what to call the module in messages, for example "text encoder".
        dtype: of the weights afterwards.
        device: where they are put.
        float32_names: endings of names that stay float32 whatever `dtype` says.

    Raises:
        WeightMismatchError: if a name is missing or unknown, a shape differs, or a weight is made
            of integers.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    check_names(part, expected, tensors)
    check_shapes(part, expected, {name: tuple(tensors[name].shape) for name in expected})
    _check_numbers(part, [name for name in expected if not tensors[name].is_floating_point()])
    endings = tuple(float32_names)
    ready = {
        name: tensors[name].to(device, torch.float32 if name.endswith(endings) else dtype)
        for name in expected
    }
    module.load_state_dict(ready, strict=True, assign=True)
    module.eval().requires_grad_(False)


def check_names(part: str, expected: Iterable[str], tensors: Iterable[str]) -> None:
    """Refuse weights that lack a name, or have one that is unknown.

    Raises:
        WeightMismatchError: with counts and the first few names.
    """
    expected, tensors = dict.fromkeys(expected), dict.fromkeys(tensors)
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    if missing or unknown:
        raise WeightMismatchError(
            f"These weights do not fit the {part}: {len(missing)} of {len(expected)} names are "
            f"missing{_first(missing)} and {len(unknown)} are unknown{_first(unknown)}. "
            "Use the weights and the config.json that belong together."
        )


def check_shapes(
    part: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse weights of another shape.

    Raises:
        WeightMismatchError: with a count and the first few names.
    """
    wrong = [
        f"{name} is {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if found[name] != shape
    ]
    if wrong:
        raise WeightMismatchError(
            f"These weights do not fit the {part}: {len(wrong)} shapes differ{_first(wrong)}. "
            "Use the weights and the config.json that belong together."
        )


def _check_numbers(part: str, integers: Sequence[str]) -> None:
    if integers:
        raise WeightMismatchError(
            f"{len(integers)} weights of the {part} are whole numbers{_first(integers)}, but "
            "floating point is expected. Use a file that is not quantised to integers."
        )


def _first(names: Iterable[str]) -> str:
    """Return the first few names in brackets, nothing for none."""
    listed = list(names)
    if not listed:
        return ""
    more = ", ..." if len(listed) > LISTED_NAMES else ""
    return f" ({', '.join(listed[:LISTED_NAMES])}{more})"
