"""Loading a checkpoint against safetensors' own NumPy loader: `python -m tests.benchmarks.load_checkpoint`.

Writes a random Llama of a billion parameters to a temporary directory (4 GB), then lets processes of their own take
turns: one calls `load_pretrained`, the other `safetensors.numpy.load_file` on the same shards, cast where the types
differ. Both find the files in the page cache. Prints seconds and peak memory, and fails when ours passes 1.35 times
the bytes of the parameters or falls below 0.8 times the other's speed. The other leaves matrices as they are stored;
ours are turned and checked for NaN.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

MEMORY, SPEED = 1.35, 0.8  # what is allowed


def write(path: Path, layers: int, stored: str) -> None:
    """A Llama of `layers` layers, 61 million parameters each, and 131 million of embeddings."""
    import jax.numpy as jnp
    import numpy as np
    from safetensors.numpy import save_file

    from aloe_jax.models.huggingface import write_json
    from aloe_jax.models.native.decoder import DecoderSpec
    from aloe_jax.models.native.tensors import stored_keys
    from aloe_jax.models.tensor_files import INDEX

    spec = DecoderSpec(
        vocab=32_000, layers=layers, width=2048, query_heads=32, kv_heads=8, head_size=64, feed_forward=8192,
        max_length=4096,
    )  # fmt: skip
    random = np.random.default_rng(0)
    places = {}
    path.mkdir(parents=True)
    for number, (name, weight) in enumerate(spec.weights().items()):
        file = f"model-{number + 1:05d}.safetensors"
        held = {
            key: random.standard_normal(shape, np.float32).astype(jnp.dtype(stored))
            for key, shape in stored_keys(name, weight, spec.family)
        }
        save_file(held, path / file)
        places |= dict.fromkeys(held, file)
    write_json(path / INDEX, {"weight_map": places})
    write_json(path / "config.json", spec.to_huggingface())


def load(side: str, path: Path, dtype: str) -> None:
    """Load once and print seconds, peak bytes of this process, and bytes of what was loaded."""
    if side == "ours":
        import jax
        from flax import nnx

        from aloe_jax.models.opening import load_pretrained

        jax.devices()
        start = time.perf_counter()
        model = load_pretrained(path, dtype=dtype)
        leaves = jax.block_until_ready(jax.tree.leaves(nnx.state(model, nnx.Param)))
    else:
        import ml_dtypes  # makes bfloat16 known to NumPy
        import numpy as np
        from safetensors.numpy import load_file

        start = time.perf_counter()
        wanted = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        files = sorted(path.glob("*.safetensors"))
        leaves = [tensor.astype(wanted, copy=False) for file in files for tensor in load_file(file).values()]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    click.echo(json.dumps({"seconds": seconds, "peak": peak, "bytes": sum(leaf.nbytes for leaf in leaves)}))


def run(*arguments: str) -> str:
    """This file in a process of its own; what it printed."""
    command = [sys.executable, "-m", "tests.benchmarks.load_checkpoint", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@click.command()
@click.option("--layers", default=15, show_default=True)
@click.option("--stored", default="float32", show_default=True, help="Type of the tensors in the files.")
@click.option("--dtype", default="float32", show_default=True, help="Type of the loaded parameters.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--directory", default=None, help="Where to write the checkpoint; default: the system's place.")
@click.option("--part", default=None, hidden=True)
@click.argument("path", required=False)
def main(
    layers: int, stored: str, dtype: str, rounds: int, directory: str | None, part: str | None, path: str | None
) -> None:
    """Print both sides' seconds and memory, and their ratios."""
    if part is not None and path is not None:
        write(Path(path), layers, stored) if part == "write" else load(part, Path(path), dtype)
        return
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        model = str(Path(temporary) / "model")
        run("--part", "write", "--layers", str(layers), "--stored", stored, model)
        seconds: dict[str, list[float]] = {"ours": [], "safetensors": []}
        peaks = []
        run("--part", "safetensors", model)  # fills the page cache
        for number in range(rounds):
            for side, times in seconds.items():
                found = json.loads(run("--part", side, "--dtype", dtype, model))
                times.append(found["seconds"])
                click.echo(
                    f"round {number + 1} {side:<11} {found['seconds']:5.2f} s, peak {found['peak'] / 1e9:.2f} GB "
                    f"for {found['bytes'] / 1e9:.2f} GB loaded"
                )
                if side == "ours":
                    peaks.append(found["peak"] / found["bytes"])
    speed = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["safetensors"], strict=True))
    click.echo(f"memory {max(peaks):.2f} x the parameters, speed {speed:.2f} x safetensors'")
    if max(peaks) > MEMORY or speed < SPEED:
        raise click.ClickException(f"allowed: memory up to {MEMORY}, speed from {SPEED}")


if __name__ == "__main__":
    main()
