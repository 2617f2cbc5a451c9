"""The text of a compiled program: its computations, their instructions, and how often they run.

XLA's own analysis counts what is in a loop's body once. `Program.times` counts a body as often as the loop goes round,
where the text says so: JAX's scans and bounded loops compare a counter with a number.
"""

from __future__ import annotations

import graphlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
LINE = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
OPCODE = re.compile(r"(?P<opcode>[a-z][\w\-]*)\(")
OPERAND = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|async_execution_thread_called)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    result: str  # its type, an array's or a tuple's
    operands: tuple[str, ...]  # names, in the same computation
    line: str
    root: bool

    @cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that it calls, a loop's condition and body among them."""
        found = CALLED.findall(self.line)
        if branches := BRANCHES.search(self.line):
            found += OPERAND.findall(branches.group(1))
        return tuple(found)

    def attribute(self, name: str) -> str | None:
        """The computation given as `name=%computation`."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.line)
        return match.group(1) if match else None


@dataclass
class Program:
    """Computations by name, each a mapping of its instructions by name."""

    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    entry: str = ""

    @classmethod
    def read(cls, text: str) -> Program:
        """The program of an XLA text, as `Compiled.as_text` gives it."""
        program, current = cls(), dict[str, Instruction]()
        for line in text.splitlines():
            if header := HEADER.match(line):
                current = program.computations.setdefault(header["name"], {})
                if header["entry"]:
                    program.entry = header["name"]
            elif instruction := _instruction(line):
                current[instruction.name] = instruction
        return program

    @cached_property
    def times(self) -> dict[str, int]:
        """How often every computation runs in one run of the program; 0: never, or only as part of a reduction.

        Every branch of a conditional counts as if it were taken.
        """
        calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for name, body in self.computations.items():
            for each in body.values():
                rounds = self.rounds(name, each) if each.opcode == "while" else 1
                inner = [each.attribute("body") or ""] if each.opcode == "while" else each.called
                calls[name] += [(called, rounds) for called in inner if each.attribute("to_apply") != called]
                if each.opcode == "call":  # the one that applies a computation once, not to every element
                    calls[name] += [(called, 1) for called in each.called]
        times: dict[str, int] = defaultdict(int)
        times[self.entry] = 1
        callees = {name: [called for called, _ in inner] for name, inner in calls.items()}
        for name in reversed(list(graphlib.TopologicalSorter(callees).static_order())):  # callers first
            for called, rounds in calls.get(name, ()):
                times[called] += times[name] * rounds
        return times

    def running(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, how often it runs) of all that runs."""
        for name, body in self.computations.items():
            if times := self.times.get(name, 0):
                for each in body.values():
                    yield name, each, times

    def rounds(self, computation: str, loop: Instruction) -> int:
        """How often a loop goes round: from its condition `counter < number`, 1 where that is not what it says."""
        name = loop.attribute("condition") or ""
        test = self._root(name)
        compare = self._root(test.called[0]) if test is not None and test.opcode == "fusion" else test  # wrapped up
        if test is None or compare is None or compare.opcode != "compare" or "direction=LT" not in compare.line:
            return 1
        start = self.computations[computation].get(loop.operands[0])
        first, last = (self._number(name, operand, computation, start) for operand in test.operands[:2])
        counter = self._made(name, test.operands[0])
        if last is None or counter is None or counter.opcode != "get-tuple-element":
            return 1
        step = self._step(loop.attribute("body") or "", _index(counter), computation, start)
        return max(0, -(-(last - (first or 0)) // step))

    def _step(self, body: str, index: int, computation: str, start: Instruction | None) -> int:
        """What a round adds to the counter, which is part `index` of a loop's state."""
        root = self._root(body)
        if root is None or root.opcode != "tuple":
            return 1
        added = self._made(body, root.operands[index])
        if added is None or added.opcode != "add":
            return 1
        numbers = [
            self._number(body, operand, computation, start)
            for operand in added.operands
            if (made := self._made(body, operand)) is None
            or made.opcode != "get-tuple-element"
            or _index(made) != index
        ]
        return numbers[0] if numbers and numbers[0] else 1

    def _number(self, inside: str, name: str, computation: str, start: Instruction | None) -> int | None:
        """A constant, in a loop's condition or body or in the state that the loop starts with."""
        made = self._made(inside, name)
        if made is not None and made.opcode == "get-tuple-element" and start is not None and start.operands:
            made = self._made(computation, start.operands[_index(made)])
        value = re.search(r" constant\((\d+)\)", made.line) if made is not None else None
        return int(value.group(1)) if value else None

    def _root(self, computation: str) -> Instruction | None:
        return next((each for each in self.computations.get(computation, {}).values() if each.root), None)

    def _made(self, computation: str, name: str) -> Instruction | None:
        """What makes a value, behind copies and the like."""
        found = self.computations.get(computation, {}).get(name)
        while found is not None and found.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
            found = self.computations[computation].get(found.operands[0])
        return found


def _instruction(line: str) -> Instruction | None:
    match = LINE.match(line)
    if match is None:
        return None
    rest = match["rest"]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode = OPCODE.match(rest, end + 1)
    if opcode is None:
        return None
    close = _closing(rest, opcode.end() - 1)
    operands = tuple(OPERAND.findall(rest[opcode.end() : close]))
    return Instruction(match["name"], opcode["opcode"], rest[:end], operands, line, bool(match["root"]))


def _index(part: Instruction) -> int:
    """Which part of a tuple a get-tuple-element takes."""
    found = re.search(r"index=(\d+)", part.line)
    return int(found.group(1)) if found else 0


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return len(text)
