"""Follow a pickle's instructions without carrying any of them out (R01).

A stack machine over `pickletools`, whose instruction names are used here. What calls and storages
mean is told by `outline.py`.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import cast

from .outline import (
    MalformedPickleError,
    Outline,
    Reference,
    ShortPickleError,
    Unknown,
    fill,
)

MAX_INSTRUCTIONS = 600_000
MARK = object()


class PickleReader:
    """A stack machine that records what instructions would build.

    Raises:
        MalformedPickleError: from `run`, for instructions that cannot be followed.
    """

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self, data: BytesIO) -> None:
        """Follow one pickle from the current position of `data` to its end."""
        self.stack, self.memo = [], {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)  # an unknown escape in a name
                self._follow(data)
        except (ValueError, OverflowError, DeprecationWarning) as error:
            is_short = data.tell() >= len(data.getbuffer())
            kind = ShortPickleError if is_short else MalformedPickleError
            raise kind("an instruction that cannot be read") from error
        except (IndexError, KeyError, TypeError) as error:
            raise MalformedPickleError("instructions in an impossible order") from error

    def _follow(self, data: BytesIO) -> None:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAX_INSTRUCTIONS:
                raise MalformedPickleError(f"more than {MAX_INSTRUCTIONS} instructions")
            self.step(opcode.name, argument)
        self.outline.tree = self.pop()

    def step(self, name: str, argument: object) -> None:
        """Follow one instruction."""
        if name in IGNORED:
            return
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in FRESH:
            self.stack.append(FRESH[name]())
        elif name in ACTIONS:
            ACTIONS[name](self, argument)
        else:
            raise MalformedPickleError(f"the instruction {name}, which weights never use")

    def pop(self) -> object:
        """Take the top of the stack, which must be a value."""
        value = self.stack.pop()
        if value is MARK:
            raise MalformedPickleError("instructions in an impossible order")
        return value

    def pop_to_mark(self) -> list[object]:
        """Take everything above the last mark."""
        items: list[object] = []
        while (value := self.stack.pop()) is not MARK:
            items.append(value)
        return items[::-1]

    def set_items(self, pairs: list[object]) -> None:
        """Put keys and values into the dict on top of the stack, if it is one."""
        target = self.stack[-1]
        if isinstance(target, dict):
            fill(cast("dict[object, object]", target), pairs)

    def append(self, items: list[object]) -> None:
        """Put items into the list on top of the stack, if it is one."""
        target = self.stack[-1]
        if isinstance(target, list):
            cast("list[object]", target).extend(items)

    def import_named(self, argument: object) -> None:
        """GLOBAL: module and name in one argument."""
        module, _, name = str(argument).partition(" ")
        self.stack.append(self.outline.reference(module, name))

    def import_from_stack(self, _: object) -> None:
        """STACK_GLOBAL: module and name from the stack."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedPickleError("an import without a name")
        self.stack.append(self.outline.reference(module, name))

    def make_instance(self, argument: object) -> None:
        """INST: like GLOBAL and a call; never part of weights."""
        self.pop_to_mark()
        self.import_named(argument)
        self.stack[-1] = Unknown()

    def make_object(self, _: object) -> None:
        """OBJ: class and arguments above the mark; never part of weights."""
        self.pop_to_mark()
        self.stack.append(Unknown())

    def use_extension(self, argument: object) -> None:
        """EXT: an import by a number that only the running program could look up."""
        self.stack.append(self.outline.reference("copyreg", f"extension_{argument}"))

    def call(self, _: object) -> None:
        """REDUCE: a function and its arguments."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Reference):
            self.stack.append(Unknown())
            return
        result = self.outline.result_of(function.name, cast("tuple[object, ...]", arguments))
        self.stack.append(result)

    def make_new(self, _: object) -> None:
        """NEWOBJ: a class and its arguments."""
        self.pop()
        self.pop()
        self.stack.append(Unknown())

    def find_storage(self, _: object) -> None:
        """BINPERSID: ("storage", type, key, device, number of elements)."""
        self.stack.append(self.outline.storage_of(self.pop()))


IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
LITERALS = frozenset(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES
    SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT
    BINFLOAT""".split()
)
CONSTANTS: dict[str, object] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": MARK,
}
FRESH: dict[str, Callable[[], object]] = {
    "EMPTY_LIST": list[object],
    "EMPTY_DICT": dict[object, object],
    "EMPTY_SET": Unknown,
}


def table_from(reader: PickleReader) -> dict[object, object]:
    """DICT: keys and values above the mark."""
    result: dict[object, object] = {}
    fill(result, reader.pop_to_mark())
    return result


def tuple_of(size: int) -> Callable[[PickleReader, object], None]:
    """Return the action that packs the top `size` values."""

    def pack(reader: PickleReader, _: object) -> None:
        items = [reader.pop() for _ in range(size)]
        reader.stack.append(tuple(items[::-1]))

    return pack


def set_one(reader: PickleReader, _: object) -> None:
    """SETITEM."""
    value, key = reader.pop(), reader.pop()
    reader.set_items([key, value])


def append_one(reader: PickleReader, _: object) -> None:
    """APPEND."""
    value = reader.pop()
    reader.append([value])


def remember(reader: PickleReader, argument: object) -> None:
    """PUT and MEMOIZE."""
    index = len(reader.memo) if argument is None else cast("int", argument)
    reader.memo[index] = reader.stack[-1]


def build_new_with_names(reader: PickleReader, argument: object) -> None:
    """NEWOBJ_EX: class, arguments and named arguments."""
    reader.pop()
    reader.make_new(argument)


ACTIONS: dict[str, Callable[[PickleReader, object], object]] = {
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.pop_to_mark())),
    "TUPLE1": tuple_of(1),
    "TUPLE2": tuple_of(2),
    "TUPLE3": tuple_of(3),
    "LIST": lambda reader, _: reader.stack.append(reader.pop_to_mark()),
    "DICT": lambda reader, _: reader.stack.append(table_from(reader)),
    "FROZENSET": PickleReader.make_object,
    "APPEND": append_one,
    "APPENDS": lambda reader, _: reader.append(reader.pop_to_mark()),
    "SETITEM": set_one,
    "SETITEMS": lambda reader, _: reader.set_items(reader.pop_to_mark()),
    "ADDITEMS": lambda reader, _: reader.pop_to_mark(),
    "PUT": remember,
    "BINPUT": remember,
    "LONG_BINPUT": remember,
    "MEMOIZE": remember,
    "GET": lambda reader, index: reader.stack.append(reader.memo[cast("int", index)]),
    "BINGET": lambda reader, index: reader.stack.append(reader.memo[cast("int", index)]),
    "LONG_BINGET": lambda reader, index: reader.stack.append(reader.memo[cast("int", index)]),
    "POP": lambda reader, _: reader.stack.pop(),
    "POP_MARK": lambda reader, _: reader.pop_to_mark(),
    "DUP": lambda reader, _: reader.stack.append(reader.stack[-1]),
    "GLOBAL": PickleReader.import_named,
    "STACK_GLOBAL": PickleReader.import_from_stack,
    "INST": PickleReader.make_instance,
    "OBJ": PickleReader.make_object,
    "EXT1": PickleReader.use_extension,
    "EXT2": PickleReader.use_extension,
    "EXT4": PickleReader.use_extension,
    "REDUCE": PickleReader.call,
    "NEWOBJ": PickleReader.make_new,
    "NEWOBJ_EX": build_new_with_names,
    "BUILD": lambda reader, _: reader.pop(),
    "BINPERSID": PickleReader.find_storage,
}
