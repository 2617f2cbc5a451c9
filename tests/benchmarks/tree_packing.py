"""Tree-packed DPO against the same pairs as padded separate sequences: `python -m tests.benchmarks.tree_packing`.

Both sides use the same decoder, the same weights and the same pairs, with reference log-probs given; a step is
loss and gradients. They take turns in one process, and the ratio is the median over rounds. It also checks that the
two losses agree, and every gradient to 1e-5 relative.
"""

from __future__ import annotations

import resource
import statistics
import time

import click
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import pack
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.models import Compute, ModelSpec
from aloe_jax.training.logprobs import reply_logps
from aloe_jax.training.objectives import dpo_loss, gather_pairs
from tests.random_models import random_decoder

USER, REPLY = 40, 60  # tokens of an average user message and reply


def draw_tree(random: np.random.Generator, turns: int, vocab: int, name: str) -> TokenTree:
    """A caterpillar of `turns` turns with lengths around those of real conversations."""
    nodes: list[Node] = []
    pairs: list[Pair] = []
    parent = -1

    def text(length: int) -> tuple[int, ...]:
        return tuple(random.integers(1, vocab, max(2, round(length * random.uniform(0.7, 1.3)))).tolist())

    for turn in range(turns):
        nodes.append(Node(parent, text(USER), turn=turn))
        prompt = len(nodes) - 1
        for side in ("preferred", "rejected"):
            tokens = text(REPLY)
            nodes.append(Node(prompt, tokens, len(tokens), turn, f"{name}/{turn}/{side}"))
        pairs.append(Pair(turn, prompt + 1, prompt + 2))
        parent = prompt + 2
    return TokenTree(name, tuple(nodes), tuple(pairs))


def chain(tree: TokenTree, node: int) -> TokenTree:
    """One reply with its whole prompt, as a sequence of its own."""
    path, at = [], tree.nodes[node].parent
    while at >= 0:
        path = [*tree.nodes[at].tokens, *path]
        at = tree.nodes[at].parent
    reply = tree.nodes[node]
    return TokenTree(reply.id, (Node(-1, tuple(path)), Node(0, reply.tokens, reply.scored, id=reply.id)), ())


def scored_tokens(tree: TokenTree) -> int:
    """How many of its tokens count for a reply."""
    return sum(node.scored for node in tree.nodes)


def round_up(length: int, multiple: int = 64) -> int:
    """The next multiple: the padding of a row."""
    return -(-length // multiple) * multiple


@click.command()
@click.option("--turns", default=10, show_default=True)
@click.option("--trees", default=3, show_default=True, help="Trees a round; each is one step of either side.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--layers", default=4, show_default=True)
@click.option("--vocab", default=8192, show_default=True)
def main(turns: int, trees: int, rounds: int, width: int, layers: int, vocab: int) -> None:
    """Print pairs per second of both sides and their ratio."""
    spec = ModelSpec(
        vocab=vocab, layers=layers, width=width, query_heads=4, kv_heads=2, head_size=width // 4,
        feed_forward=4 * width, max_length=8192,
    )  # fmt: skip
    model = random_decoder(spec, 0.02, compute=Compute(unroll=layers))
    graph, state = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(state)
    random = np.random.default_rng(0)
    made = [draw_tree(random, turns, vocab, f"t{i}") for i in range(trees)]
    tree_length = round_up(max(tree.length for tree in made))
    chains = [[chain(tree, node) for pair in tree.pairs for node in (pair.preferred, pair.rejected)] for tree in made]
    pad_length = round_up(max(one.length for each in chains for one in each))

    def tree_loss(params, batch, reference):
        logps = gather_pairs(reply_logps(nnx.merge(graph, params), batch), batch["pairs"])
        return dpo_loss(logps, reference, 0.1)[0]

    def padded_loss(params, batch, reference):
        logps = reply_logps(nnx.merge(graph, params), batch)[:, 1]  # one reply a row
        return dpo_loss(logps.reshape(1, -1, 2), reference, 0.1)[0]

    def batch_of(parts: list[TokenTree], length: int) -> dict[str, np.ndarray]:
        # One tree a row and in the given order: packing would sort by length. As many scored tokens as any tree has, so
        # that every step has one shape.
        rows = [pack([part], length)[0] for part in parts]
        batch = {name: np.concatenate([getattr(row, name) for row in rows]) for name in FIELDS if name != "scored"}
        most = max(scored_tokens(tree) for tree in made) if len(parts) == 1 else max(map(scored_tokens, parts))
        scored = np.zeros((len(rows), round_up(most)), np.int32)
        for place, row in zip(scored, rows, strict=True):
            place[: row.scored.shape[1]] = row.scored[0, : len(place)]
        return batch | {"scored": scored}

    reference = [np.random.default_rng(i).normal(-300, 3, (1, turns, 2)).astype(np.float32) for i in range(trees)]
    sides = {
        "tree": (jax.jit(jax.value_and_grad(tree_loss)), [batch_of([tree], tree_length) for tree in made]),
        "padded": (jax.jit(jax.value_and_grad(padded_loss)), [batch_of(each, pad_length) for each in chains]),
    }
    click.echo(
        f"{turns} turns, width {width}, {layers} layers, vocabulary {vocab}, float32, {jax.devices()[0].device_kind}; "
        f"a tree: {np.mean([t.length for t in made]):.0f} tokens in a row of {tree_length}; "
        f"as pairs: {np.mean([sum(one.length for one in each) for each in chains]):.0f} tokens in "
        f"{2 * turns} rows of {pad_length}"
    )

    results = {}
    for name, (step, batches) in sides.items():
        start = time.perf_counter()
        results[name] = jax.block_until_ready(step(params, batches[0], reference[0]))
        click.echo(f"{name}: compiled and first step in {time.perf_counter() - start:.1f} s")
    (loss, gradients), (other, others) = results["tree"], results["padded"]
    worst = max(jax.tree.leaves(jax.tree.map(_relative, gradients, others)))
    click.echo(f"loss {float(loss):.6f} and {float(other):.6f}; largest relative gradient difference {worst:.1e}")
    if not (np.isclose(loss, other, rtol=1e-5) and worst < 1e-5):
        raise click.ClickException("tree and pairs disagree")

    speed: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, (step, batches) in sides.items():
            start, cpu = time.perf_counter(), time.process_time()
            for batch, given in zip(batches, reference, strict=True):
                jax.block_until_ready(step(params, batch, given))
            speed[name].append(trees * turns / (time.perf_counter() - start))
            used = (time.process_time() - cpu) / (trees * turns)
            click.echo(f"round {number + 1} {name:<6} {speed[name][-1]:6.2f} pairs/s, {used:.3f} CPU-s a pair")
    ratios = [tree / padded for tree, padded in zip(speed["tree"], speed["padded"], strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    click.echo(
        f"medians: tree {statistics.median(speed['tree']):.2f}, "
        f"padded {statistics.median(speed['padded']):.2f} pairs/s; "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); peak memory {peak:.1f} GiB"
    )


@jax.jit
def _relative(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.linalg.norm(left - right) / jnp.maximum(jnp.linalg.norm(right), 1e-12)


if __name__ == "__main__":
    main()
