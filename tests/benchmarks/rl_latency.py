"""How much of the calls' time an RL step hides behind its own work: `python -m tests.benchmarks.rl_latency`.

A tiny untrained policy talks with simulated users, and a simulated judge rates its replies; both answer after
`--latency` seconds, `--concurrency` of each at once. A step can be no faster than the longer of two times: that of its
calls at this concurrency, and that in which the devices draw and train. Printed is its wall time as a ratio to that,
compiling excluded; fails above 1.15.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import click

from aloe_jax import roles
from tests.benchmarks.benchmark_overhead import Busy, Delayed, write_model

MOST = 1.15  # times the longer of the two
DEVICES = ("generating", "training")


@click.command()
@click.option("--conversations", default=16, show_default=True)
@click.option("--turns", default=10, show_default=True)
@click.option("--group", default=4, show_default=True)
@click.option("--latency", default=0.5, show_default=True, help="Seconds of every call.")
@click.option("--concurrency", default=16, show_default=True, help="Calls to users, and as many to judges, at once.")
@click.option("--width", default=128, show_default=True)
@click.option("--layers", default=2, show_default=True)
@click.option("--steps", default=4, show_default=True, help="The first, which compiles, is not counted.")
def main(
    conversations: int, turns: int, group: int, latency: float, concurrency: int, width: int, layers: int, steps: int
) -> None:
    """Train for a few steps and print where their time went; exit with 1 above the bound."""
    from aloe_jax.training.run import train
    from aloe_jax.training.settings import TrainSettings
    from aloe_jax.training.step_clock import StepClock, StepTime

    busy = Busy()
    asked: dict[str, int] = {"user": 0, "judge": 0}
    lock = threading.Lock()

    class Counted(Delayed):
        def complete(self, request: object) -> object:
            with lock:
                asked[self._player] += 1
            return super().complete(request)

    read = StepClock.read
    steps_timed: list[Mapping[str, float]] = []

    def noted(clock: StepClock, step: int) -> StepTime | None:
        found = read(clock, step)
        if found is not None and step > 1:
            steps_timed.append(found.seconds)
        return found

    StepClock.read = noted  # type: ignore[method-assign]
    roles.language_model = lambda role, name, on_fault: Counted(busy, latency, name)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_model(folder, width, layers)
        settings = {
            "stage": "rl",
            "output": str(folder / "run"),
            "steps": steps,
            "log_every": 1,
            "evaluate_every": steps,
            "checkpoints": {"every": steps},
            "model": {"path": str(folder / "model")},
            "data": {"row_length": 1024, "rows": conversations},
            "rl": {
                "personas": str(folder / "personas.jsonl"),
                "heldout": 0,
                "conversations": conversations,
                "turns": turns,
                "group": group,
                "concurrency": concurrency,
                "draw": {"max_new_tokens": 16, "rows": conversations * group},
            },
            "roles": {"provider": "openai", "model": "stand-in"},
        }
        train(TrainSettings.model_validate(settings))
    wall = median(sum(seconds.values()) for seconds in steps_timed)
    devices = median(sum(seconds.get(name, 0.0) for name in DEVICES) for seconds in steps_timed)
    calls = max(asked.values()) / steps * latency / concurrency  # users and judges are asked side by side
    ratio = wall / max(calls, devices)
    click.echo(
        f"{conversations} conversations, {turns} turns, {group} replies to each message; {latency} s a call, "
        f"{concurrency} calls to users and as many to judges at once\n"
        f"calls      {sum(asked.values()) / steps:8,.0f}    a step\n"
        f"calls      {calls:8.2f} s  at this concurrency\n"
        f"devices    {devices:8.2f} s  drawing and training\n"
        f"wall       {wall:8.2f} s  {ratio:.2f} times the longer of the two"
    )
    if ratio > MOST:
        click.echo(f"SHORT: more than {MOST}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
