"""Bytes that a compiled program moves, loops counted as often as they run.

Read from the compiled program's text, as XLA's own analysis reads it (what an instruction takes and gives, a fusion
as one instruction, of a sliced operand the slice), except that a loop's body counts as often as the compiler knows it
to run. An upper bound where caches hold what passes from one instruction to the next.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

ITEM_BYTES = {"pred": 1, "s4": 1, "u4": 1, "f8": 1, "bf16": 2, "token": 0}
NO_TRAFFIC = frozenset(
    ["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"]
)
SLICES = frozenset(["dynamic-slice", "slice", "gather"])

_COMPUTATION = re.compile(r"^(?:ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->\s*.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"(\d+)"')
_PARAMETER = re.compile(r"parameter\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    size: int  # bytes of the result
    operands: tuple[str, ...]
    text: str


def bytes_moved(program: str, unknown_trips: int = 8) -> float:
    """Bytes read and written by the program `compiled.as_text()`; a loop of unknown length runs `unknown_trips` times."""
    computations, entry = _parse(program)
    return _traffic(entry, computations, unknown_trips)


def _parse(program: str) -> tuple[dict[str, list[Instruction]], str]:
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
            computations[current].append(_instruction(found.group(1), found.group(2)))
    return computations, entry


def _instruction(name: str, text: str) -> Instruction:
    """`f32[2]{0} add(%a, %b), attributes` -> its parts; the type may be a tuple in parentheses."""
    split = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    kind, rest = text[:split], text[split:].strip()
    opcode, _, arguments = rest.partition("(")
    operands = tuple(_NAME.findall(arguments[: _closing("(" + arguments) - 1]))
    return Instruction(name, opcode.strip(), _size(kind), operands, rest)


def _closing(text: str) -> int:
    """Where the parenthesis that opens the text is closed."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return len(text)


def _size(kind: str) -> int:
    return sum(_item(name) * math.prod(int(n) for n in shape.split(",") if n) for name, shape in _ARRAY.findall(kind))


def _item(kind: str) -> int:
    if kind in ITEM_BYTES:
        return ITEM_BYTES[kind]
    bits = re.search(r"\d+", kind)
    return max(1, int(bits.group()) // 8) if bits else 0


def _traffic(name: str, computations: dict[str, list[Instruction]], unknown: int) -> float:
    instructions = {instruction.name: instruction for instruction in computations.get(name, ())}
    total = 0.0
    for instruction in instructions.values():
        if instruction.opcode in NO_TRAFFIC:
            continue
        called = _CALLED.findall(instruction.text)
        if instruction.opcode == "while":
            trips = _TRIPS.search(instruction.text)
            times = int(trips.group(1)) if trips else unknown
            total += times * sum(_traffic(inner, computations, unknown) for inner in called)
        elif instruction.opcode in ("call", "async-start"):
            total += sum(_traffic(inner, computations, unknown) for inner in called)
        elif instruction.opcode == "conditional":
            branches = [*called, *(n for group in _BRANCHES.findall(instruction.text) for n in _NAME.findall(group))]
            total += max((_traffic(branch, computations, unknown) for branch in branches), default=0.0)
        else:
            fused = computations.get(called[0], []) if instruction.opcode == "fusion" and called else None
            total += _own(instruction, instructions, fused)
    return total


def _own(instruction: Instruction, known: dict[str, Instruction], fused: Iterable[Instruction] | None) -> float:
    sizes = [known[name].size if name in known else 0 for name in instruction.operands]
    if fused is not None:
        return _of_fusion(instruction, sizes, list(fused))
    if instruction.opcode in SLICES:
        return 2.0 * instruction.size
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * sizes[1]
    return float(instruction.size + sum(sizes))


def _of_fusion(instruction: Instruction, sizes: list[int], fused: list[Instruction]) -> float:
    """Operands that the fusion only slices count with the slices; a result updated in place with the update."""
    inside = {line.name: line for line in fused}
    result = float(instruction.size)
    read = list(map(float, sizes))
    for line in fused:
        if not (found := _PARAMETER.match(line.text)):
            continue
        users = [user for user in fused if line.name in user.operands]
        index = int(found.group(1))
        if users and all(user.opcode in SLICES and user.operands[0] == line.name for user in users):
            read[index] = float(sum(user.size for user in users))
        elif users and all(user.opcode == "dynamic-update-slice" and user.operands[0] == line.name for user in users):
            update = sum(inside[user.operands[1]].size for user in users if user.operands[1] in inside)
            read[index] = float(update)
            result = min(result, float(update))
    return result + sum(read)
