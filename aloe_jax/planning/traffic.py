"""How many bytes a compiled program moves between a chip's memory and its cores, read from its text.

Every instruction of the schedule reads its operands and writes its result, as often as its loop goes round; what the
compiler keeps in fast memory (memory space 1 and above) costs nothing, and of an array that is only sliced or updated
in place the slice counts. What a kernel reads more than once counts once.
"""

from __future__ import annotations

import math
import re

from aloe_jax.parallel.program_text import ARRAY, Instruction, Program

# Names, parts and views of what is there already; and what only carries on or ends what another has begun.
FREE = re.compile(
    r"parameter|constant|get-tuple-element|tuple|bitcast|while|conditional|call|partition-id|replica-id|after-all|iota"
    r"|optimization-barrier|async-(start|update|done)|.*-done"
)
SLICES = frozenset(["dynamic-slice", "slice", "gather"])
VIEWS = frozenset(["bitcast", "reshape", "copy"])
SPACE = re.compile(r"S\((\d+)\)")


def memory_traffic(program: Program) -> int:
    """Bytes that one run of the program reads from and writes to the memory of one chip."""
    fused = {
        called
        for body in program.computations.values()
        for each in body.values()
        if each.opcode in ("fusion", "reduce", "all-reduce", "sort", "scatter", "map", "reduce-window", "custom-call")
        for called in each.called
    }
    total = 0
    for computation, each, times in program.running():
        if computation not in fused and not FREE.fullmatch(each.opcode):
            total += times * (_read(program, computation, each) + _written(program, computation, each))
    return total


def array_bytes(kind: str) -> int:
    """Bytes of the arrays of a type that are in the chip's memory."""
    total = 0
    for dtype, sizes, layout in ARRAY.findall(kind):
        space = SPACE.search(layout)
        if space is None or space.group(1) == "0":
            total += _bits(dtype) * math.prod(int(size) for size in sizes.split(",") if size) // 8
    return total


def _bits(dtype: str) -> int:
    found = re.search(r"\d+", dtype)
    return int(found.group()) if found else 8


def _read(program: Program, computation: str, each: Instruction) -> int:
    body = program.computations[computation]
    given = [body[name].result if name in body else "" for name in each.operands]
    if each.opcode in SLICES:
        return array_bytes(each.result)
    if each.opcode == "dynamic-update-slice":
        return array_bytes(given[1])
    if each.opcode != "fusion":
        return sum(map(array_bytes, given))
    return sum(_used(program, each.called[0], index, kind) for index, kind in enumerate(given))


def _used(program: Program, computation: str, index: int, kind: str) -> int:
    """Bytes that a fused computation reads of its operand number `index`, of type `kind`."""
    whole = array_bytes(kind)
    inner = program.computations.get(computation, {})
    names = {each.name for each in inner.values() if each.opcode == "parameter" and f"parameter({index})" in each.line}
    found = 0
    for each in inner.values() if whole else ():
        if not names & set(each.operands):
            continue
        if each.opcode == "bitcast":
            names.add(each.name)
        elif each.opcode in SLICES and each.operands[0] in names:
            found += _size(each.result)
        elif each.opcode == "fusion":
            at = [number for number, name in enumerate(each.operands) if name in names]
            found += sum(_used(program, each.called[0], number, kind) for number in at)
        elif (each.opcode == "dynamic-update-slice" and each.operands[0] in names) or (
            each.opcode == "tuple" and each.root
        ):
            continue  # written over in place; handed on as it is
        else:
            return whole
    return min(whole, found)


def _written(program: Program, computation: str, each: Instruction) -> int:
    if each.opcode == "dynamic-update-slice":
        return array_bytes(program.computations[computation][each.operands[1]].result)
    if each.opcode in ("copy-start", "collective-permute-start", "all-gather-start", "slice-start"):
        # (result, operand, state) or (operand, result, state): the part that is not an operand is written.
        arrays = [array_bytes(found.group()) for found in ARRAY.finditer(each.result)]
        return arrays[0] if each.opcode == "copy-start" else arrays[len(arrays) // 2 - 1] if arrays else 0
    if each.opcode != "fusion":
        return array_bytes(each.result)
    inner = program.computations.get(each.called[0], {})
    root = next((made for made in inner.values() if made.root), None)
    if root is None:
        return array_bytes(each.result)
    parts = [inner.get(name) for name in root.operands] if root.opcode == "tuple" else [root]
    kinds = [found.group() for found in ARRAY.finditer(each.result)]
    return sum(_made(inner, part, kind) for part, kind in zip(parts, kinds, strict=False))


def _made(inner: dict[str, Instruction], part: Instruction | None, kind: str) -> int:
    """Bytes that a fusion writes of one result of type `kind`."""
    while part is not None and part.opcode in VIEWS:
        part = inner.get(part.operands[0])
    whole = array_bytes(kind)
    if part is None or not whole:
        return whole
    if part.opcode == "parameter":
        return 0  # handed on as it is
    if part.opcode == "dynamic-update-slice":
        update = inner.get(part.operands[1])
        return min(whole, _size(update.result)) if update is not None else whole
    return whole


def _size(kind: str) -> int:
    """Bytes of a type's arrays in any memory; inside a fusion the text does not say in which."""
    return array_bytes(SPACE.sub("", kind))
