"""`aloe plan`: whether a training run fits machines that are not at hand, how fast it can be, its cost."""

from __future__ import annotations

import json
import math
import os
import resource
import sys

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import configured
from aloe_jax.errors import AloeError
from aloe_jax.training.settings import TrainSettings

ONE = click.IntRange(1, 10**9)


@click.command(cls=Command)
@configured(TrainSettings)
@click.option("--topology", required=True, help="Chips and their shape: v5e:4x4, v5p:2x2x2, h100:8.")
@click.option(
    "--slices",
    default=1,
    type=ONE,
    show_default=True,
    help="TPU slices; the mesh's data axis goes from one to the next.",
)
@click.option("--search", is_flag=True, help="Look for the fastest mesh, row length, rows and remat that fit.")
@click.option("--max-rows", type=ONE, help="With --search: most rows a step. By default four times the configured.")
@click.option("--sampler", is_flag=True, help="Compile prefill and decode too, for TPUs.")
@click.option("--sampler-rows", default=64, type=ONE, show_default=True, help="Conversations drawn together, ")
@click.option("--sampler-length", default=4096, type=ONE, show_default=True, help="and the most tokens of one.")
@click.option("--estimate", is_flag=True, help="Compile nothing: formulas alone, in seconds.")
@click.option(
    "--model", "named", metavar="NAME", help="A published model whose sizes to take, where model.path does not exist."
)
@click.option(
    "--conversations", default=3310, type=ONE, show_default=True, help="Where there is no data yet: how many,"
)
@click.option("--turns", default=10, type=ONE, show_default=True, help="of so many turns,")
@click.option("--user-tokens", default=40, type=ONE, show_default=True, help="of so many tokens a user's message")
@click.option("--reply-tokens", default=60, type=ONE, show_default=True, help="and a reply.")
@click.option(
    "--latency",
    default=1.0,
    type=click.FloatRange(0, 3600),
    show_default=True,
    help="Seconds that a call takes, where the policy talks to remote users and judges.",
)
@click.option("--price", type=click.FloatRange(0, sys.float_info.max), help="Dollars a chip-hour.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    settings: TrainSettings, topology: str, slices: int, search: bool, max_rows: int | None, sampler: bool,
    sampler_rows: int, sampler_length: int, estimate: bool, named: str | None, conversations: int, turns: int,
    user_tokens: int, reply_tokens: int, latency: float, price: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Plan a training run on machines that are not at hand.

    For TPUs the real training step is compiled ahead of time, which needs libtpu and no TPU, some minutes, and no
    weights: sizes come from model.path, or from the published model that it is named after. For GPUs there is no
    compiler without them, so memory and traffic are estimated. Where there is no data yet, ALOE's shape is assumed.
    Of stage rl the updates are planned so; drawing replies and calls to remote models are estimated beside them.

    \b
    Examples:
      python -m aloe_jax.plan --config configs/dpo/llama3_8b.yaml --topology v5e:4x4
      python -m aloe_jax.plan --config configs/dpo/llama3_8b.yaml --topology v5e:4x4 --search --price 1.2
      python -m aloe_jax.plan --config configs/dpo/llama3_8b.yaml --topology v5p:2x2x2 --slices 2 data.rows=16
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from aloe_jax.parallel.chips import read_topology
    from aloe_jax.parallel.topology import BESIDE, ENVIRONMENT
    from aloe_jax.planning.plan import Subject, compile_plan, estimate_plan, sizes_of
    from aloe_jax.planning.sampler import plan_sampler
    from aloe_jax.planning.search import search as find
    from aloe_jax.planning.table import table
    from aloe_jax.planning.workload import Conversations, Shape

    if BESIDE.exists():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(BESIDE))
    for key, value in ENVIRONMENT.items():  # MaxText, too, loads libtpu, which is loud without them
        os.environ.setdefault(key, value)
    where = read_topology(topology, slices)
    if price is not None and math.isnan(price):
        raise AloeError("--price nan: give dollars a chip-hour, such as 1.2")
    if sampler and (estimate or not where.chip.is_tpu):
        raise AloeError("--sampler: prefill and decode are compiled, which works for TPUs only, without --estimate")
    spec, sizes_from = sizes_of(settings, named)
    shape = Shape(conversations, turns, user_tokens, reply_tokens)
    subject = Subject(settings, spec, sizes_from, where, Conversations(settings, shape), latency)
    compiles = where.chip.is_tpu and not estimate
    found = find(subject, max_rows, compiles, lambda text: click.echo(text, err=True)) if search else None
    plan = found.best if found else compile_plan(subject) if compiles else estimate_plan(subject)
    drawing = plan_sampler(plan.subject, sampler_rows, sampler_length) if sampler else None
    if as_json:
        used = resource.getrusage(resource.RUSAGE_SELF)
        values = plan.as_json() | {"host_memory": used.ru_maxrss * 1024, "cpu_seconds": used.ru_utime + used.ru_stime}
        values |= {"override": found.changes} if found else {}
        values |= {"sampler": drawing.as_json()} if drawing else {}
        click.echo(json.dumps(values, indent=1))
        return
    click.echo(table(plan, price))
    if drawing:
        click.echo(f"\n{drawing}")
    if found:
        click.echo(f"\nThe fastest that fits, to put over the config:\n{found.override()}\nor: {found.arguments()}")
