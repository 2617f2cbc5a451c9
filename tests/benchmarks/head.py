"""The head's log-probabilities against whole logits: `python -m tests.benchmarks.head`.

Both sides compute the loss and the gradients to hidden states and unembedding, ours in pieces of the vocabulary, the
other side through the logits of all tokens with JAX's own derivative. They take turns in one process. Prints time and
temporary memory (without the gradients themselves) as parts of the other side's time and of what all logits take;
fails above 1.15 and 1/8. CPU seconds decide: on a busy machine they say more than the clock.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import click
import jax
import jax.numpy as jnp

from aloe_jax.training.head import token_logps

TIME, MEMORY = 1.15, 1 / 8


def whole(hidden: jax.Array, unembedding: jax.Array, labels: jax.Array) -> jax.Array:
    """Through the logits of all tokens."""
    logits = jnp.matmul(hidden, unembedding, preferred_element_type=jnp.float32)
    return jnp.take_along_axis(logits, labels[..., None], -1)[..., 0] - jax.nn.logsumexp(logits, axis=-1)


def difference(found: Any, expected: Any) -> float:
    """The largest relative difference of value and gradients, by norm."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in pairs)


@click.command()
@click.option("--tokens", default=8192, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--vocab", default=(8192, 32_000), multiple=True, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(tokens: int, width: int, vocab: tuple[int, ...], rounds: int) -> None:
    """Print time and memory of both sides for every vocabulary."""
    missed = False
    for size in vocab:
        keys = jax.random.split(jax.random.key(0), 4)
        labels = jax.random.randint(keys[2], (1, tokens), 0, size)
        weight = jax.random.normal(keys[3], (1, tokens))
        inputs = (jax.random.normal(keys[0], (1, tokens, width)), 0.05 * jax.random.normal(keys[1], (width, size)))

        def compiled(
            logps_of: Any, inputs: Any = inputs, labels: jax.Array = labels, weight: jax.Array = weight
        ) -> Any:
            def loss(hidden: jax.Array, unembedding: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
                return (weight * logps_of(hidden, unembedding, labels)).sum()

            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*inputs, labels, weight).compile()

        sides = {"whole": compiled(whole), "pieces": compiled(token_logps)}
        made = {name: jax.block_until_ready(side(*inputs, labels, weight)) for name, side in sides.items()}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                start, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(side(*inputs, labels, weight))
                taken[name].append((time.perf_counter() - start, time.process_time() - cpu))
        logits = 4 * tokens * size
        for name, side in sides.items():
            wall, cpu = (1e3 * statistics.median(each) for each in zip(*taken[name], strict=True))
            memory = side.memory_analysis().temp_size_in_bytes
            click.echo(
                f"vocabulary {size:,} {name:<6} {wall:7.0f} ms, {cpu:7.0f} ms CPU; temporary memory "
                f"{memory / 2**20:6.0f} MiB, {memory / logits:.3f} of all logits"
            )
        wall, cpu = (
            statistics.median(b[kind] / a[kind] for a, b in zip(taken["whole"], taken["pieces"], strict=True))
            for kind in (0, 1)
        )
        click.echo(
            f"vocabulary {size:,}: pieces take {wall:.2f} of the time, {cpu:.2f} of the CPU time (medians of {rounds} "
            f"rounds); they differ by {difference(made['pieces'], made['whole']):.0e}"
        )
        missed |= cpu > TIME or sides["pieces"].memory_analysis().temp_size_in_bytes > MEMORY * logits
    if missed:
        raise click.ClickException(f"wanted at most {TIME} of the time and {MEMORY} of the memory")


if __name__ == "__main__":
    main()
