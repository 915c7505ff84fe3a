"""Weights that are on another device for a while: a whole module, or its blocks one after another.

The originals stay where they are and are put back untouched, so giving a loan up costs nothing.
What is changed in borrowed weights is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

SMALLEST = 2**16  # elements of a tensor that is worth streaming; biases and tables stay
ALIGNMENT = 256  # bytes, as kernels like addresses


class Held(NamedTuple):
    """A tensor of a module: who holds it, under which name, and the original."""

    owner: nn.Module
    name: str
    tensor: Tensor

    def lend(self, other: Tensor) -> None:
        """Put another tensor in its place."""
        if isinstance(self.tensor, nn.Parameter):
            other = nn.Parameter(other, requires_grad=False)
        setattr(self.owner, self.name, other)

    def restore(self) -> None:
        """Put the original back."""
        setattr(self.owner, self.name, self.tensor)


class Loan(Protocol):
    """Something that `end` takes back."""

    def end(self) -> None:
        """Put the originals back."""
        ...


def tensors_of(module: nn.Module) -> Iterator[Held]:
    """Yield every parameter and buffer of a module, each place of a shared one too."""
    for owner in module.modules():
        for name, tensor in (
            *owner.named_parameters(recurse=False),
            *owner.named_buffers(recurse=False),
        ):
            yield Held(owner, name, tensor)


class WholeLoan:
    """A module with its weights on another device.

    Args:
        module: its tensors are exchanged until `end`.
        device: where they go.
        without: ids of tensors that are left out.
    """

    def __init__(
        self, module: nn.Module, device: torch.device, *, without: Collection[int] = ()
    ) -> None:
        self._held = [held for held in tensors_of(module) if id(held.tensor) not in without]
        made: dict[int, Tensor] = {}
        try:
            for held in self._held:
                key = id(held.tensor)
                if key not in made:
                    made[key] = held.tensor.detach().to(device)
                held.lend(made[key])
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Put the originals back."""
        for held in self._held:
            held.restore()


class Slot:
    """Room on the device for the large weights of one group of blocks."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.group: int | None = None
        self.ready: Any = None  # the event that ends the copy, where there are streams


class BlockStream:
    """A module whose blocks are on the device only while they run, two groups at most.

    While a group runs, the next one is copied into the other slot, on a stream of its own where the
    device has streams. After the last one comes the first again. Everything outside the groups, and
    small tensors inside, is on the device all the time.

    Args:
        module: its tensors are exchanged until `end`, by hooks that `end` removes.
        groups: blocks in the order in which they run; a group is needed as a whole.
        device: where they run.
        pins: keep the originals in pinned memory from now on, which makes copies faster and lets
            them run beside the work.
        smallest: elements of a tensor that is streamed.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Sequence[nn.Module]],
        device: torch.device,
        *,
        pins: bool = False,
        smallest: int = SMALLEST,
    ) -> None:
        self._device = device
        self._groups = [_large_tensors(group, smallest) for group in groups]
        self._side: Any = torch.cuda.Stream(device) if _has_streams(device) else None
        self.num_loads = 0
        if pins and self._side is not None:
            self._pin()
        streamed = {id(held.tensor) for group in self._groups for held in group}
        self._rest = WholeLoan(module, device, without=streamed)
        self._handles: list[Any] = []
        self._slots: list[Slot] = []
        try:
            room = max((_room_for(group) for group in self._groups), default=0)
            self._slots = [Slot(room, device) for _ in range(min(2, len(self._groups)))]
            self._current = 0
            for index, group in enumerate(groups):
                self._watch(index, group)
        except BaseException:
            self.end()
            raise

    @property
    def slot_bytes(self) -> int:
        """Bytes on the device that the groups pass through."""
        return sum(slot.memory.numel() for slot in self._slots)

    def end(self) -> None:
        """Put the originals back and remove the hooks."""
        for handle in self._handles:
            handle.remove()
        for slot in self._slots:
            self._empty(slot)
        if self._side is not None:  # the slots' memory goes back to the main stream
            torch.cuda.current_stream(self._device).wait_stream(self._side)
        self._slots = []
        self._rest.end()

    def _watch(self, index: int, group: Sequence[nn.Module]) -> None:
        """Load a group when anything in it is called: parts of it are called from outside too."""

        def enter(*_: object) -> None:
            self._enter(index)

        for block in group:
            for module in block.modules():
                self._handles.append(module.register_forward_pre_hook(enter))

    def _enter(self, index: int) -> None:
        """Have a group on the device, and the next one on its way."""
        if self._slots[self._current].group == index:
            return
        other = len(self._slots) - 1 - self._current
        self._load(self._slots[other], index)
        self._wait_for(self._slots[other])
        if len(self._slots) > 1:
            self._load(self._slots[self._current], (index + 1) % len(self._groups))
        self._current = other

    def _load(self, slot: Slot, index: int) -> None:
        """Copy a group into a slot unless it is there already."""
        if slot.group == index:
            return
        self._empty(slot)
        self.num_loads += 1
        if self._side is None:
            self._fill(slot, index)
            return
        # what still runs on the main stream may read the slot
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            self._fill(slot, index)
            slot.ready = self._side.record_event()

    def _fill(self, slot: Slot, index: int) -> None:
        start = 0
        slot.group = index
        for held in self._groups[index]:
            size = held.tensor.numel() * held.tensor.element_size()
            place = view_as(slot.memory[start : start + size], held.tensor)
            place.copy_(held.tensor.detach(), non_blocking=True)
            held.lend(place)
            start += _aligned(size)

    def _wait_for(self, slot: Slot) -> None:
        if slot.ready is not None:
            torch.cuda.current_stream(self._device).wait_event(slot.ready)

    def _empty(self, slot: Slot) -> None:
        if slot.group is not None:
            for held in self._groups[slot.group]:
                held.restore()
        slot.group = None

    def _pin(self) -> None:
        for group in self._groups:
            for held in group:
                if not held.tensor.is_pinned():
                    held.tensor.data = held.tensor.data.pin_memory()


def view_as(memory: Tensor, tensor: Tensor) -> Tensor:
    """Return bytes as a tensor of the same dtype, shape and, for a turned matrix, order."""
    flat = memory.view(tensor.dtype)
    if tensor.ndim == 2 and not tensor.is_contiguous() and tensor.t().is_contiguous():
        return flat.view(tensor.t().shape).t()
    return flat.view(tensor.shape)


def _large_tensors(group: Sequence[nn.Module], smallest: int) -> list[Held]:
    """Return the tensors of a group that are streamed."""
    found = (held for block in group for held in tensors_of(block))
    return [held for held in found if held.tensor.numel() >= smallest]


def _room_for(group: Sequence[Held]) -> int:
    """Return the bytes that a group takes in a slot."""
    return sum(_aligned(held.tensor.numel() * held.tensor.element_size()) for held in group)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _has_streams(device: torch.device) -> bool:
    return device.type not in ("cpu", "mps", "meta") and torch.cuda.is_available()
