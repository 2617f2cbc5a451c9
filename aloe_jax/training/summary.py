"""What a run would do, said before it does it: size, memory, data, steps, checkpoints."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from aloe_jax.data.packing import PackingReport, Rows
from aloe_jax.models.spec import ModelSpec
from aloe_jax.storage.files import is_remote
from aloe_jax.training.memory import Memory, estimate, limit
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.source import SourceSummary


@dataclass(frozen=True)
class RunSummary:
    """A run before it begins. Counts of steps are means: rows are drawn, and no two batches are alike."""

    model: str
    parameters: int
    trained: int
    mesh: Mapping[str, int]
    device: str  # kind
    memory: Memory
    device_memory: int | None  # bytes of one device, where JAX says
    data: str  # what the training data is, with a line for each of several sources
    sources: Mapping[str, PackingReport]  # the same as numbers, by name
    validation: str
    calls: tuple[str, ...]  # to language models, a line each
    row_length: int
    rows: int  # a step, over all devices
    steps: int
    step_tokens: float
    step_pairs: float
    step_flops: float
    passes: float  # over the training data
    checkpoints: int  # that are kept
    free_disk: int | None  # bytes, where the run directory is or will be; None in a bucket

    @property
    def warnings(self) -> list[str]:
        """What will probably not fit, a line each, with what to do about it."""
        found = []
        if self.device_memory is not None and self.memory.total > self.device_memory:
            when = self.memory.largest
            mend = self.memory.between[when].mend if when else "set model.remat=full, raise data.accumulate"
            while_, axis = (f" while {when}", "tensor") if when else ("", "fsdp")
            found.append(
                f"the step needs about {_size(self.memory.total)} a device{while_}, which has "
                f"{_size(self.device_memory)}: {mend}, or spread over more devices (mesh.{axis})"
            )
        # While one is written, those that it replaces are still there.
        needed = (self.checkpoints + 1) * self.memory.checkpoint
        if self.free_disk is not None and needed > self.free_disk:
            found.append(
                f"{self.checkpoints} checkpoints and one being written need {_size(needed)}, the disk has "
                f"{_size(self.free_disk)} free: free some, lower checkpoints.keep, or give another output"
            )
        return found

    def __str__(self) -> str:
        one_step = f"{self.rows} rows x {self.row_length} = {self.rows * self.row_length:,} positions"
        one_step += f", {self.step_tokens:,.0f} tokens" + (f", {self.step_pairs:,.0f} pairs" if self.step_pairs else "")
        lines = [
            ("model", self.model),
            ("trained", f"{self.trained:,} parameters ({self.trained / self.parameters:.2%} of the model's)")
            if self.trained != self.parameters
            else ("trained", "all of them"),
            ("mesh", f"{' x '.join(f'{axis} {size}' for axis, size in self.mesh.items())} of {self.device}"),
            ("memory", f"{self.memory.total / 2**30:.2f} GiB a device, estimated" + self._of_device()),
            *(("", f"{_size(size):>10}  {what}") for what, size in self.memory.state.items()),
            *(("", f"{_size(size):>10}  {what}, while {when}") for when, what, size in self._working()),
            *(("" if number else "data", text) for number, text in enumerate(self.data.splitlines())),
            *(("" if number else "validation", text) for number, text in enumerate(self.validation.splitlines())),
            *(("" if number else "calls", text) for number, text in enumerate(self.calls)),
            ("step", f"{one_step}, {self.step_flops:.2e} FLOPs"),
            (
                "run",
                f"{self.steps} steps, {self.steps * self.step_tokens:,.0f} tokens, "
                f"{self.steps * self.step_flops:.2e} FLOPs, {self.passes:.1f} passes over the data",
            ),
            (
                "checkpoint",
                f"{_size(self.memory.checkpoint)}, of which up to {self.checkpoints} are kept"
                + ("" if self.free_disk is None else f"; {_size(self.free_disk)} of disk are free"),
            ),
            *(("warning", text) for text in self.warnings),
        ]
        return "\n".join(f"{name:<11} {text}".rstrip() for name, text in lines)

    def _working(self) -> Iterator[tuple[str, str, int]]:
        """(when, what, bytes) of what is not there all the time."""
        update = "the weights are updated" if self.memory.between else "a step runs"
        phases = {name: phase.working for name, phase in self.memory.between.items()}
        for when, sizes in {update: self.memory.working, **phases}.items():
            yield from ((when, what, size) for what, size in sizes.items())

    def _of_device(self) -> str:
        return "" if self.device_memory is None else f"; it has {self.device_memory / 2**30:.2f}"


def summarise(
    settings: TrainSettings,
    spec: ModelSpec,
    mesh: Mesh,
    steps: int,
    rows: Rows,
    source: SourceSummary,
) -> RunSummary:
    """The plan of a run of `steps` steps on batches of such rows; nothing is computed on a device.

    Raises AloeError where the optimizer's settings contradict each other.
    """
    lora = settings.model.lora
    count = spec.parameter_count()
    trained = count if lora is None else sum(math.prod(weight.shape) for weight in spec.adapters(lora).values())
    model = f"{count:,} parameters, {spec.layers} layers, {spec.width} wide, {spec.vocab} tokens"
    if lora is not None:
        model += f"; adapters of rank {lora.rank}, base {lora.base}"
    return RunSummary(
        model=model,
        parameters=count,
        trained=trained,
        mesh=dict(mesh.shape),
        device=mesh.devices.flat[0].device_kind,
        memory=estimate(settings, spec, mesh, rows, steps),
        device_memory=limit(mesh),
        data=source.data,
        sources=source.parts,
        validation=source.validation,
        calls=source.calls,
        row_length=settings.data.row_length,
        rows=settings.data.rows,
        steps=steps,
        step_tokens=source.tokens,
        step_pairs=source.pairs,
        step_flops=source.flops,
        passes=steps * source.passes,
        checkpoints=settings.checkpoints.keep + 1,  # the newest, and the best where it is not among them
        free_disk=None if is_remote(settings.output) else _free_disk(Path(settings.output)),
    )


def _free_disk(path: Path) -> int:
    """Bytes free where `path` is, or would be made."""
    existing = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    return shutil.disk_usage(existing).free


def _size(count: float) -> str:
    """Bytes as a person reads them: 512 B, 3.4 MiB, 12.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
