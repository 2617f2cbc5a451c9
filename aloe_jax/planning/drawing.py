"""What drawing the replies of a step of on-policy training takes at least: lower bounds of time, by formulas.

Nothing here is compiled. Counted is what must be computed and moved: every decoded token reads the layers' weights and
the head once for all rows, and the keys and values of each row, those of a group's prompt once for its siblings; every
token of a prompt is prefilled once, where a conversation keeps its row. The replies to as many conversations as have a
row are drawn in one call, in which those that have ended wait for the longest. What `rl.lookahead` and `rl.branches`
draw comes on top.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from aloe_jax.data.trees import TokenTree
from aloe_jax.models.spec import ModelSpec
from aloe_jax.parallel.chips import Slice
from aloe_jax.parallel.device_bytes import bytes_on_a_device
from aloe_jax.parallel.mesh import RULES
from aloe_jax.planning.demand import AnyMesh, Demand, Transfer, exchange, summed
from aloe_jax.planning.roofline import Geometry, Roofline, roofline
from aloe_jax.sampling.cache import PAGE
from aloe_jax.sampling.shapes import cache_shapes, layer_shapes, rows_read
from aloe_jax.training.memory import whole_sizes
from aloe_jax.training.rollout_memory import cache_type, sessions
from aloe_jax.training.settings import TrainSettings


@dataclass(frozen=True)
class DrawnTokens:
    """The tokens of a step of conversations, in waves that draw `rows` replies together."""

    rows: int
    tokens: int  # drawn
    steps: int  # of decoding, a token of every row each, at least: over all turns and waves
    calls: int  # of decoding, each of the groups of as many conversations as have a row
    read: int  # tokens prefilled, at least
    seen: int  # keys that drawn tokens attend to, summed over them
    fetched: float  # of these, how many are read at least, where siblings read what they share together
    seen_reading: int  # the same of tokens prefilled

    @classmethod
    def of(cls, trees: Sequence[TokenTree], waves: int, rows: int, siblings: int) -> DrawnTokens:
        """Of the conversations of one step, as trees whose scored nodes are replies.

        A session, one a wave, has `rows` rows, each a conversation to which `siblings` replies are drawn together.
        """
        size = -(-len(trees) // waves)
        tokens = steps = calls = read = seen = reading = 0
        fetched = 0.0
        for start in range(0, len(trees), size):
            by_turn: dict[int, list[int]] = defaultdict(list)
            groups: Counter[int] = Counter()  # by turn
            for tree in trees[start : start + size]:
                ends: list[int] = []  # of nodes, along their paths
                replies = Counter(node.parent for node in tree.nodes if node.scored)
                groups.update(turn for turn, _ in {(node.turn, node.parent) for node in tree.nodes if node.scored})
                for node in tree.nodes:
                    before = 0 if node.parent < 0 else ends[node.parent]
                    length = len(node.tokens)
                    ends.append(before + length)
                    keys = length * before + length * (length + 1) // 2
                    if node.scored:
                        by_turn[node.turn].append(length)
                        seen += keys
                        fetched += length * before / replies[node.parent] + length * (length + 1) / 2
                    else:
                        read, reading = read + length, reading + keys
            for turn, lengths in by_turn.items():
                # No schedule ends before its longest reply, nor before its rows have drawn all tokens.
                least = max(*lengths, -(-sum(lengths) // (rows * siblings)))
                tokens, steps, calls = tokens + sum(lengths), steps + least, calls + -(-groups[turn] // rows)
        return cls(rows * siblings, tokens, steps, calls, read, seen, fetched, reading)


@dataclass(frozen=True)
class DrawingBounds:
    """The shortest times of drawing in one step; see Roofline."""

    work: DrawnTokens
    decode: Roofline
    prefill: Roofline

    @property
    def seconds(self) -> float:
        """At least."""
        return self.decode.bound + self.prefill.bound

    @property
    def serial(self) -> float:
        """If exchanges run alone."""
        return self.decode.serial + self.prefill.serial


def drawing(
    settings: TrainSettings, spec: ModelSpec, mesh: AnyMesh, where: Slice, trees: Sequence[TokenTree]
) -> DrawingBounds:
    """The bounds of drawing these conversations with the sampler of a run; `settings` are resolved."""
    options, sizes = settings.model, sessions(settings, mesh)
    work = DrawnTokens.of(trees, sizes.count, sizes.rows, sizes.siblings)
    width = jnp.dtype(options.compute_dtype).itemsize
    shards = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    whole, stacked = whole_sizes(spec, mesh), spec.stacked()
    layers = bytes_on_a_device(layer_shapes(spec, options.dtype, options.compute_dtype, options.lora, mesh))
    head = width * spec.vocab * spec.width  # whole on every chip: see gathered_for_drawing
    key = bytes_on_a_device(cache_shapes(spec, shards, PAGE, cache_type(settings), mesh)) / (3 * PAGE)  # of a token
    dtype = {"bfloat16": "bf16", "float32": "f32"}[options.compute_dtype]
    inside = width * sum(size for name, size in whole.items() if name in stacked)
    products = 2 * spec.computed_matrices()
    scores = 4 * spec.query_heads * spec.head_size * spec.layers

    def sums(tokens: float) -> Transfer:
        """Two sums over tensor in every layer, of so many tokens of a shard."""
        return exchange("all-reduce", ["tensor"], dtype, 2 * spec.layers * tokens * spec.width * width, mesh)

    def bounds(flops: float, traffic: float, exchanges: Sequence[Transfer]) -> Roofline:
        demand = Demand("estimated", 0, 0, traffic, summed(exchanges))
        return roofline(flops, demand, where, Geometry(where, mesh))

    computed = work.steps * sizes.replies  # tokens, those of rows that have ended included
    decode = bounds(
        (products + 2 * spec.vocab * spec.width) * computed + scores * work.seen,
        work.steps * (layers + head) + key * work.fetched / shards,
        # The compiler brings parts of layers and head together ahead of the loop over tokens, once a call.
        [
            sums(computed / shards),
            exchange("all-gather", ["fsdp"], dtype, inside * work.calls, mesh),
            exchange("all-gather", ["tensor"], dtype, head * work.calls, mesh),
        ],
    )
    pieces = -(-work.read // (rows_read(sizes.rows // shards, "tpu") * shards * PAGE))  # calls of prefill, at least
    prefill = bounds(
        products * work.read + scores * work.seen_reading,
        pieces * layers + key * (work.read + work.seen_reading / PAGE) / shards,
        [sums(work.read / shards)],
    )
    return DrawingBounds(work, decode, prefill)


def reference_bounds(settings: TrainSettings, spec: ModelSpec, mesh: AnyMesh, where: Slice) -> Roofline:
    """The bounds of the reference's log-probs of all rows of a step: one forward pass, whose weights are read once."""
    options = settings.model
    tokens = settings.data.rows * settings.data.row_length
    flops = 2 * tokens * (spec.computed_matrices() + spec.vocab * spec.width)
    traffic = jnp.dtype(options.dtype).itemsize * sum(whole_sizes(spec, mesh).values()) / mesh.shape["fsdp"]
    return roofline(flops, Demand("estimated", 0, 0, traffic, ()), where, Geometry(where, mesh))
