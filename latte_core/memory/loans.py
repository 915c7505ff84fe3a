"""Weights that are on another device for a while: a whole module, or its blocks one after another.

The originals stay where they are and are put back untouched, so giving a loan up costs nothing.
What is changed in borrowed weights is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..devices import is_cuda
from .pinned import PinnedMemory, aligned, num_bytes_of, view_as

# Elements of a tensor that is worth streaming. Biases stay, and so do modulation tables, which are
# read from outside of their blocks.
SMALLEST = 2**16


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
        pinned: what they go through; None copies them as they are.
        keeps: keep the originals in page-locked memory from now on.
        without: ids of tensors that are left out.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        *,
        pinned: PinnedMemory | None = None,
        keeps: bool = False,
        without: Collection[int] = (),
    ) -> None:
        self._held = [held for held in tensors_of(module) if id(held.tensor) not in without]
        if pinned is not None and keeps and is_cuda(device):
            pinned.keep(one.tensor for one in self._held)
        made: dict[int, Tensor] = {}
        try:
            for held in self._held:
                key = id(held.tensor)
                if key not in made:
                    made[key] = _copied(held.tensor.detach(), device, pinned)
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
        # events, where there are streams: the end of the copy, and of the work with it
        self.ready: Any = None
        self.left: Any = None


class BlockStream:
    """A module whose blocks are on the device only while they run, two groups at most.

    While a group runs, the next one is copied into the other slot, on a stream of its own where the
    device has streams. Everything outside the groups, and small tensors inside, is on the device
    all the time.

    Originals that are kept in page-locked memory are read by the device itself: so a copy is asked
    for before the work that it is to run beside, and after the last group comes the first again.
    Others have to be handed over piece by piece: that is done after the work is asked for, which
    the device does meanwhile, and the last group is the end.

    Args:
        module: its tensors are exchanged until `end`, by hooks that `end` removes.
        groups: blocks in the order in which they run; a group is needed as a whole.
        device: where they run.
        pinned: what weights go through; None copies them as they are.
        keeps: keep the originals in page-locked memory from now on.
        smallest: elements of a tensor that is streamed.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Sequence[nn.Module]],
        device: torch.device,
        *,
        pinned: PinnedMemory | None = None,
        keeps: bool = False,
        smallest: int = SMALLEST,
    ) -> None:
        self._device = device
        self._groups = [_large_tensors(group, smallest) for group in groups]
        self._side: Any = torch.cuda.Stream(device) if is_cuda(device) else None
        self._pinned = pinned if self._side is not None else None
        self.num_loads = 0
        streamed = {id(one.tensor): one.tensor for group in self._groups for one in group}
        if self._pinned is not None and keeps:
            self._pinned.keep(streamed.values())
        is_read = self._side is not None and all(one.is_pinned() for one in streamed.values())
        self._hands_over = self._side is not None and not is_read
        self._pieces = [_pieces_of(group, joins=is_read) for group in self._groups]
        self._rest = WholeLoan(module, device, pinned=self._pinned, keeps=keeps, without=streamed)
        self._handles: list[Any] = []
        self._slots: list[Slot] = []
        try:
            room = max((_room_for(group) for group in self._groups), default=0)
            self._slots = [Slot(room, device) for _ in range(min(2, len(self._groups)))]
            self._current = 0
            for slot in self._slots:
                self._leave(slot)
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

        def ask_for_next(*_: object) -> None:
            if index + 1 < len(self._groups) and self._slots[self._current].group == index:
                self._load_ahead(index + 1)

        for block in group:
            for module in block.modules():
                self._handles.append(module.register_forward_pre_hook(enter))
        if self._hands_over:
            self._handles.append(group[-1].register_forward_hook(ask_for_next))

    def _enter(self, index: int) -> None:
        """Have a group on the device, and the next one on its way."""
        before = self._slots[self._current]
        if before.group == index:
            return
        self._current = len(self._slots) - 1 - self._current
        slot = self._slots[self._current]
        self._load(slot, index)
        if slot.ready is not None:
            torch.cuda.current_stream(self._device).wait_event(slot.ready)
        self._leave(before)
        if not self._hands_over:
            self._load_ahead((index + 1) % len(self._groups))

    def _leave(self, slot: Slot) -> None:
        """Remember that all work with a slot has been asked for."""
        if self._side is not None:
            slot.left = torch.cuda.current_stream(self._device).record_event()

    def _load_ahead(self, index: int) -> None:
        """Begin to copy a group into the slot that nothing works with."""
        if len(self._slots) > 1:
            self._load(self._slots[1 - self._current], index)

    def _load(self, slot: Slot, index: int) -> None:
        """Copy a group into a slot unless it is there already."""
        if slot.group == index:
            return
        self._empty(slot)
        self.num_loads += 1
        if self._side is None:
            self._fill(slot, index)
            return
        self._side.wait_event(slot.left)
        with torch.cuda.stream(self._side):
            self._fill(slot, index)
            slot.ready = self._side.record_event()

    def _fill(self, slot: Slot, index: int) -> None:
        """Put a group's weights into a slot, and lend what is there."""
        slot.group = index
        for piece in self._pieces[index]:
            place = view_as(slot.memory[piece.start : piece.start + piece.num_bytes], piece.source)
            if self._pinned is None:
                place.copy_(piece.source, non_blocking=True)
            else:
                self._pinned.copy(place, piece.source)
        for held, start in _places_of(self._groups[index]):
            size = num_bytes_of(held.tensor)
            held.lend(view_as(slot.memory[start : start + size], held.tensor))

    def _empty(self, slot: Slot) -> None:
        if slot.group is not None:
            for held in self._groups[slot.group]:
                held.restore()
        slot.group = None


