"""What a compiled program makes devices exchange, read from its text."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled

from aloe_jax.parallel.program_text import ARRAY, HEADER, Program


class Collective(NamedTuple):
    """An exchange between devices; one in a loop's body is listed once, with how often it runs."""

    kind: str  # all-gather, all-reduce, reduce-scatter, all-to-all, collective-permute
    axes: tuple[str, ...]  # of the mesh, along which the devices exchange
    dtype: str  # of the result, in XLA's words: bf16, f32, s32
    shape: tuple[int, ...]  # on one device, of the result; of a reduce-scatter, of what goes in
    source: str  # what it was made for, in JAX's words: jit(step)/…/dot_general
    times: int = 1  # in one run of the program

    @property
    def bytes(self) -> int:
        """Of the array of this shape, on one device."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.shape) * (int(bits.group()) // 8 if bits else 1)


KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(rf"= (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
# Between slices chips exchange through their hosts: what a chip sends stands for the exchange.
BETWEEN_SLICES = re.compile(
    rf"= \((?P<sent>[^,]*\[[\d,]*\]).* send\(.*megascale.*rendezvous=\"(?P<kind>{'|'.join(KINDS)})"
)
CHANNEL = re.compile(r"channel_id=(\d+)")
SOURCE = re.compile(r'op_name="([^"]*)"')
EXPLICIT = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")


def collectives(compiled: Compiled, mesh: Mesh) -> list[Collective]:
    """The collectives of a program compiled for `mesh`, one entry for every array that comes of one."""
    found: list[Collective] = []
    channels: set[str] = set()
    text = compiled.as_text() or ""
    program = Program.read(text)
    scatters, times = False, 1
    for line in text.splitlines():
        if header := HEADER.match(line):  # a computation begins
            scatters = "all-reduce-scatter" in header["name"]
            times = program.times.get(header["name"], 0) or 1
        if between := BETWEEN_SLICES.search(line):
            dtype, sizes, _ = ARRAY.findall(between["sent"])[0]
            shape = tuple(int(size) for size in sizes.split(",") if size)
            found.append(Collective(between["kind"], ("data",), dtype, shape, "", times))
            continue
        instruction = INSTRUCTION.search(line)
        channel = CHANNEL.search(line)
        if instruction is None or channel is None or channel.group(1) in channels:
            continue  # what starts, carries on and ends one exchange is written down three times
        channels.add(channel.group(1))
        arrays = ARRAY.findall(instruction["result"])
        if instruction["start"] and instruction["kind"] in ("all-gather", "collective-permute"):
            arrays = [array for array in arrays if array[1]]  # operands, then results; scalars are its state
            arrays = arrays[len(arrays) // 2 :]
        kind = "reduce-scatter" if scatters and instruction["kind"] == "all-reduce" else instruction["kind"]
        source, axes = SOURCE.search(line), _axes(line, mesh)
        for dtype, sizes, _ in arrays:
            shape = tuple(int(size) for size in sizes.split(",") if size)
            found.append(Collective(kind, axes, dtype, shape, source.group(1) if source else "", times))
    return found


def _axes(line: str, mesh: Mesh) -> tuple[str, ...]:
    """The axes along which the members of a group differ; all that have more than one device where it is not said."""
    groups = _groups(line)
    sizes = mesh.devices.shape
    if groups is None:
        return tuple(name for name, size in zip(mesh.axis_names, sizes, strict=True) if size > 1)
    positions = np.array(np.unravel_index(groups, sizes))  # [axes,groups,members]
    differ = (positions != positions[:, :, :1]).any(axis=(1, 2))
    return tuple(name for name, moved in zip(mesh.axis_names, differ, strict=True) if moved)


def _groups(line: str) -> np.ndarray | None:
    """Numbers of the devices that exchange with each other, [groups,members]; None where the line does not say."""
    if match := EXPLICIT.search(line):
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]+)\}", match.group(1))])
    if match := IOTA.search(line):
        shape, sizes = _numbers(match.group(1)), _numbers(match.group(2))
        order = _numbers(match.group(3)) if match.group(3) else list(range(len(sizes)))
        return np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(shape)
    if match := NAMED.search(line):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match.group(1))}
        members = [name.strip(" '") for name in match.group(2).split(",")]
        if set(members) <= set(axes):
            order = sorted(range(len(axes)), key=lambda axis: list(axes)[axis] in members)
            devices = np.arange(math.prod(axes.values())).reshape(list(axes.values())).transpose(order)
            return devices.reshape(-1, math.prod([axes[name] for name in members]))
    return None


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
