"""Pickles read as data: a stack machine that has no way to import or to call anything.

`pickletools` takes the opcodes apart. Names in a pickle stay names, objects become inert records, and what is built is
what `torch_objects` has. The pickles of torch's files hold no numbers of tensors: those lie elsewhere in the file, and
a persistent id says where.
"""

import _compat_pickle
import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from ahs_seg_jax.checkpoints.formats.torch_objects import (
    KNOWN,
    STORAGES,
    Name,
    Record,
    Refused,
    Storage,
    TensorSpec,
    called,
    made,
    put,
    referred,
)

MAX_BYTES = 2**26  # of a pickle; a CLIP's is below one megabyte
MAX_OPCODES = 2_000_000  # a training checkpoint of ViT-L has 60,000; two million take seconds


class _Mark:
    """Where a list of values begins on the stack."""


def loads(data: io.BytesIO, known_only: bool = False, storages: list[Storage] | None = None) -> Any:
    """The value of the pickle that begins at the position of `data`; then the position is its end.

    Tensors become `TensorSpec`. `known_only` refuses any name that is none of torch's tensors or of a TorchScript
    module. Each storage that is referred to is added to `storages`.

    Raises:
      Refused: it is malformed, or it would call something, or it is larger than any that a model needs.
    """
    machine = _Machine(known_only, [] if storages is None else storages)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES or data.tell() > MAX_BYTES:
                raise Refused(f"has more than {MAX_OPCODES} parts or {MAX_BYTES} bytes, and a model's is small")
            machine.step(opcode, argument)
        return machine.pop()
    except (ValueError, IndexError, KeyError, TypeError, UnicodeError, OverflowError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"is malformed ({type(error).__name__}: {str(error)[:200]})") from error


class _Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self, known_only: bool, storages: list[Storage]):
        self.known_only, self.storages = known_only, storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _Mark:
            raise Refused("is malformed: a value is missing")
        return value

    def since_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _Mark:
            values.append(value)
        return values[::-1]

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Does one opcode."""
        name = opcode.name
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in ("GLOBAL", "INST"):
            found = self.named(*argument.split(" ", 1))
            self.stack.append(found if name == "GLOBAL" else _instance(found, self.since_mark()))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif argument is not None and name not in ("PERSID", "EXT1", "EXT2", "EXT4"):
            self.stack.append(argument)  # numbers and texts
        elif name in _STEPS:
            _STEPS[name](self)
        else:
            raise Refused(f"holds {name}, which no file of tensors needs")

    def named(self, module: str, name: str) -> Name:
        """A name as it stands, but those of Python 2 as Python 3 has them, which pickles use up to protocol 2."""
        today = _compat_pickle.IMPORT_MAPPING.get(module, module)
        found = Name(*_compat_pickle.NAME_MAPPING.get((module, name), (today, name)))
        known = found in KNOWN or found in STORAGES or module.partition(".")[0] == "__torch__"
        if self.known_only and not known:
            raise Refused(f"names {found}, which no archive of tensors needs")
        return found

    def refer(self) -> None:
        found = referred(self.pop())
        if isinstance(found, Storage):
            self.storages.append(found)
        self.stack.append(found)

    def named_by_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused("is malformed: a name is no text")
        self.stack.append(self.named(module, name))

    def call(self) -> None:
        arguments = self.pop()
        self.stack.append(called(self.pop(), arguments))

    def make(self, arguments: int) -> None:
        for _ in range(arguments):
            self.pop()
        self.stack.append(made(self.pop()))

    def instance(self) -> None:
        kind, *arguments = self.since_mark()
        self.stack.append(_instance(kind, arguments))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict | TensorSpec):  # torch keeps versions in the state of a dictionary
            raise Refused("tries to change what is not its own")

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Record):
            raise Refused(f"appends to a {type(target).__name__}")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused(f"sets items of a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            put(target, key, value)

    def dictionary(self) -> None:
        values = self.since_mark()
        self.stack.append({})
        self.set_items(values)

    def frozen_set(self) -> None:
        self.since_mark()
        self.stack.append(Record("builtins.frozenset"))

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def tuple_of(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(values)))


def _instance(kind: Any, arguments: list[Any]) -> Any:
    return called(kind, tuple(arguments)) if arguments else made(kind)


_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "MARK": lambda: _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Record("builtins.set"),
}
_STEPS: Mapping[str, Callable[[_Machine], Any]] = {
    "POP": lambda m: m.stack.pop(),
    "POP_MARK": lambda m: m.since_mark(),
    "DUP": lambda m: m.push(m.stack[-1]),
    "MEMOIZE": lambda m: m.memo.update({len(m.memo): m.stack[-1]}),
    "LIST": lambda m: m.push(m.since_mark()),
    "APPEND": lambda m: m.append([m.pop()]),
    "APPENDS": lambda m: m.append(m.since_mark()),
    "TUPLE": lambda m: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "DICT": lambda m: m.dictionary(),
    "SETITEM": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.set_items(m.since_mark()),
    "ADDITEMS": lambda m: m.append(m.since_mark()),
    "FROZENSET": lambda m: m.frozen_set(),
    "STACK_GLOBAL": lambda m: m.named_by_stack(),
    "REDUCE": lambda m: m.call(),
    "NEWOBJ": lambda m: m.make(1),
    "NEWOBJ_EX": lambda m: m.make(2),
    "OBJ": lambda m: m.instance(),
    "BUILD": lambda m: m.build(),
    "BINPERSID": lambda m: m.refer(),
}