class Piece(NamedTuple):
    """Numbers that are copied together, and where in a slot they go."""

    source: Tensor
    start: int
    num_bytes: int


def _places_of(group: Sequence[Held]) -> Iterator[tuple[Held, int]]:
    """Yield the tensors of a group with the bytes in a slot at which they begin."""
    start = 0
    for held in group:
        yield held, start
        start += aligned(num_bytes_of(held.tensor))


def _pieces_of(group: Sequence[Held], *, joins: bool) -> list[Piece]:
    """Return what is to be copied; neighbours in memory go together if it `joins`."""
    pieces: list[Piece] = []
    for held, start in _places_of(group):
        tensor, size = held.tensor.detach(), num_bytes_of(held.tensor)
        if joins and pieces and (joined := _joined(pieces[-1], tensor, start)):
            pieces[-1] = joined
        else:
            pieces.append(Piece(tensor, start, size))
    return pieces


def _joined(piece: Piece, tensor: Tensor, start: int) -> Piece | None:
    """Return a piece that goes on to the end of a tensor, or None if that is not next to it."""
    storage = piece.source.untyped_storage()
    begin = piece.source.data_ptr()
    if tensor.untyped_storage().data_ptr() != storage.data_ptr():
        return None
    if tensor.data_ptr() - begin != start - piece.start:
        return None
    size = start + num_bytes_of(tensor) - piece.start
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    whole.set_(storage, begin - storage.data_ptr(), (size,), (1,))
    return Piece(whole, piece.start, size)


def _copied(tensor: Tensor, device: torch.device, pinned: PinnedMemory | None) -> Tensor:
    """Return a tensor on a device."""
    if pinned is None or not is_cuda(device) or tensor.device.type != "cpu":
        return tensor.to(device)
    made = torch.empty_like(tensor, device=device)
    pinned.copy(made, tensor)
    return made


def _large_tensors(group: Sequence[nn.Module], smallest: int) -> list[Held]:
    """Return the tensors of a group that are streamed."""
    found = (held for block in group for held in tensors_of(block))
    return [held for held in found if held.tensor.numel() >= smallest]


def _room_for(group: Sequence[Held]) -> int:
    """Return the bytes that a group takes in a slot."""
    return sum(aligned(num_bytes_of(held.tensor)) for held in group)
