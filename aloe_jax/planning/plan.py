"""A run on machines that are not at hand, as one answer: does it fit, how fast can it be, what will it cost."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import jax
from jax.stages import Compiled

from aloe_jax.errors import AloeError
from aloe_jax.models.opening import open_model
from aloe_jax.models.spec import ModelSpec
from aloe_jax.parallel.chips import Slice
from aloe_jax.parallel.topology import compile_for, tpu_mesh, unplaced_mesh
from aloe_jax.planning import flops
from aloe_jax.planning.architectures import ARCHITECTURES, published
from aloe_jax.planning.demand import AnyMesh, Demand, measured
from aloe_jax.planning.drawing import DrawingBounds, drawing, reference_bounds
from aloe_jax.planning.estimate import estimated
from aloe_jax.planning.remote import RemoteCalls, remote_calls
from aloe_jax.planning.roofline import Geometry, Roofline, roofline
from aloe_jax.planning.workload import Conversations, Workload
from aloe_jax.storage.files import reachable
from aloe_jax.training.fit import check_fit
from aloe_jax.training.policy_losses import needs_reference
from aloe_jax.training.program import abstract_program
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import MemoryBeside, stage_of
from aloe_jax.training.start import resolve


@dataclass(frozen=True)
class Subject:
    """What is planned: a run, its model and its data, on a slice."""

    settings: TrainSettings
    spec: ModelSpec
    sizes_from: str
    where: Slice
    conversations: Conversations
    latency: float = 1.0  # seconds that a call to a remote user or judge takes

    def changed(self, changes: Mapping[str, object]) -> Subject:
        """With other settings, by dotted key: {"data.rows": 8}."""
        values = self.settings.model_dump()
        for key, value in changes.items():
            *sections, last = key.split(".")
            inner = values
            for section in sections:
                inner = inner[section]
            inner[last] = value
        return replace(self, settings=TrainSettings.model_validate(values))


@dataclass(frozen=True)
class Plan:
    """The answer. Times are of a step, over all chips, unless they say otherwise."""

    subject: Subject
    mesh: dict[str, int]
    workload: Workload
    computed: flops.Flops
    demand: Demand
    roofline: Roofline  # of the updates
    beside: MemoryBeside  # what the stage takes of a chip's memory beside its updates
    cpu_seconds: float = 0.0  # that compiling took; 0: nothing was compiled
    drawing: DrawingBounds | None = None  # of the replies that a step learns from, where the policy draws them
    reference: Roofline | None = None  # of the reference's log-probs, where a step computes them
    remote: RemoteCalls | None = None  # that a step waits for

    @property
    def peak(self) -> int:
        """The most memory of a chip at one time: while the weights are updated, or between two updates."""
        between = max((sum(phase.working.values()) for phase in self.beside.between.values()), default=0)
        return sum(self.beside.state.values()) + max(self.demand.peak, self.demand.arguments + between)

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return self.peak <= self.subject.where.chip.memory

    @property
    def device_step(self) -> float:
        """Seconds that the chips take for a step at least, one thing after the other."""
        drawn = self.drawing.seconds if self.drawing else 0.0
        return self.roofline.bound + drawn + (self.reference.bound if self.reference else 0.0)

    @property
    def device_step_serial(self) -> float:
        """The same if exchanges run beside nothing else."""
        drawn = self.drawing.serial if self.drawing else 0.0
        return self.roofline.serial + drawn + (self.reference.serial if self.reference else 0.0)

    @property
    def step(self) -> float:
        """Seconds of a step at least: chips and remote calls work side by side, so the slower of the two."""
        return max(self.device_step, self.remote.seconds if self.remote else 0.0)

    @property
    def mfu(self) -> float:
        """Useful operations over what the chips could do in the shortest time of the updates: no run has a higher."""
        return self.workload.flops / self._peak / self.roofline.bound

    @property
    def mfu_serial(self) -> float:
        """The same if exchanges run beside nothing else."""
        return self.workload.flops / self._peak / self.roofline.serial

    @property
    def possible(self) -> float:
        """The share of the shortest time in which the chips compute: arithmetic over the largest of the bounds."""
        return self.roofline.compute / self.roofline.bound

    @property
    def seconds(self) -> float:
        """Of the whole run at best, without start, compiling, evaluation and checkpoints."""
        return self.workload.steps * self.step

    @property
    def chip_hours(self) -> float:
        """Of the whole run at best."""
        return self.seconds / 3600 * self.subject.where.chips

    @property
    def _peak(self) -> float:
        return self.subject.where.chips * self.subject.where.chip.flops

    def as_json(self) -> dict[str, object]:
        """Everything as plain values; bytes, seconds, FLOPs."""
        work, subject = self.workload, self.subject
        return {
            "topology": subject.where.text,
            "slices": subject.where.slices,
            "chips": subject.where.chips,
            "chip": asdict(subject.where.chip),
            "model": {"sizes": subject.sizes_from, "parameters": subject.spec.parameter_count()},
            "mesh": self.mesh,
            "data": {"assumed": work.assumed, "said": work.said, "fill": work.packed.report.fill},
            "memory": {
                "source": self.demand.source,
                "fits": self.fits,
                "peak": self.peak,
                "beside_updates": {
                    "state": dict(self.beside.state),
                    **{f"while {name}": dict(phase.working) for name, phase in self.beside.between.items()},
                },
                "arguments": self.demand.arguments,
                "temporaries": self.demand.temporaries,
                "of": subject.where.chip.memory,
            },
            "flops": {
                "useful_per_step": work.flops,
                "useful_per_conversation": work.flops / work.trees,
                "computed_per_step": asdict(self.computed) | {"total": self.computed.total},
            },
            "traffic": self.demand.traffic,
            "exchanges": [each._asdict() for each in self.demand.exchanges],
            "seconds": {
                "compute": self.roofline.compute,
                "memory": self.roofline.memory,
                "interconnect": self.roofline.interconnect,
                "by_axes": self.roofline.axes,
                "updates": self.roofline.bound,
                "drawing": self.drawing.seconds if self.drawing else 0.0,
                "reference": self.reference.bound if self.reference else 0.0,
                "remote_calls": self.remote.seconds if self.remote else 0.0,
                "step": self.step,
                "step_if_exchanges_wait": self.device_step_serial,
            },
            "limit": self.roofline.limit,
            "possible": self.possible,
            "mfu": self.mfu,
            "mfu_if_exchanges_wait": self.mfu_serial,
            "tokens_per_step": work.tokens,
            "pairs_per_step": work.pairs,
            "conversations_per_step": work.trees,
            "tokens_per_second": work.tokens / self.step,
            "pairs_per_second": work.pairs / self.step,
            "drawn_tokens_per_step": self.drawing.work.tokens if self.drawing else 0,
            "remote_calls_per_step": self.remote.calls if self.remote else {},
            "steps": work.steps,
            "hours": self.seconds / 3600,
            "chip_hours": self.chip_hours,
            "compile_cpu_seconds": self.cpu_seconds,
        }


def sizes_of(settings: TrainSettings, named: str | None = None) -> tuple[ModelSpec, str]:
    """The model's sizes and where they are from: `model.path`, or a published model that it, or `named`, names.

    Raises AloeError when there are none.
    """
    path = settings.model.path
    if settings.model.name is None and named is None and path is not None and reachable(path):
        return open_model(settings.model).spec(), path
    if found := published(named or path or "", settings.model):
        return found[1], f"published sizes of {found[0]}"
    if path is None and named is None:
        raise AloeError("model.path: a model from scratch has no vocabulary before there is a tokenizer; give --model")
    raise AloeError(
        f"model.path: {named or path} is not there and named like no published model ({', '.join(ARCHITECTURES)}); "
        "give one of these as --model"
    )


def estimate_plan(subject: Subject) -> Plan:
    """The plan from formulas. Raises AloeError where settings, model and mesh do not fit each other."""
    subject, mesh, workload = prepared(subject, real=False)
    demand = _estimated(subject, mesh, workload)
    return _plan(subject, mesh, workload, demand)


def compile_plan(subject: Subject, options: Mapping[str, object] | None = None) -> Plan:
    """The plan from the compiled step. Raises AloeError also when libtpu is missing.

    A step that the compiler finds too large for the chip gives a plan that does not fit, with the memory that the
    compiler says it needs.
    """
    subject, mesh, workload = prepared(subject, real=True)
    before = time.process_time()
    try:
        compiled = compile_step(subject, mesh, workload, options)
    except jax.errors.JaxRuntimeError as error:
        needed = too_large(str(error))
        if needed is None:
            raise
        guess = _estimated(subject, mesh, workload)
        return _plan(subject, mesh, workload, replace(guess, source="compiled", peak=needed))
    return _plan(subject, mesh, workload, measured(compiled, mesh), time.process_time() - before)


def compile_step(
    subject: Subject, mesh: AnyMesh, workload: Workload, options: Mapping[str, object] | None = None
) -> Compiled:
    """The training step itself, compiled for the slice."""
    program = abstract_program(subject.settings, subject.spec, mesh, workload.packed.rows, workload.steps)
    return compile_for(mesh, program.step.compiled, program.state, program.frozen, program.batch, options=options)


def too_large(message: str) -> int | None:
    """Bytes that a step needs by the compiler's refusal, None where that is not what it says."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", message)
    if found is None:
        return None
    return math.ceil(float(found.group(1)) * 1024 ** (1 + "KMGT".index(found.group(2))))


