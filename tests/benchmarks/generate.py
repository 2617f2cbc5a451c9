"""Our sampler against transformers' `generate` on PyTorch: `python -m tests.benchmarks.generate`.

Both sides load the same random Llama, stay in a process each, and take turns; transformers runs in the environment of
pinned packages under .bench/ that is made on first use. Greedy replies of a fixed number of tokens, so both do the same
work; how many of the tokens are equal is told, too. A ratio is taken within every round, its median is quoted, and the
run fails when one is below what is wanted. `generate` is measured with its dynamic and its static cache, and the
faster one counts. Wall time decides on a quiet machine; on one that is not, see the CPU seconds with `--cores 1`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from tests.benchmarks.peers.worker import Meter, serve

ROWS, HISTORY, REPLY, USER, TURNS, LONG = 16, 512, 64, 40, 10, 2048  # conversations; the others in tokens or turns
VOCAB, LENGTH = 8192, 4096
CACHES = ("dynamic", "static")
WANTED = {  # how many times as fast as `generate` we want to be
    "one reply": 1.2,
    "its decode steps": 1.5,
    "ten turns, their cache carried over": 1.3,
    "ten turns, theirs re-prefilled": 2.0,
    f"one reply at {LONG:,} tokens, theirs re-prefilled": 5.0,
}


def conversations(tokens: int, seed: int = 0) -> np.ndarray:
    """Random ids [ROWS, tokens]."""
    return np.random.default_rng(seed).integers(0, VOCAB, (ROWS, tokens))


def measured(function: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, CPU seconds and the tokens that it made."""
    meter = Meter()
    tokens = function()
    return meter.read() | {"tokens": np.asarray(tokens).tolist()}


# ---------------------------------------------------------------- the sides, in processes of their own


def serve_ours(directory: str) -> None:
    """Our side."""
    from aloe_jax.models import load_pretrained
    from aloe_jax.sampling import Sampler

    sampler = Sampler(load_pretrained(directory), max_length=LENGTH, rows=ROWS)

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        prompts = conversations(request["history"]).tolist()
        return measured(lambda: sampler.generate(prompts, request["new"], stop=()))

    def turns(_: dict[str, Any]) -> dict[str, Any]:
        def run() -> list[list[int]]:
            session = sampler.session(ROWS, TURNS * (USER + REPLY))
            made: list[list[int]] = [[] for _ in range(ROWS)]
            for turn in range(TURNS):
                session.extend(conversations(USER, turn).tolist())
                for number, tokens in enumerate(session.reply(REPLY, stop=())):
                    made[number] += tokens
            return made

        return measured(run)

    def long(_: dict[str, Any]) -> dict[str, Any]:
        session = sampler.session(ROWS, LONG + USER + REPLY)
        tokens = conversations(LONG + USER).tolist()
        session.extend([row[:LONG] for row in tokens])
        session.reply(1, stop=())  # so that the history has been read
        for number, row in enumerate(tokens):
            session.replace(number, row)
        return measured(lambda: session.reply(REPLY, stop=()))

    serve({"reply": reply, "turns": turns, "long": long})


def serve_torch(directory: str) -> None:
    """The side of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache, StaticCache, logging

    logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="sdpa", dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def generate(tokens: Any, new: int, cache: str, kept: Any = None) -> Any:
        how = {"past_key_values": kept} if kept is not None else {"cache_implementation": cache}
        with torch.inference_mode():
            return model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                pad_token_id=0, **how,
            )  # fmt: skip

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        prompts = torch.from_numpy(conversations(request["history"]))
        return measured(lambda: generate(prompts, request["new"], request["cache"])[:, request["history"] :])

    def turns(request: dict[str, Any]) -> dict[str, Any]:
        def run() -> Any:
            kept = None
            if request["carried"]:
                static = {"config": model.config, "max_cache_len": TURNS * (USER + REPLY)}
                kept = DynamicCache() if request["cache"] == "dynamic" else StaticCache(**static)
            tokens, made = torch.zeros((ROWS, 0), dtype=torch.long), []
            for turn in range(TURNS):
                tokens = torch.cat([tokens, torch.from_numpy(conversations(USER, turn))], dim=1)
                tokens = generate(tokens, REPLY, request["cache"], kept)
                made.append(tokens[:, -REPLY:])
            return torch.cat(made, dim=1)

        return measured(run)

    def long(request: dict[str, Any]) -> dict[str, Any]:
        return reply({"history": LONG + USER, "new": REPLY, "cache": request["cache"]})

    serve({"reply": reply, "turns": turns, "long": long})


class Side:
    """A process that answers requests."""

    def __init__(self, command: list[str]):
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Raises ClickException with what went wrong there."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what} | details) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with status {self._process.wait()}"}
        if "error" in answer:
            raise click.ClickException(f"{what} {details}: {answer['error']}")
        return answer

    def end(self) -> None:
        """Stop the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# ---------------------------------------------------------------- the comparison


