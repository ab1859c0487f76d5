"""Counts the bytes that a compiled program moves, loops as often as they run.

They are read from the compiled program's text as XLA's own analysis does: the operands and results of each instruction,
a fusion as one instruction, and of a sliced operand the slice alone. Unlike in XLA's analysis, a loop's body counts as
often as the compiler knows it to run. The count is an upper bound where caches hold what passes from one instruction to
the next. Arrays in a fast memory beside the main one, which TPUs have, count only when they are copied there.
"""

import re
from collections.abc import Sequence

from benchmarks.counting.program_text import UNKNOWN_TRIPS, Computations, Instruction, parse, trips

NO_TRAFFIC = frozenset(
    ["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"]
)
SLICES = frozenset(["dynamic-slice", "slice", "gather"])
STARTS = {"copy-start": 0, "slice-start": 1}  # which of their results is written; another one is the source
NAMES = ("AllocateBuffer", "ConcatBitcast")  # calls that give memory a name without reading or writing it

_PARAMETER = re.compile(r"parameter\((\d+)\)")


def bytes_moved(program: str, unknown_trips: int = UNKNOWN_TRIPS) -> float:
    """Bytes that the program with the text `compiled.as_text()` reads and writes.

    A loop of unknown length counts as `unknown_trips` runs.
    """
    computations, entry = parse(program)
    return _traffic(entry, computations, unknown_trips)


def _traffic(name: str, computations: Computations, unknown: int) -> float:
    instructions = {instruction.name: instruction for instruction in computations.get(name, ())}
    total = 0.0
    for instruction in instructions.values():
        if instruction.opcode in NO_TRAFFIC or instruction.opcode.endswith("-done"):  # counted where it starts
            continue
        if instruction.opcode == "custom-call" and any(f'"{name}"' in instruction.text for name in NAMES):
            continue
        called = instruction.called
        if instruction.opcode == "while":
            times = trips(instruction, computations, unknown)
            total += times * sum(_traffic(inner, computations, unknown) for inner in called)
        elif instruction.opcode in ("call", "async-start"):
            total += sum(_traffic(inner, computations, unknown) for inner in called)
        elif instruction.opcode == "conditional":
            total += max((_traffic(branch, computations, unknown) for branch in called), default=0.0)
        else:
            total += _own(instruction, instructions, computations)
    return total


def _own(instruction: Instruction, known: dict[str, Instruction], computations: Computations) -> float:
    sizes = [known[name].size if name in known else 0 for name in instruction.operands]
    if instruction.opcode == "fusion" and instruction.called:
        return _of_fusion(instruction, sizes, computations)
    if instruction.opcode in SLICES:
        return float(instruction.size + (instruction.whole if sizes[0] else 0))
    if instruction.opcode == "dynamic-update-slice":
        update = known[instruction.operands[1]].whole if instruction.operands[1] in known else 0
        return float(sizes[1] + (update if instruction.size else 0))
    if instruction.opcode in STARTS:
        written, main = instruction.arrays[STARTS[instruction.opcode]]
        return float((written if sizes[0] else 0) + (written if main else 0))
    return float(instruction.size + sum(sizes))


def _slices(name: str, fused: Sequence[Instruction], computations: Computations) -> float | None:
    """Bytes of the slices that a computation, and the fusions within it, take from one of its arrays.

    None if something takes the whole array.
    """
    total, users = 0.0, [line for line in fused if name in line.operands]
    for user in users:
        if user.opcode in SLICES and user.operands[0] == name:
            total += user.whole
            continue
        inner = computations.get(user.called[0], []) if user.opcode == "fusion" and user.called else []
        taken = [
            _slices(line.name, inner, computations)
            for line in inner
            if (found := _PARAMETER.match(line.text)) and user.operands[int(found.group(1))] == name
        ]
        if not taken or None in taken:
            return None
        total += sum(part for part in taken if part is not None)
    return total if users else None


def _of_fusion(instruction: Instruction, sizes: list[int], computations: Computations) -> float:
    """Bytes that a fusion reads and writes.

    An operand that the fusion only slices counts as the slices, and a result that is updated in place as the update.
    """
    fused = computations.get(instruction.called[0], [])
    inside = {line.name: line for line in fused}
    result = float(instruction.size)
    read = list(map(float, sizes))
    for line in fused:
        if not (found := _PARAMETER.match(line.text)):
            continue
        users = [user for user in fused if line.name in user.operands]
        index = int(found.group(1))
        if (sliced := _slices(line.name, fused, computations)) is not None:
            read[index] = min(read[index], sliced)
        elif users and all(user.opcode == "dynamic-update-slice" and user.operands[0] == line.name for user in users):
            update = sum(inside[user.operands[1]].whole for user in users if user.operands[1] in inside)
            read[index] = min(read[index], float(update))
            result = min(result, float(update))
    return result + sum(read)
