"""What a benchmark run adds to its model and its providers: `python -m tests.benchmarks.benchmark_overhead`.

A tiny untrained model talks with simulated users; users and judge answer after a fixed latency, `--concurrency` of each
at once. Time in which the model works or at least one of the providers does is theirs; the rest of the wall time, from
the first line of the run to its files, is overhead: preparing, tokenizing, journaling, statistics, writing. Compiling
is done before. Also printed: what the same work would take one thing after the other, to see how much overlaps.
Fails when the overhead passes 5%.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from aloe_jax import roles
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona
from aloe_jax.llm.scripted import Scripted
from aloe_jax.llm.world.persona_texts import write_personality, write_profile

SHARE = 0.05  # of the wall time, at most


class Busy:
    """When somebody was at work."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[float, float]]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def working(self, who: str) -> Any:
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.spans.setdefault(who, []).append((start, time.perf_counter()))

    def sum(self, who: str) -> float:
        """Seconds of work, summed."""
        return sum(end - start for start, end in self.spans.get(who, []))

    def union(self, *who: str) -> float:
        """Seconds in which at least one of them was at work."""
        total, until = 0.0, 0.0
        for start, end in sorted(span for name in who for span in self.spans.get(name, [])):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total


class Delayed:
    """The simulated players behind a slow line."""

    name = "stand-in"

    def __init__(self, busy: Busy, latency: float, player: str) -> None:
        self._busy, self._latency, self._player, self._scripted = busy, latency, player, Scripted()

    def complete(self, request: Any) -> Any:
        with self._busy.working(self._player):
            time.sleep(self._latency)
            return self._scripted.complete(request)


def write_model(folder: Path, width: int, layers: int) -> None:
    """A random decoder with a tokenizer trained on the world's own personas, and the personas."""
    from aloe_jax.data.tokenizer import train_tokenizer
    from aloe_jax.models.huggingface import save_pretrained
    from aloe_jax.models.native.decoder import DecoderSpec
    from tests.random_models import random_decoder

    draw = random.Random(0)
    people = [Persona(id=f"b{i}", profile=write_profile(draw), personality=write_personality(draw)) for i in range(100)]
    (folder / "personas.jsonl").write_text("".join(person.model_dump_json() + "\n" for person in people))
    tokenizer = train_tokenizer([p.profile + p.personality for p in people], 1200, folder / "tokenizer")
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=layers, width=width, query_heads=8, kv_heads=8, head_size=width // 8,
        feed_forward=3 * width, max_length=1024, tie_embeddings=True, eos_ids=(tokenizer.eos_token_id,),
    )  # fmt: skip
    save_pretrained(random_decoder(spec, 0.1), folder / "model", tokenizer=tokenizer)


def watch(busy: Busy) -> None:
    """Note when the model works: while it is loaded, and while it draws."""
    from aloe_jax.benchmark import candidates
    from aloe_jax.sampling.session import Session

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with busy.working("model"):
                return function(*args, **kwargs)

        return call

    candidates._load_sampler = timed(candidates._load_sampler)  # type: ignore[assignment]
    Session.replies = timed(Session.replies)  # type: ignore[method-assign]


@click.command()
@click.option("--cases", default=100, show_default=True)
@click.option("--turns", default=10, show_default=True)
@click.option("--latency", default=0.3, show_default=True, help="Seconds of every call.")
@click.option("--concurrency", default=16, show_default=True)
@click.option("--width", default=128, show_default=True)
@click.option("--layers", default=2, show_default=True)
def main(cases: int, turns: int, latency: float, concurrency: int, width: int, layers: int) -> None:
    """Run the benchmark and print where the time went; exit with 1 when too much of it is overhead."""
    from aloe_jax.benchmark.results import write_results
    from aloe_jax.benchmark.stages import evaluate
    from aloe_jax.report.gathering import gather
    from aloe_jax.report.page import write_page

    busy = Busy()
    roles.language_model = lambda role, name, on_fault: Delayed(busy, latency, name)  # type: ignore[assignment]
    watch(busy)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_model(folder, width, layers)

        def run(output: str, **changes: Any) -> tuple[float, float]:
            settings = EvaluateSettings.model_validate(
                {
                    "output": str(folder / output),
                    "personas": str(folder / "personas.jsonl"),
                    "models": {"model": {"path": str(folder / "model")}},
                    "cases": cases,
                    "turns": turns,
                    "concurrency": concurrency,
                    "sampling": {"max_new_tokens": 40, "max_length": 1024, "rows": 128},
                    "roles": {"provider": "openai", "model": "stand-in"},
                }
                | changes
            )
            start, cpu = time.perf_counter(), time.process_time()
            scored = evaluate(settings)
            write_results(settings.output, scored.results)
            write_page(gather([settings.output]), f"{settings.output}/report.html")
            return time.perf_counter() - start, time.process_time() - cpu

        run("compiled", judging={"calibrate": "skip"})
        busy.spans.clear()
        wall, cpu = run("measured", judging={"calibrate": "skip"})
    theirs = busy.union("model", "user", "judge")
    calls = sum(len(busy.spans[name]) for name in ("user", "judge"))
    alone = busy.sum("model") + (busy.sum("user") + busy.sum("judge")) / concurrency
    share = 1 - theirs / wall
    click.echo(
        f"{cases} cases, {turns} turns, {calls:,} calls of {latency} s, {concurrency} to users and as many to judges\n"
        f"wall       {wall:6.2f} s  ({cpu:.1f} s of CPU, the model's included)\n"
        f"model      {busy.sum('model'):6.2f} s  in {len(busy.spans['model'])} pieces\n"
        f"users      {busy.union('user'):6.2f} s  in which at least one was asked\n"
        f"judge      {busy.union('judge'):6.2f} s\n"
        f"in a row   {alone:6.2f} s  model, then users, then judge, {concurrency} calls at once\n"
        f"overhead   {wall - theirs:6.2f} s  {share:.1%} of the wall time"
    )
    if share > SHARE:
        click.echo(f"SHORT: more than {SHARE:.0%}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