@contextmanager
def both(layers: int, width: int) -> Iterator[tuple[Side, Side]]:
    """Our side and theirs, with the same model."""
    from aloe_jax.models import ModelSpec, save_pretrained
    from tests.benchmarks.peers.environments import TRL
    from tests.random_models import random_decoder

    python = str(TRL.python())
    spec = ModelSpec(
        vocab=VOCAB, layers=layers, width=width, query_heads=4, kv_heads=2, head_size=width // 4,
        feed_forward=4 * width, max_length=LENGTH,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        save_pretrained(random_decoder(spec, 0.05), temporary)
        sides = [
            Side([interpreter, "-m", "tests.benchmarks.generate", name, temporary])
            for name, interpreter in (("ours", sys.executable), ("torch", python))
        ]
        try:
            yield sides[0], sides[1]
        finally:
            for side in sides:
                side.end()


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Of one reply; the longer parts get half as many.")
@click.option("--width", default=256, show_default=True)
@click.option("--layers", default=4, show_default=True)
@click.option("--cores", default=None, type=int, help="How many cores both sides get; default: all.")
@click.option("--busy", is_flag=True, help="Measure though the machine does other things, too.")
def main(rounds: int, width: int, layers: int, cores: int | None, busy: bool) -> None:
    """Print seconds, CPU seconds and ratios of every part."""
    from tests.benchmarks.peers.contest import check_quiet

    check_quiet(busy)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # the processes that are started inherit it
    click.echo(
        f"{ROWS} conversations, {layers} layers, width {width}, vocabulary {VOCAB:,}, float32, "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    few = max(2, rounds // 2)
    parts: list[tuple[str, int, dict[str, Any], dict[str, dict[str, Any]]]] = [
        (
            f"one reply of {REPLY} tokens at {HISTORY} of history", rounds,
            {"do": "reply", "history": HISTORY, "new": REPLY},
            {cache: {"do": "reply", "history": HISTORY, "new": REPLY, "cache": cache} for cache in CACHES},
        ),
        (
            "the same with one token", rounds,
            {"do": "reply", "history": HISTORY, "new": 1},
            {cache: {"do": "reply", "history": HISTORY, "new": 1, "cache": cache} for cache in CACHES},
        ),
        (
            f"{TURNS} turns of {USER} + {REPLY} tokens, their cache carried over", few,
            {"do": "turns"},
            {cache: {"do": "turns", "cache": cache, "carried": True} for cache in CACHES},
        ),
        (
            f"{TURNS} turns of {USER} + {REPLY} tokens, theirs re-prefilled", few,
            {"do": "turns"},
            {cache: {"do": "turns", "cache": cache, "carried": False} for cache in CACHES},
        ),
        (
            f"one reply at {LONG:,} tokens of history, theirs re-prefilled", few,
            {"do": "long"},
            {cache: {"do": "long", "cache": cache} for cache in CACHES},
        ),
    ]  # fmt: skip
    records = []
    with both(layers, width) as (ours, theirs):
        for title, count, own, others in parts:
            click.echo(f"\n{title}")
            contestants = {"ours": (ours, own)} | {f"generate, {c}": (theirs, other) for c, other in others.items()}
            records.append(compete(contestants, count))
    one, first, carried, anew, long = (ratios(record) for record in records)
    steps = ratios([decode_part(*pair) for pair in zip(records[0], records[1], strict=True)])
    found = dict(zip(WANTED, (one, steps, carried, anew, long), strict=True))
    click.echo(f"\nfirst tokens alone (prefill): {told(first)}")
    missed = []
    for what, wanted in WANTED.items():
        met = statistics.median(found[what]) >= wanted
        click.echo(f"{'ok    ' if met else 'MISSED'} {what}: {told(found[what])}, wanted {wanted}")
        missed += [] if met else [what]
    if missed:
        raise click.ClickException(f"below what is wanted: {', '.join(missed)}")


Round = dict[str, dict[str, Any]]


def compete(contestants: dict[str, tuple[Side, dict[str, Any]]], rounds: int) -> list[Round]:
    """Every contestant once to warm up and compile, then in turns, in one order and then in the other."""
    for name, (side, request) in contestants.items():
        made = side.ask(**_named(request))
        click.echo(f"  {name:<18} first call {made['wall']:6.1f} s")
        if name == "ours":
            expected = np.array(made["tokens"])
        else:
            click.echo(f"  {'':<18} {np.mean(np.array(made['tokens']) == expected):.1%} of the tokens as ours")
    results: list[Round] = []
    for number in range(rounds):
        order = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        made = {name: contestants[name][0].ask(**_named(contestants[name][1])) for name in order}
        for name in contestants:
            count = np.array(made[name].pop("tokens")).size
            record = made[name]
            click.echo(
                f"  round {number + 1} {name:<18} {record['wall']:7.3f} s {count / record['wall']:8.1f} tokens/s, "
                f"{record['cpu']:7.3f} CPU-s"
            )
        results.append(made)
    return results


def _named(request: dict[str, Any]) -> dict[str, Any]:
    return {"what" if key == "do" else key: value for key, value in request.items()}


def decode_part(whole: Round, first: Round) -> Round:
    """What the tokens after the first one took."""
    return {name: {kind: whole[name][kind] - first[name][kind] for kind in ("wall", "cpu")} for name in whole}


def ratios(rounds: list[Round], kind: str = "wall") -> list[float]:
    """How many times as fast as the faster of the others we are, round by round."""
    others = [name for name in rounds[0] if name != "ours"]
    best = min(others, key=lambda name: statistics.median(each[name][kind] for each in rounds))
    return [each[best][kind] / each["ours"][kind] for each in rounds]


def told(values: list[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(values):.2f} times as fast ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        serve_ours(sys.argv[2])
    elif sys.argv[1:2] == ["torch"]:
        serve_torch(sys.argv[2])
    else:
        main()
