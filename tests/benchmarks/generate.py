"""Our sampler against transformers' `generate` on PyTorch: `python -m tests.benchmarks.generate`.

Both sides load the same random Llama, stay in a process each, and take turns; transformers runs in the environment of
pinned packages under .bench/ that is made on first use. Greedy replies of a fixed number of tokens, so both do the same
work; how many of the tokens are equal is told, too, and the run fails when fewer than 99 % are. A ratio is taken within
every round, its median is quoted, and the run fails when one is below what is wanted. `generate` is measured with its
dynamic and its static cache, and the faster one counts. Wall time decides on a quiet machine; with `--busy`, where
other work stretches it at random, CPU seconds do, which `--cores 1` keeps free of threads that only wait.

What a dialogue of 2,048 tokens costs is timed from the next user turn on: a session has the dialogue in its cache by
then; `generate` without one reads the dialogue again. `generate` with the cache carried over is told beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from tests.benchmarks.generate_sides import HISTORY, LENGTH, LONG, REPLY, ROWS, TURNS, USER, VOCAB
from tests.benchmarks.peers.contest import check_quiet, on_cores

ONE, STEPS = f"one reply of {REPLY} tokens at {HISTORY}", "its tokens after the first"
CACHES = ("dynamic", "static")
SAME = 0.99  # of the tokens: where two are almost equally likely, rounding decides, and all after them differ, too
Round = dict[str, dict[str, Any]]  # what each side took, by its name


@dataclass(frozen=True)
class Part:
    """What both sides do, how often, and how many times as fast we want to be."""

    title: str
    rounds: int
    ours: Mapping[str, Any]
    theirs: Mapping[str, Mapping[str, Any]]  # by the cache that `generate` has
    wanted: float | None = None


def parts(rounds: int) -> tuple[Part, ...]:
    """All of them; the longer ones get half as many rounds, the shortest twice as many."""
    few = max(2, rounds // 2)
    one, steps = {"do": "reply", "history": HISTORY, "new": REPLY}, {"do": "steps"}
    turns, long = {"do": "turns"}, {"do": "long"}

    def by_cache(request: Mapping[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
        return {f"generate, {cache}": {**request, "cache": cache, **more} for cache in CACHES}

    dialogue, late = f"{TURNS} turns of {USER} + {REPLY} tokens", f"one reply at {LONG:,} tokens"
    return (
        Part(ONE, rounds, one, by_cache(one), 1.2),
        Part(STEPS, 2 * rounds, steps, by_cache(steps), 1.5),
        Part(f"{dialogue}, their cache carried over", few, turns, by_cache(turns, carried=True), 1.3),
        Part(f"{dialogue}, theirs re-prefilled", few, turns, by_cache(turns, carried=False), 2.0),
        Part(f"{late}, their cache carried over", few, long, by_cache(long, carried=True)),
        Part(f"{late}, theirs re-prefilled", few, long, by_cache(long, carried=False), 5.0),
    )


class Side:
    """A process that answers requests."""

    def __init__(self, command: list[str]):
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root,
            env=os.environ | on_cores(len(os.sched_getaffinity(0))),
        )  # fmt: skip

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ClickException with what went wrong there."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with status {self._process.wait()}"}
        if "error" in answer:
            raise click.ClickException(f"{request}: {answer['error']}")
        return answer

    def end(self) -> None:
        """Stop the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def both(layers: int, width: int) -> Iterator[tuple[Side, Side]]:
    """Our side and theirs, with the same model."""
    from aloe_jax.models.huggingface import save_pretrained
    from aloe_jax.models.native.decoder import DecoderSpec
    from tests.benchmarks.peers.environments import TRL
    from tests.random_models import random_decoder

    python = str(TRL.python())
    spec = DecoderSpec(
        vocab=VOCAB, layers=layers, width=width, query_heads=4, kv_heads=2, head_size=width // 4,
        feed_forward=4 * width, max_length=LENGTH,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        save_pretrained(random_decoder(spec, 0.05), temporary)
        sides = [
            Side([interpreter, "-m", "tests.benchmarks.generate_sides", name, temporary])
            for name, interpreter in (("ours", sys.executable), ("torch", python))
        ]
        try:
            yield sides[0], sides[1]
        finally:
            for side in sides:
                side.end()


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Of one reply; the longer parts get half as many.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only parts whose title holds this, or one of these.")
@click.option("--width", default=256, show_default=True)
@click.option("--layers", default=4, show_default=True)
@click.option("--cores", default=None, type=int, help="How many cores both sides get; default: all.")
@click.option("--busy", is_flag=True, help="Measure though the machine does other things, too.")
def main(rounds: int, only: tuple[str, ...], width: int, layers: int, cores: int | None, busy: bool) -> None:
    """Print seconds, CPU seconds and ratios of every part."""
    check_quiet(busy)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # the processes that are started inherit it
    click.echo(
        f"{ROWS} conversations, {layers} layers, width {width}, vocabulary {VOCAB:,}, float32, "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    results: dict[str, tuple[list[Round], float | None]] = {}
    with both(layers, width) as (ours, theirs):
        for part in parts(rounds):
            if not only or any(text in part.title for text in only):
                click.echo(f"\n{part.title}")
                results[part.title] = compete(part, ours, theirs), part.wanted
    judge(results, "cpu" if busy else "wall")


def compete(part: Part, ours: Side, theirs: Side) -> list[Round]:
    """Both sides once to warm up and compile, then in turns, in one order and then in the other.

    Raises ClickException when they do not say the same.
    """
    contestants = {"ours": (ours, part.ours)} | {name: (theirs, request) for name, request in part.theirs.items()}
    expected = None
    for name, (side, request) in contestants.items():
        made = side.ask(request)
        tokens = np.array(made["tokens"])
        expected = tokens if expected is None else expected
        same = np.mean(tokens == expected)
        click.echo(f"  {name:<18} first call {made['wall']:6.1f} s, {same:.1%} of the tokens as ours")
        if same < SAME:
            raise click.ClickException(f"{part.title}: {name} says something else")
    rounds: list[Round] = []
    for number in range(part.rounds):
        order = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        took = {name: contestants[name][0].ask(contestants[name][1]) for name in order}
        for name in contestants:
            count = np.array(took[name].pop("tokens")).size
            wall, cpu = took[name]["wall"], took[name]["cpu"]
            click.echo(f"  round {number + 1} {name:<18} {wall:7.3f} s {count / wall:8.1f} tokens/s, {cpu:7.3f} CPU-s")
        rounds.append(took)
    return rounds


def fastest(rounds: list[Round], kind: str) -> str:
    """Of the ways in which `generate` was run, by the median."""
    others = [name for name in rounds[0] if name != "ours"]
    return min(others, key=lambda name: statistics.median(each[name][kind] for each in rounds))


def judge(results: Mapping[str, tuple[list[Round], float | None]], kind: str) -> None:
    """A table of medians, `generate` at its fastest. Raises ClickException when a ratio is below what is wanted."""
    missed = []
    click.echo(
        f"\n{'':<8}{'medians, ours to theirs':<56}{'seconds':>16}{'CPU seconds':>18}   times as fast (range), wanted"
    )
    for title, (rounds, wanted) in results.items():
        line, verdict = f"{title:<56}", ""
        ratios: dict[str, list[float]] = {}
        for measure in ("wall", "cpu"):
            best = fastest(rounds, measure)
            ours, theirs = (statistics.median(each[name][measure] for each in rounds) for name in ("ours", best))
            line += f"{ours:8.2f} to {theirs:5.2f}  "
            ratios[measure] = [each[best][measure] / each["ours"][measure] for each in rounds]
        line += f"   {told(ratios['wall'])} by time, {told(ratios['cpu'])} by CPU time"
        if wanted is not None:
            met = statistics.median(ratios[kind]) >= wanted
            line, verdict = f"{line}, {wanted}", "ok" if met else "MISSED"
            missed += [] if met else [title]
        click.echo(f"{verdict:<8}{line}")
    if missed:
        raise click.ClickException(f"below what is wanted: {'; '.join(missed)}")


def told(values: list[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
