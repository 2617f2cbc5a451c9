"""The fastest settings that fit a slice: all are estimated, the most promising compiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict

from aloe_jax.errors import AloeError
from aloe_jax.parallel.topology import QUICK
from aloe_jax.planning.plan import Plan, Subject, compile_plan, estimate_plan

ROW_LENGTHS = (4096, 8192, 16_384)
REMATS = ("none", "dots", "full")
COMPILED = 4  # candidates, at most
BETTER = 1.02  # a candidate is compiled where it may be so much faster than the best that fits
OPTIMISTIC = 1.1  # and where its estimated memory, which is mostly too high, is not more than so many times a chip's
Changes = TypedDict(  # settings by dotted key
    "Changes",
    {
        "mesh.data": int, "mesh.fsdp": int, "mesh.tensor": int,
        "data.row_length": int, "data.rows": int, "data.accumulate": int, "model.remat": str,
    },
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What came of a search."""

    best: Plan
    changes: Changes  # from the configured settings
    tried: list[tuple[Changes, Plan]]  # what was compiled (or, without a compiler, the best estimates)

    def override(self) -> str:
        """The changes as YAML, to put over the config."""
        sections: dict[str, dict[str, object]] = {}
        for key, value in self.changes.items():
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = value
        return "\n".join(
            f"{section}: {{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"
            for section, values in sections.items()
        )

    def arguments(self) -> str:
        """The same as arguments of a command."""
        return " ".join(f"{key}={value}" for key, value in self.changes.items())


def search(
    subject: Subject,
    max_rows: int | None = None,
    compiles: bool = True,
    report: Callable[[str], None] = lambda text: None,
) -> Found:
    """Try mesh splits, row lengths, rows and remat; the fastest that fits a chip.

    Speed is useful work a second, with exchanges half hidden behind arithmetic: between the shortest time of a step
    and the time if they ran alone. A step has at least the configured rows, or tokens in rows of another length, and
    at most `max_rows`, by default four times the configured: another batch is another training. Candidates are
    compiled without the compiler's last refinements, what wins with them. Raises AloeError when nothing fits.
    """
    settings = subject.settings
    most = (max_rows or 4 * settings.data.rows) * settings.data.row_length
    bounds = min(most, settings.data.rows * settings.data.row_length), most
    ranked = sorted(_estimates(subject, bounds), key=lambda each: (-speed(each[1]), each[0]["data.rows"]))
    if not ranked:
        raise AloeError(
            f"search: no mesh of {subject.where} divides the model's heads and a step of {bounds[0]:,} to "
            f"{bounds[1]:,} tokens; raise --max-rows or data.rows"
        )
    report(f"{len(ranked)} settings estimated")
    room = subject.where.chip.memory
    tried: list[tuple[Changes, Plan]] = []
    least_refused = float("inf")  # by their estimates; what is estimated larger need not be tried
    for changes, guess in ranked:
        fastest = max((speed(plan) for _, plan in tried if plan.fits), default=0.0)
        if guess.peak > min((OPTIMISTIC if compiles else 1.0) * room, least_refused) or speed(guess) < BETTER * fastest:
            continue
        if len(tried) == (COMPILED if compiles else 1):
            break
        plan = compile_plan(subject.changed(changes), QUICK) if compiles else guess
        tried.append((changes, plan))
        report(_line(changes, plan))
        if not plan.fits:
            least_refused = guess.peak
    best: tuple[Changes, Plan] | None = None
    for changes, plan in sorted(tried, key=lambda each: -speed(each[1])):
        if plan.fits:
            best = changes, (compile_plan(subject.changed(changes)) if compiles else plan)
            if best[1].fits:
                break
            report(f"{_line(changes, best[1])}: refined, it is too large")
            best = None
    if best is None:
        least = min(ranked, key=lambda each: each[1].peak)
        raise AloeError(
            f"search: nothing fits {subject.where}; the least, {_said(least[0])}, needs about "
            f"{least[1].peak / 2**30:.1f} GiB of {room / 2**30:.1f} a chip. Take more chips, model.lora, "
            "optimizer.moment_dtype=bfloat16, or optimizer.name=adafactor"
        )
    return Found(best[1], best[0], tried)


def speed(plan: Plan) -> float:
    """Useful operations a second, exchanges half hidden."""
    return plan.workload.flops / ((plan.device_step + plan.device_step_serial) / 2)


def _estimates(subject: Subject, bounds: tuple[int, int]) -> Iterator[tuple[Changes, Plan]]:
    for changes in _candidates(subject, bounds):
        try:
            yield changes, estimate_plan(subject.changed(changes))
        except AloeError:
            continue  # the model or its data do not fit such rows


def _candidates(subject: Subject, bounds: tuple[int, int]) -> Iterator[Changes]:
    settings, spec, where = subject.settings, subject.spec, subject.where
    inside = where.chips // where.slices
    if subject.conversations.drawn:
        yield from _drawn_candidates(subject)
        return
    lengths = sorted({*ROW_LENGTHS, settings.data.row_length})
    needed = subject.conversations.longest(settings)
    for tensor, length, remat in itertools.product(_powers(inside), lengths, REMATS):
        if inside % tensor or spec.query_heads % tensor or spec.feed_forward % tensor or length < needed:
            continue
        shards = where.slices * inside // tensor
        for times in _powers(bounds[1] // (shards * length)):
            if shards * times * length < bounds[0]:
                continue
            for parts in _powers(times):
                yield {
                    "mesh.data": where.slices,
                    "mesh.fsdp": inside // tensor,
                    "mesh.tensor": tensor,
                    "data.row_length": length,
                    "data.rows": shards * times,
                    "data.accumulate": parts,
                    "model.remat": remat,
                }


def _drawn_candidates(subject: Subject) -> Iterator[Changes]:
    """Where the policy draws its conversations, a step is so many of them: rows are as many as they may need."""
    settings, spec, where = subject.settings, subject.spec, subject.where
    inside, needed = where.chips // where.slices, settings.rl.conversations
    for tensor, remat in itertools.product(_powers(inside), REMATS):
        if inside % tensor or spec.query_heads % tensor or spec.feed_forward % tensor:
            continue
        shards = where.slices * inside // tensor
        for parts in _powers(-(-needed // shards)):
            yield {
                "mesh.data": where.slices,
                "mesh.fsdp": inside // tensor,
                "mesh.tensor": tensor,
                "data.row_length": settings.data.row_length,
                "data.rows": -(-needed // (shards * parts)) * shards * parts,
                "data.accumulate": parts,
                "model.remat": remat,
            }


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**power for power in range(most.bit_length())]


def _said(changes: Changes) -> str:
    mesh = f"data {changes['mesh.data']} x fsdp {changes['mesh.fsdp']} x tensor {changes['mesh.tensor']}"
    parts = f" in {changes['data.accumulate']} parts" if changes["data.accumulate"] > 1 else ""
    return (
        f"{mesh}, {changes['data.rows']} rows x {changes['data.row_length']:,}{parts}, remat {changes['model.remat']}"
    )


def _line(changes: Changes, plan: Plan) -> str:
    return (
        f"{_said(changes)}: {plan.peak / 2**30:.2f} GiB a chip, MFU at most {plan.mfu:.1%}, "
        f"{plan.mfu_serial:.1%} if exchanges run alone"
    )
