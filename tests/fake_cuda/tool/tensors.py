"""Tensors that say `cuda:0` and hold the data of another device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from . import attention
from .log import caller

CUDA = torch.device("cuda", 0)
INDEXING: tuple[Any, ...] = (Tensor.__getitem__, Tensor.__setitem__)
FROM_NUMBERS: tuple[Any, ...] = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class Runner(Protocol):
    """What tensors ask of the card that they say they are on."""

    capability: tuple[int, int]

    def inside(self) -> AbstractContextManager[None]:
        """Take `meta` for the card while torch works on a tensor of it."""
        ...

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator."""
        ...


class FakeCuda(Tensor):
    """A tensor on the card that is not there.

    Args:
        held: the same tensor on the CPU, or on meta.
        card: where it says it is.
    """

    held: Tensor
    card: Runner

    @staticmethod
    def __new__(cls, held: Tensor, card: Runner) -> FakeCuda:
        """Make a shell with the sizes and strides of `held`."""
        make: Any = Tensor._make_wrapper_subclass
        return make(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="meta",
        )

    def __init__(self, held: Tensor, card: Runner) -> None:
        self.held = held
        self.card = card

    # C++ is told of meta, because it asks the driver about tensors on CUDA: in many functions, and
    # wherever a gradient passes. Python is told of the card.
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """Return it without its history."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        if not isinstance(other, FakeCuda):
            raise TypeError(
                f"The data of a tensor on the fake card cannot become a {type(other).__name__} of "
                f"{other.device}. Put another parameter in its place."
            )
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.held = other.held

    def data_ptr(self) -> int:
        """Return the address of the data, which tells one tensor from another."""
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        """Return the storage of the data, which views share."""
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        """Return Python's numbers, which the host waits for."""
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuse, as torch does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def get_device(self) -> int:
        """Return the number of the card."""
        return 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Return a copy on the card, a parameter if this is one."""
        if id(self) in memo:
            return memo[id(self)]
        made: Any = self.detach().clone()
        if isinstance(self, nn.Parameter):
            made = nn.Parameter(made, requires_grad=self.requires_grad)
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a tensor of the host, to which saving copies it."""
        return self.detach().cpu().__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"FakeCuda({tuple(self.shape)}, {self.dtype})"

    def __tensor_flatten__(self) -> tuple[list[str], Runner]:
        """Say what it is made of, so that modules put it in the place of a CPU parameter."""
        return ["held"], self.card

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], card: Runner, *_: Any) -> FakeCuda:
        """Make one of its parts."""
        return FakeCuda(inner["held"], card)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Choose attention as a card does; all else goes on to its operators."""
        kwargs = kwargs or {}
        fake = next((one for one in flat((args, kwargs)) if isinstance(one, FakeCuda)), None)
        with torch._C.DisableTorchFunctionSubclass():
            if fake is None:
                return func(*args, **kwargs)
            with fake.card.inside():
                if func is functional.scaled_dot_product_attention:
                    return attention.attend(fake.card.capability, *args, **kwargs)
                if func in INDEXING:
                    args = (args[0], with_tensors(args[1]), *args[2:])
                return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator where no mode looks on."""
        for one in flat((args, kwargs)):
            if isinstance(one, FakeCuda):
                return one.card.run(func, args, kwargs or {})
        raise AssertionError("No tensor of the fake card is among the arguments.")


def with_tensors(index: Any) -> Any:
    """Return an index with tensors of the host in the places of lists of numbers."""
    if isinstance(index, list):
        return torch.tensor(index)
    return tuple(with_tensors(one) for one in index) if isinstance(index, tuple) else index


class FunctionsMode(TorchFunctionMode):
    """Takes over what torch does for a card before it comes to operators."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(kwargs.get("generator"), torch.Generator):
            check_generator(kwargs["generator"], args, kwargs.get("device"))
        if func in FROM_NUMBERS:
            return from_numbers(func, *args, **kwargs)
        if func is Tensor.cuda:
            return move(args[0], **{"device": CUDA, **kwargs})
        if func is Tensor.to:
            return move(*args, **kwargs)
        return func(*args, **kwargs)


def check_generator(generator: torch.Generator, args: tuple[Any, ...], device: Any) -> None:
    """Refuse a generator of the host for numbers on the card, as CUDA does, and the reverse.

    Raises:
        RuntimeError: with the line.
    """
    is_on_card = is_card(device) or any(isinstance(one, FakeCuda) for one in flat(args))
    if is_on_card != (generator.device == CUDA):
        expected = "cuda" if is_on_card else "cpu"
        raise RuntimeError(
            f"Expected a {expected!r} device type for generator but found "
            f"'{generator.device.type}' at {caller()}."
        )


def from_numbers(
    func: Any,
    *args: Any,
    device: Any = None,
    requires_grad: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Make a tensor of Python's numbers: on the host, from where it is copied, as torch does."""
    if func is Tensor.new_tensor:
        owner, *args = args  # type: ignore[assignment]
        device = owner.device if device is None else device
        kwargs.setdefault("dtype", owner.dtype)
        func = torch.tensor
    if isinstance(args[0], FakeCuda) or not is_card(device):
        made = func(*args, **kwargs, **({} if device is None else {"device": device}))
    else:
        made = move(func(*args, **kwargs, device="cpu"), CUDA)
    return made.requires_grad_() if requires_grad else made


def move(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Do `Tensor.to`; the card is named with its number, for which torch asks the driver else.

    A tensor that is on the card already keeps its device, which C++ does not know as such.
    """
    names = ["device", "dtype", "non_blocking", "copy"]
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    elif args and isinstance(args[0], torch.dtype):
        names.remove("device")
    asked = {**dict(zip(names, args, strict=False)), **kwargs}
    if is_card(asked.get("device")):
        asked["device"] = CUDA
        if isinstance(tensor, FakeCuda):
            del asked["device"]
    asked = {name: one for name, one in asked.items() if one is not None}
    if not asked.keys() - {"non_blocking", "copy"}:
        return tensor.clone() if asked.get("copy") else tensor
    return Tensor.to(tensor, **asked)


def is_card(device: Any) -> bool:
    """Return whether a device, or what names one, is the card."""
    if device is None or isinstance(device, bool):
        return False
    if isinstance(device, int):
        return True
    return torch.device(device).type == "cuda"


def flat(value: Any) -> list[Any]:
    """Return what lists, tuples and dictionaries hold, at every depth."""
    if isinstance(value, tuple | list):
        return [leaf for one in value for leaf in flat(one)]
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in flat(one)]
    return [value]


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return lists, tuples and dictionaries with other leaves; quicker than torch's own."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind(mapped(one, change) for one in value)
    if kind is dict:
        return {name: mapped(one, change) for name, one in value.items()}
    return change(value)


def held_of(value: Any) -> Any:
    """Return a value with the data of tensors on the card in their places."""
    return mapped(value, lambda one: one.held if isinstance(one, FakeCuda) else one)


def shells_of(value: Any, known: dict[int, Any], make: Callable[[Tensor], FakeCuda]) -> Any:
    """Return a value with tensors on the card in the places of plain ones.

    Args:
        value: results of an operator.
        known: shells of its arguments by the ids of what they hold: results may be the same.
        make: a shell for data.
    """

    def shell(one: Any) -> Any:
        if not isinstance(one, Tensor) or isinstance(one, FakeCuda):
            return one
        return known[id(one)] if id(one) in known else make(one)

    return mapped(value, shell)
