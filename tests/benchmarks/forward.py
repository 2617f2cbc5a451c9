"""A forward pass against transformers on PyTorch: `python -m tests.benchmarks.forward --torch-python PYTHON`.

PYTHON is an interpreter with torch and transformers (2.13.0 and 5.23.0 were used), which this project does not depend
on. Both sides load the same random Llama, keep it, and take turns: ours jitted, theirs with scaled dot-product
attention. On a machine that does other things, too, believe CPU time and `--cores 1`: PyTorch's threads wait for each
other. Prints milliseconds, the largest difference of the logits, and the ratio; fails when ours is slower.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np


def serve_torch(directory: Path) -> None:
    """Load the model, then time one pass for every line that comes in."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="sdpa", dtype=torch.float32).eval()
    tokens = torch.from_numpy(np.load(directory / "tokens.npy")).long()

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return model(tokens, use_cache=False).logits.numpy()

    serve(forward, directory / "torch.npy", torch.get_num_threads())


def serve_ours(directory: Path, attention: str, unroll: int) -> None:
    """The same with our decoder."""
    import jax
    from flax import nnx

    from aloe_jax.models.opening import load_pretrained
    from aloe_jax.models.spec import Compute

    model = load_pretrained(directory, compute=Compute(attention=attention, unroll=unroll))  # type: ignore[arg-type]
    graph, state = nnx.split(model)
    tokens = np.load(directory / "tokens.npy")
    step = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))
    threads = len(os.sched_getaffinity(0))
    serve(lambda: np.asarray(step(state, tokens)), directory / "ours.npy", threads)


def serve(forward: Callable[[], np.ndarray], output: Path, threads: int) -> None:
    """Warm up, save the logits, and answer every line on standard input with the seconds of one pass."""
    np.save(output, forward())
    forward()
    print(json.dumps({"threads": threads}), flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        forward()
        print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}), flush=True)


def write(directory: Path, layers: int, width: int, vocab: int, batch: int, length: int) -> None:
    """A random Llama and a batch of tokens."""
    from aloe_jax.models.huggingface import save_pretrained
    from aloe_jax.models.native.decoder import DecoderSpec
    from tests.random_models import random_decoder

    spec = DecoderSpec(
        vocab=vocab, layers=layers, width=width, query_heads=width // 64, kv_heads=max(1, width // 128), head_size=64,
        feed_forward=4 * width, max_length=max(length, 4096),
    )  # fmt: skip
    save_pretrained(random_decoder(spec, 0.05), directory)
    np.save(directory / "tokens.npy", np.random.default_rng(0).integers(0, vocab, (batch, length)).astype(np.int32))


@click.command()
@click.option("--torch-python", required=True, help="An interpreter with torch and transformers.")
@click.option("--layers", default=4, show_default=True)
@click.option("--width", default=512, show_default=True)
@click.option("--vocab", default=32_000, show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--length", default=512, show_default=True)
@click.option("--rounds", default=30, show_default=True)
@click.option("--attention", default="auto", show_default=True)
@click.option("--cores", default=None, type=int, help="How many cores both sides get; default: all.")
@click.option("--unroll", default=1, show_default=True, help="Our layers a scan step.")
def main(
    torch_python: str,
    layers: int,
    width: int,
    vocab: int,
    batch: int,
    length: int,
    rounds: int,
    attention: str,
    cores: int | None,
    unroll: int,
) -> None:
    """Print the medians of both sides and their ratio."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # the processes that are started inherit it
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "model"
        write(directory, layers, width, vocab, batch, length)
        root = Path(__file__).parents[2]
        commands = {
            "ours": [sys.executable, "-m", "tests.benchmarks.forward", "ours", str(directory), attention, str(unroll)],
            "torch": [torch_python, str(Path(__file__)), "torch", str(directory)],
        }
        sides = {
            name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
            for name, command in commands.items()
        }

        def ask(name: str, line: str | None) -> dict[str, float]:
            side = sides[name]
            assert side.stdin is not None and side.stdout is not None
            if line is not None:
                side.stdin.write(line)
                side.stdin.flush()
            answer = side.stdout.readline()
            if not answer:
                raise click.ClickException(f"{name}: ended with {side.wait()}")
            return json.loads(answer)

        threads = {name: ask(name, None)["threads"] for name in sides}
        ours, theirs = (np.load(directory / f"{name}.npy") for name in sides)
        times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, taken in times.items():
                taken.append(ask(name, "\n"))
        for side in sides.values():
            assert side.stdin is not None
            side.stdin.close()
            side.wait()
    ratio = statistics.median(b["wall"] / a["wall"] for a, b in zip(times["ours"], times["torch"], strict=True))
    for name, taken in times.items():
        wall, cpu = (sorted(1e3 * each[kind] for each in taken) for kind in ("wall", "cpu"))
        click.echo(
            f"{name:<5} {statistics.median(wall):7.1f} ms median, {wall[0]:7.1f} least; CPU time "
            f"{statistics.median(cpu):7.1f} ms, {cpu[0]:7.1f} least; {threads[name]} threads"
        )
    click.echo(f"logits differ by {np.abs(ours - theirs).max():.1e} of {np.abs(theirs).max():.1f}")
    click.echo(f"ours is {ratio:.2f} times as fast (median of {rounds} alternating rounds)")
    if ratio < 1:
        raise click.ClickException("slower than transformers")


if __name__ == "__main__":
    if sys.argv[1:2] == ["torch"]:
        serve_torch(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["ours"]:
        serve_ours(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