def prepared(subject: Subject, real: bool) -> tuple[Subject, AnyMesh, Workload]:
    """The subject with what `auto` stands for on its chips, its mesh and its work, which fit each other.

    The mesh has libtpu's devices where it is `real`, else none.
    """
    where, shape = subject.where, subject.settings.mesh
    mesh: AnyMesh = (
        tpu_mesh(where.text, shape, where.slices) if real else unplaced_mesh(shape, where.chips, where.slices)
    )
    platform = "tpu" if subject.where.chip.is_tpu else "gpu"
    subject = replace(subject, settings=resolve(subject.settings, subject.spec, mesh, platform))
    workload = subject.conversations.workload(subject.settings, subject.spec)
    check_fit(subject.settings, subject.spec, [workload.packed.rows], mesh.shape["data"] * mesh.shape["fsdp"])
    return subject, mesh, workload


def _estimated(subject: Subject, mesh: AnyMesh, workload: Workload) -> Demand:
    rows = workload.packed.rows
    return estimated(subject.settings, subject.spec, mesh, rows, workload.steps, workload.passes)


def _plan(subject: Subject, mesh: AnyMesh, workload: Workload, demand: Demand, spent: float = 0.0) -> Plan:
    scored, pairs = workload.packed.rows.scored.shape[1], workload.packed.scores
    settings, spec, where = subject.settings, subject.spec, subject.where
    computed = flops.computed(settings, spec, scored, pairs).times(workload.passes)
    times = roofline(computed.total, demand, where, Geometry(where, mesh))
    beside = stage_of(settings).memory_beside(spec, mesh)
    made = Plan(subject, dict(mesh.shape), workload, computed, demand, times, beside, spent)
    if not workload.drawn:
        return made
    return replace(
        made,
        drawing=drawing(settings, spec, mesh, where, workload.drawn),
        reference=reference_bounds(settings, spec, mesh, where) if needs_reference(settings.rl) else None,
        remote=remote_calls(settings, subject.latency),
    )
