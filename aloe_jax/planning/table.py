"""A plan as a person reads it."""

from __future__ import annotations

from collections import defaultdict

from aloe_jax.planning.plan import Plan

GIB = 2**30


def table(plan: Plan, price: float | None = None) -> str:
    """Two columns: what, and how much of it. `price` is dollars a chip-hour."""
    subject, work, times = plan.subject, plan.workload, plan.roofline
    settings, demand = subject.settings, plan.demand
    made = f"compiled in {plan.cpu_seconds:.0f} CPU-seconds" if plan.cpu_seconds else "estimated, not compiled"
    if demand.source == "compiled" and not plan.cpu_seconds:
        made = "refused by the compiler, times estimated"
    trained = "all of them" if settings.model.lora is None else f"adapters of rank {settings.model.lora.rank}"
    spare = subject.where.chip.memory - plan.peak
    verdict = "fits" if plan.fits else f"DOES NOT FIT by {-spare / GIB:.2f} GiB"
    lines = [
        ("slice", str(subject.where)),
        ("mesh", " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())),
        ("parameters", f"{subject.spec.parameter_count():,}, trained: {trained} ({subject.sizes_from})"),
        ("data", work.said),
        ("", str(work.packed.report)),
        ("step", f"{settings.data.rows} rows x {settings.data.row_length:,}: {work.tokens:,.0f} tokens"
         + (f", {work.pairs:,.0f} pairs" if work.pairs else "") + f", {work.trees:.1f} conversations"),
        ("memory", f"{plan.peak / GIB:.2f} GiB a chip of {subject.where.chip.memory / GIB:.2f}: {verdict} ({made})"),
        ("", f"{demand.arguments / GIB:.2f} GiB arguments (parameters, optimizer, batch), "
         f"{demand.temporaries / GIB:.2f} GiB temporary" + (" for the updates" if plan.beside.state else "")),
        *(("", f"{size / GIB:.2f} GiB {name}") for name, size in plan.beside.state.items()),
        *(("", f"{sum(phase.working.values()) / GIB:.2f} GiB temporary while {name}: "
           + ", ".join(f"{what} {size / GIB:.2f}" for what, size in phase.working.items()))
          for name, phase in plan.beside.between.items()),
        ("FLOPs", f"{work.flops:.3e} useful a step, {work.flops / work.trees:.3e} a conversation"),
        ("", f"{plan.computed.total:.3e} computed a step: {_shares(plan)}"),
        ("traffic", f"{demand.traffic / 1e9:.1f} GB a chip and step, memory"),
        *_exchanges(plan),
        ("roofline", f"compute {_ms(times.compute)}, memory {_ms(times.memory)}, interconnect {_ms(times.interconnect)}"
         + (f" ({', '.join(f'{name} {_ms(time)}' for name, time in times.axes.items())})" if times.axes else "")),
        ("", f"{'its updates take' if plan.drawing else 'a step takes'} at least {_ms(times.bound)}, by {times.limit}; "
         f"{_ms(times.serial)} if exchanges run alone"),
        *_drawn(plan),
        ("utilisation", f"MFU at most {plan.mfu:.1%} ({plan.mfu_serial:.1%} if exchanges run alone); "
         f"the chips compute {plan.possible:.0%} of the shortest time"),
        ("speed", f"at most {work.tokens / plan.step:,.0f} tokens/s"
         + (f", {work.pairs / plan.step:,.1f} pairs/s" if work.pairs else "")),
        ("run", f"{work.steps:,} steps, at least {_hours(plan.seconds)}, {plan.chip_hours:.2f} chip-hours"),
    ]  # fmt: skip
    if price is not None:
        at_least = plan.chip_hours * price
        cost = f"at least ${at_least:,.2f} at ${price:g} a chip-hour"
        alone = max(plan.step, plan.device_step_serial)
        if alone > plan.step:
            cost += f"; ${at_least * alone / plan.step:,.2f} if exchanges run alone"
        lines.append(("cost", cost + "; without start, compiling, evaluation and checkpoints"))
    return "\n".join(f"{name:<12} {text}".rstrip() for name, text in lines)


def _drawn(plan: Plan) -> list[tuple[str, str]]:
    """What a step does beside its updates."""
    if plan.drawing is None:
        return []
    work, decode, prefill = plan.drawing.work, plan.drawing.decode, plan.drawing.prefill
    lines = [
        ("drawing", f"at least {_ms(plan.drawing.seconds)} a step (estimated): decode {_ms(decode.bound)}, by "
         f"{decode.limit}, prefill {_ms(prefill.bound)}, by {prefill.limit}; {_ms(plan.drawing.serial)} if exchanges "
         "run alone"),
        ("", f"{work.tokens:,} tokens in {work.steps:,} steps of {work.rows} rows: at most "
         f"{work.tokens / decode.bound:,.0f} tokens/s; {work.read:,} tokens of prompts"),
    ]  # fmt: skip
    if plan.reference is not None:
        lines.append(("reference", f"at least {_ms(plan.reference.bound)} a step, by {plan.reference.limit}"))
    if plan.remote is not None:
        calls = " and ".join(f"{count:,} to {role}s" for role, count in plan.remote.calls.items())
        settings = plan.subject.settings
        lines.append(
            ("calls", f"at most {calls} a step: {plan.remote.seconds:,.1f} s at {settings.rl.concurrency} at once "
             f"(rl.concurrency) of {plan.remote.latency:g} s (--latency), beside the chips")
        )  # fmt: skip
    slower = "the calls" if plan.remote and plan.remote.seconds > plan.device_step else "the chips"
    lines.append(("", f"a step takes at least {_ms(plan.step)}, by {slower}; the chips {_ms(plan.device_step)}"))
    return lines


def _shares(plan: Plan) -> str:
    parts = {"layers": plan.computed.layers, "attention": plan.computed.attention, "head": plan.computed.head}
    return ", ".join(f"{name} {value / plan.computed.total:.0%}" for name, value in parts.items())


def _exchanges(plan: Plan) -> list[tuple[str, str]]:
    """A line a mesh axis: what a chip sends along it, by kind and type."""
    by_axes: dict[str, list[str]] = defaultdict(list)
    totals: dict[str, float] = defaultdict(float)
    for each in plan.demand.exchanges:
        axes = " x ".join(each.axes)
        totals[axes] += each.bytes
        if each.bytes >= 1e6:
            by_axes[axes].append(f"{each.kind} {each.dtype} {each.bytes / 1e9:.2f}")
    lines = [f"{axes}: {totals[axes] / 1e9:.2f} GB a chip ({', '.join(kinds)})" for axes, kinds in by_axes.items()]
    return [("" if number else "exchanges", line) for number, line in enumerate(lines)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2f} ms"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
