"""Reads a compiled program's text: its computations, their instructions, and how often each computation runs."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

UNKNOWN_TRIPS = 1  # runs of a loop that decides its own length, such as that of the inverse of the rotations
ITEM_BYTES = {"pred": 1, "s4": 1, "u4": 1, "f8": 1, "bf16": 2, "token": 0}

_COMPUTATION = re.compile(r"^(?:ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->\s*.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    kind: str  # the type of its result, layout included
    opcode: str
    operands: tuple[str, ...]
    text: str  # all after the type
    root: bool = False

    @property
    def arrays(self) -> list[tuple[int, bool]]:
        """The result's arrays: the bytes of each, and whether it lies in the main memory and not in a faster one."""
        return [
            (_item(name) * math.prod(int(n) for n in shape.split(",") if n), "S(" not in layout)
            for name, shape, layout in _ARRAY.findall(self.kind)
        ]

    @property
    def whole(self) -> int:
        """Bytes of the result, wherever it lies."""
        return sum(size for size, _ in self.arrays)

    @property
    def size(self) -> int:
        """Bytes of the result that lie in the main memory."""
        return sum(size for size, main in self.arrays if main)

    @property
    def called(self) -> list[str]:
        """The names of the computations that it runs; all branches, if it is a conditional."""
        branches = [name for group in _BRANCHES.findall(self.text) for name in _NAME.findall(group)]
        return [*_CALLED.findall(self.text), *branches]


Computations = Mapping[str, list[Instruction]]


def parse(program: str) -> tuple[Computations, str]:
    """The computations of `compiled.as_text()` by name, and the name of the one that is the program."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in program.splitlines():
        if current is None and (found := _COMPUTATION.match(line)):
            current = found.group(1)
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            computations[current].append(_instruction(found.group(2), found.group(3), bool(found.group(1))))
    return computations, entry


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """The parts of `f32[2]{0} add(%a, %b), attributes`; the type may be a tuple in parentheses."""
    split = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    kind, rest = text[:split], text[split:].strip()
    opcode, _, arguments = rest.partition("(")
    operands = tuple(_NAME.findall(arguments[: _closing("(" + arguments) - 1]))
    return Instruction(name, kind, opcode.strip(), operands, rest, root)


def _closing(text: str) -> int:
    """The index of the parenthesis that closes the one with which the text begins."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return len(text)


def _item(kind: str) -> int:
    if kind in ITEM_BYTES:
        return ITEM_BYTES[kind]
    bits = re.search(r"\d+", kind)
    return max(1, int(bits.group()) // 8) if bits else 0


def trips(loop: Instruction, computations: Computations, unknown: int = UNKNOWN_TRIPS) -> int:
    """How often a `while` runs its body.

    The compiler for CPUs and GPUs writes this number into the text. The one for TPUs does not; there it is the number
    with which the condition compares the loop's counter, because JAX counts from 0. A loop with any other condition
    counts as `unknown` runs.
    """
    if found := _TRIPS.search(loop.text):
        return int(found.group(1))
    named = _CONDITION.search(loop.text)
    lines = {line.name: line for line in computations.get(named.group(1), ())} if named else {}
    root = next((line for line in lines.values() if line.root), None)
    if root is None or root.opcode != "compare" or "direction=LT" not in root.text or root.operands[-1] not in lines:
        return unknown
    limit = _CONSTANT.match(lines[root.operands[-1]].text)
    return int(limit.group(1)) if limit else unknown


def runs(computations: Computations, entry: str, unknown: int = UNKNOWN_TRIPS) -> collections.Counter[str]:
    """How often each computation runs in one run of the program.

    Computations inside fusions are included. Every branch of a conditional counts, as if all of them ran.
    """
    found: collections.Counter[str] = collections.Counter()
    for name, times in _runs(entry, 1, computations, unknown):
        found[name] += times
    return found


def _runs(name: str, times: int, computations: Computations, unknown: int) -> Iterator[tuple[str, int]]:
    yield name, times
    for line in computations.get(name, ()):
        if line.opcode in ("while", "call", "conditional", "async-start", "fusion"):
            inner = times * (trips(line, computations, unknown) if line.opcode == "while" else 1)
            for called in line.called:
                yield from _runs(called, inner, computations, unknown)
