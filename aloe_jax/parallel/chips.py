"""The chips that a run can be planned for, and how they are joined to a slice or a machine."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from aloe_jax.errors import AloeError
from aloe_jax.parallel.topology import TOPOLOGIES


@dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts devices, by its vendor's data sheet. Bandwidths are bytes a second."""

    name: str
    flops: float  # peak of bfloat16 products, a second, dense
    memory: float  # bytes that a program can have
    bandwidth: float  # of that memory
    link: float  # of one link to a neighbour, in one direction
    network: float  # a chip's share of its host's network, in one direction
    per_host: int  # chips
    wraps: int = 0  # TPU: a side of so many chips is closed to a ring; 0: there are no sides, all see all
    all_sides: bool = False  # only where every side of the slice is a multiple of `wraps`

    @property
    def is_tpu(self) -> bool:
        """Whether libtpu can compile for it."""
        return self.wraps > 0


GIB = 2**30

# Peak of bfloat16 products, FLOP/s, dense, by the name that JAX gives a device; from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}

# TPU: peak, memory and its bandwidth from cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. A program can have what libtpu
# says when one does not fit ("of 15.75G hbm"). Links: the docs give a chip's in both directions (v5e 400 GB/s over 4
# ports, v6e 800, v5p 1,200 over 6); 45 and 90 GB/s one way are what the JAX team counts with
# (jax-ml.github.io/scaling-book/tpus). Network: v5e 2 x 100 Gb/s for a host of 8, v6e 4 x 200, v4 and v5p 200 for 4.
# GPU: nvidia.com/en-us/data-center/{h100,h200}, SXM; NVLink 900 GB/s is both directions; a 400 Gb/s card a GPU. The
# driver and the CUDA context keep about 2% of the memory.
CHIPS = {
    "v4": Chip("TPU v4", PEAK_FLOPS["TPU v4"], 31.25 * GIB, 1228e9, 45e9, 6.25e9, 4, wraps=4, all_sides=True),
    "v5e": Chip("TPU v5e", PEAK_FLOPS["TPU v5 lite"], 15.75 * GIB, 819e9, 45e9, 3.125e9, 8, wraps=16),
    "v5p": Chip("TPU v5p", PEAK_FLOPS["TPU v5"], 95.74 * GIB, 2765e9, 90e9, 6.25e9, 4, wraps=4, all_sides=True),
    "v6e": Chip("TPU v6e", PEAK_FLOPS["TPU v6 lite"], 31.25 * GIB, 1638e9, 90e9, 12.5e9, 8, wraps=16),
    "h100": Chip("H100 80 GB", PEAK_FLOPS["NVIDIA H100"], 78 * GIB, 3350e9, 450e9, 50e9, 8),
    "h200": Chip("H200 141 GB", PEAK_FLOPS["NVIDIA H200"], 138 * GIB, 4800e9, 450e9, 50e9, 8),
}


@dataclass(frozen=True)
class Slice:
    """Chips of one kind that are joined, `slices` times over; slices reach each other over the network."""

    text: str  # as it was asked for
    chip: Chip
    sides: tuple[int, ...]  # chips along every side of one slice
    slices: int = 1

    @property
    def chips(self) -> int:
        """Over all slices."""
        return math.prod(self.sides) * self.slices

    @property
    def hosts(self) -> int:
        """Over all slices."""
        return max(1, math.prod(self.sides) // self.chip.per_host) * self.slices

    def closed(self, side: int) -> bool:
        """Whether the chips along a side form a ring."""
        if self.chip.all_sides:
            return all(length % self.chip.wraps == 0 for length in self.sides)
        return self.chip.is_tpu and self.sides[side] % self.chip.wraps == 0

    def __str__(self) -> str:
        text = f"{self.slices} x {self.text}" if self.slices > 1 else self.text
        chips = f"{self.chips} chip{'s' if self.chips > 1 else ''} of {self.chip.name}"
        return f"{text}: {chips} on {self.hosts} host{'s' if self.hosts > 1 else ''}"


def peak_flops(kind: str) -> float | None:
    """Peak FLOP/s of a device where it is known: by the longest name that its kind starts with."""
    names = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def read_topology(text: str, slices: int = 1) -> Slice:
    """The slice of a text such as "v5e:4x4" or "h100:8".

    Raises AloeError naming what is known when there is no such chip or the shape is none.
    """
    name, _, shape = text.partition(":")
    chip = CHIPS.get(name)
    if chip is None or not re.fullmatch(r"\d+(x\d+)*", shape) or "0" in shape.split("x"):
        known = "; ".join(
            f"{each}: {', '.join(TOPOLOGIES[each])}" if each in TOPOLOGIES else f"{each}:N" for each in CHIPS
        )
        raise AloeError(f'topology: {text!r} is none; give chip and shape, such as "v5e:4x4" or "h100:8". {known}')
    sides = tuple(int(side) for side in shape.split("x"))
    if chip.is_tpu and len(sides) != (3 if chip.all_sides else 2):
        raise AloeError(f"topology: {text!r} has {len(sides)} sides; {name} has {', '.join(TOPOLOGIES[name])}")
    if not chip.is_tpu and len(sides) != 1:
        raise AloeError(f"topology: {text!r}; give the number of GPUs, such as {name}:8")
    return Slice(text, chip, sides, slices)
