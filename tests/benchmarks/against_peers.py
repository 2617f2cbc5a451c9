"""Our training against TRL and Tunix on the same conversations: `python -m tests.benchmarks.against_peers`.

Every contestant is a process in its own environment (made under .bench/ on first use) and trains, with full updates by
AdamW in float32, on pairs drawn from one seed. They take turns on two otherwise quiet cores while the others wait; a
ratio is taken within every round, and its median over rounds is quoted. Before that, the losses of what they start
with are compared, so that the same thing is measured. Slow contestants train on a sample of the pairs, spread evenly
over their lengths, whose padded tokens say how many average pairs it counts for. Fails when a wanted ratio is missed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from tests.benchmarks.peers.contest import Contestant, Ratio, Side, compete
from tests.benchmarks.peers.contestants import DPO, OURS, SFT, TRIED, TRL_BEST
from tests.benchmarks.peers.environments import own_directory
from tests.benchmarks.peers.models import write_models
from tests.benchmarks.peers.session import Session, Verdict, chosen, take_cores
from tests.benchmarks.peers.task import Task

# How many times as fast as each we want to be.
WANTED = {"pairs": 6.0, "trl-best": 12.0, "trl": 16.0, "tunix": 30.0, "trl-sft": 5.0}
SMALL, LARGE = 8192, 32_000  # vocabularies: a tokenizer of one's own, Llama 2's
GROWTH = 1.3  # the most that a pair may cost more in conversations twice as long, measured at the small vocabulary
MEMORY = 1 / 3  # the most of TRL's peak memory, at the large one


def tuned(session: Session, contestant: Contestant, task: Task) -> Contestant:
    """The contestant with the fastest of the batch sizes that it has to choose from."""
    if contestant.name not in TRIED or not session.wants(contestant):
        return contestant
    tried = [
        replace(
            contestant,
            title=f"{contestant.title}, batches of {size}",
            request=dict(contestant.request) | {"batch": size, "pairs": 8},
        )
        for size in TRIED[contestant.name]
    ]
    best = session.fastest(tried, task).request["batch"]
    return replace(contestant, request=dict(contestant.request) | {"batch": best})


def compare_dpo(session: Session, tasks: Sequence[Task], tune: bool) -> None:
    """Pairs a second at every vocabulary; at the small one also how cost grows with turns, at the large one memory."""
    for task in tasks:
        write_models(task)
        grows = task.vocab == SMALL and session.wants(TRL_BEST)
        click.echo(f"DPO, vocabulary {task.vocab:,}, {task.conversations} conversations of {task.turns} turns")
        contestants = [tuned(session, contestant, task) if tune else contestant for contestant in DPO]
        with session.sides(contestants, task, session.rounds * (2 if grows else 1)) as sides:
            compete(sides, range(session.rounds))
            session.report(f"DPO, vocabulary {task.vocab:,}", sides, "pairs")
            session.judge_speed(sides, f", vocabulary {task.vocab:,}")
            if task.vocab == LARGE:
                _judge_memory(session, sides)
            if grows:
                short = [side for side in sides if side.contestant.name in (OURS.name, TRL_BEST.name)]
                _compare_growth(session, task, short)


def _judge_memory(session: Session, sides: Sequence[Side]) -> None:
    for side in sides[1:]:
        if side.contestant.name == TRL_BEST.name:
            ratio = Ratio((sides[0].peak / side.peak,))
            what = f"peak memory over that of {side.contestant.title}, vocabulary {side.task.vocab:,}"
            session.verdicts.append(Verdict(what, ratio, MEMORY, at_least=False))


def _compare_growth(session: Session, task: Task, short: Sequence[Side]) -> None:
    longer = Task(**(vars(task) | {"turns": 2 * task.turns, "conversations": task.conversations // 2}))
    click.echo(f"the same in {longer.conversations} conversations of {longer.turns} turns")
    contestants = [side.contestant for side in short]
    with session.sides(contestants, longer, 2 * session.rounds) as long:
        rounds = range(session.rounds, 2 * session.rounds)
        compete([*short, *long], rounds)
        session.report(f"DPO, vocabulary {task.vocab:,}, conversations of {longer.turns} turns", long, "pairs")
        for before, after in zip(short, long, strict=True):
            costs = [
                {record["round"]: record["cpu"] / record["done"] for record in side.records} for side in (before, after)
            ]
            growth = Ratio(tuple(costs[1][number] / costs[0][number] for number in rounds))
            what = f"CPU seconds of a pair at {longer.turns} turns over {task.turns}, {before.contestant.title}"
            if before.contestant.name == OURS.name:
                session.verdicts.append(Verdict(what, growth, GROWTH, at_least=False))
            else:
                click.echo(f"{what}: {growth}")


def compare_sft(session: Session, task: Task) -> None:
    """Targets a second on preferred replies in their contexts."""
    if not any(contestant.name in session.only for contestant in SFT) and session.only:
        return
    write_models(task)
    click.echo(f"SFT on preferred replies, vocabulary {task.vocab:,}")
    with session.sides(SFT, task, session.rounds) as sides:
        totals = {side.title: side.made["targets"] for side in sides}
        if len(set(totals.values())) > 1:
            raise click.ClickException(f"the sides do not train on the same targets: {totals}")
        compete(sides, range(session.rounds))
        session.report(f"SFT, vocabulary {task.vocab:,}", sides, "targets")
        session.judge_speed(sides, f", vocabulary {task.vocab:,}")


@click.command()
@click.option("--vocab", "vocabs", multiple=True, type=int, default=(SMALL, LARGE), show_default=True)
@click.option("--only", default="", help="Some of pairs, trl-best, trl, tunix, trl-sft, by comma; ours always runs.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--conversations", default=32, show_default=True)
@click.option("--turns", default=10, show_default=True)
@click.option("--width", default=256, show_default=True, help="Of the model; its feed-forward is four times that.")
@click.option("--cores", default=2, show_default=True, help="How many cores everybody gets.")
@click.option("--tune", is_flag=True, help="First look which batch sizes are fastest for the peers.")
@click.option("--busy", is_flag=True, help="Measure though the machine is not quiet.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write every round's figures there.")
def main(
    vocabs: tuple[int, ...],
    only: str,
    rounds: int,
    conversations: int,
    turns: int,
    width: int,
    cores: int,
    tune: bool,
    busy: bool,
    output: Path | None,
) -> None:
    """Print tables and the wanted ratios."""
    start = time.perf_counter()
    names = chosen(only, (*DPO, *SFT))
    take_cores(cores, busy)
    directory = tempfile.mkdtemp(dir=own_directory(), prefix="models-")
    session = Session(names, rounds, cores, WANTED)
    tasks = [
        Task(directory, vocab, turns, conversations, width=width, head_size=width // 4, feed_forward=4 * width)
        for vocab in vocabs
    ]
    try:
        compare_dpo(session, tasks, tune)
        compare_sft(session, tasks[0])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        session.write(output)
    session.conclude(time.perf_counter() - start)


if __name__ == "__main__":
    main()
