"""Log-probabilities of given tokens, and entropies, without logits of the whole vocabulary at once.

The vocabulary is taken a piece at a time: the forward pass keeps a running log-sum-exp, from which the backward pass
recomputes each piece. Pieces of the vocabulary rather than of the tokens, because the gradient to the unembedding,
often the largest array here, is then written once, where pieces of the tokens would each add to all of it.

Shapes: B rows, S tokens of a row, D model, V vocabulary. All sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from aloe_jax.parallel.mesh import fitting_spec

PIECES = 32  # in how many pieces a large vocabulary is taken
SMALLEST = 256  # tokens of a piece, at least

State = TypeVar("State")
# Largest logit, sum of exponentials, sum of logits times exponentials, label's logit.
Statistics = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def token_logps(
    hidden: jax.Array,
    unembedding: jax.Array,
    labels: jax.Array,
    piece: int | None = None,
    cap: float | None = None,
) -> jax.Array:
    """log softmax(hidden @ unembedding)[labels] for hidden [B,S,D], unembedding [D,V], labels int [B,S].

    `piece` is how many tokens of the vocabulary are taken at once (None: `piece_size`). With `cap` c logits are
    c·tanh(logit / c) (Gemma 2, arXiv 2408.00118, §2). Returns float32 [B,S] in nats. Under a mesh rows and vocabulary
    stay where they are: what travels is sums over the shards of the vocabulary (largest logit, sum of exponentials, the
    label's logit; in the backward pass the gradient to `hidden`), and over those of the rows the gradient to the
    unembedding.
    """
    return _token_statistics(_split(hidden, unembedding, piece, cap), hidden, unembedding, labels)[0]


def token_logps_and_entropies(
    hidden: jax.Array,
    unembedding: jax.Array,
    labels: jax.Array,
    piece: int | None = None,
    cap: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """As `token_logps`, and the entropy -Σ p log p of the distribution at every position: float32 [B,S] in nats."""
    return _token_statistics(_split(hidden, unembedding, piece, cap, True), hidden, unembedding, labels)


def _split(
    hidden: jax.Array, unembedding: jax.Array, piece: int | None, cap: float | None, entropy: bool = False
) -> _Split:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return _Split(piece=piece, cap=cap, entropy=entropy)
    rows = fitting_spec(mesh.shape, ("batch",), hidden.shape[:1])[0] or ()
    vocab = fitting_spec(mesh.shape, ("vocab",), unembedding.shape[1:])[0] or ()
    return _Split(rows, vocab, piece, cap, entropy)


def piece_size(vocab: int) -> int:
    """How many tokens of a vocabulary are taken at once, by default; `vocab` of them lie on a device."""
    share = -(-vocab // PIECES)
    return max(SMALLEST, -(-share // 128) * 128)


Number = int | jax.Array
# Hidden, unembedding, labels, log-sum-exp, entropy.
_Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


@dataclass(frozen=True)
class _Split:
    """How the work is split: over mesh axes and over pieces of the vocabulary."""

    rows: tuple[str, ...] | None = None  # the mesh axes that rows lie on; None where no mesh is set
    vocab: tuple[str, ...] = ()  # and those that the vocabulary does
    piece: int | None = None
    cap: float | None = None
    entropy: bool = False  # whether entropies are asked for; zeros otherwise

    def logits(self, rows: jax.Array, unembedding: jax.Array) -> jax.Array:
        """[R,D] and a piece [D,·] of the unembedding -> [R,·], capped."""
        made = _product(rows, unembedding)
        return made if self.cap is None else self.cap * jnp.tanh(made / self.cap)

    def on_shards[**P, R](self, function: Callable[P, R], inputs: str, outputs: str) -> Callable[P, R]:
        """`function` on every device's part. A letter an array: h [B,S,D], w [D,V], t [B,S]."""
        if self.rows is None:
            return function
        specs = {
            "h": PartitionSpec(self.rows, None, None),
            "w": PartitionSpec(None, self.vocab),
            "t": PartitionSpec(self.rows, None),
        }
        return jax.shard_map(
            function,
            in_specs=tuple(specs[name] for name in inputs),
            out_specs=tuple(specs[name] for name in outputs),
            check_vma=False,  # loops begin with zeros, which are the same everywhere, and end with what is not
        )

    def over_pieces(self, vocab: int, body: Callable[[Number, int, State], State], state: State) -> State:
        """body(start, size, state) -> state for every piece of the vocabulary; the last may be smaller."""
        size = min(vocab, self.piece or piece_size(vocab))
        whole = vocab // size
        state = lax.fori_loop(0, whole, lambda number, state: body(number * size, size, state), state)
        return body(whole * size, vocab - whole * size, state) if vocab > whole * size else state

    def first(self, vocab: int) -> Number:
        """The number of this device's first token of the vocabulary, of which it has `vocab`."""
        return lax.axis_index(self.vocab) * vocab if self.vocab else 0


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_statistics(
    split: _Split, hidden: jax.Array, unembedding: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _forward(split, hidden, unembedding, labels)[0]


def _forward(
    split: _Split, hidden: jax.Array, unembedding: jax.Array, labels: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], _Saved]:
    """With lse the log-sum-exp of logits z and p their softmax: log p = z - lse, and the entropy is lse - Σ p z."""

    def local(hidden: jax.Array, unembedding: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        vocab = unembedding.shape[1]
        rows, numbers = hidden.reshape(-1, hidden.shape[2]), labels.reshape(-1) - split.first(vocab)

        def add(start: Number, size: int, state: Statistics) -> Statistics:
            top, total, weighted, label = state
            logits = split.logits(rows, lax.dynamic_slice_in_dim(unembedding, start, size, 1))
            index = numbers - start
            own = jnp.take_along_axis(logits, jnp.clip(index, 0, size - 1)[:, None], axis=1)[:, 0]
            best = jnp.maximum(top, logits.max(axis=1))
            scale, exponentials = jnp.exp(top - best), jnp.exp(logits - best[:, None])
            if split.entropy:
                weighted = weighted * scale + (exponentials * logits).sum(axis=1)
            total = total * scale + exponentials.sum(axis=1)
            return best, total, weighted, jnp.where((index >= 0) & (index < size), own, label)

        zero = jnp.zeros(rows.shape[0], _wide(rows))
        first = (zero + jnp.finfo(zero.dtype).min, zero, zero, zero)
        top, total, weighted, label = split.over_pieces(vocab, add, first)
        if split.vocab:
            best = lax.pmax(top, split.vocab)
            total, weighted = lax.psum((total * jnp.exp(top - best), weighted * jnp.exp(top - best)), split.vocab)
            top = best
            label = lax.psum(label, split.vocab)  # 0 but on the device that has it
        lse = top + jnp.log(total)
        entropy = lse - weighted / total if split.entropy else zero
        shape = labels.shape
        return (label - lse).reshape(shape), lse.reshape(shape), entropy.reshape(shape)

    logps, lse, entropy = split.on_shards(local, "hwt", "ttt")(hidden, unembedding, labels)
    return (logps, entropy), (hidden, unembedding, labels, lse, entropy)


def _backward(
    split: _Split, saved: _Saved, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, None]:
    """The gradient to a logit z, with p its probability and H the entropy.

    Of the log-prob, whose cotangent is g: (1 - p) g where it is the label's, -p g elsewhere. Of the entropy, whose
    cotangent is e: -p (log p + H) e.
    """

    def local(
        hidden: jax.Array,
        unembedding: jax.Array,
        labels: jax.Array,
        lse: jax.Array,
        entropy: jax.Array,
        cotangent: jax.Array,
        of_entropy: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        vocab = unembedding.shape[1]
        rows, numbers = hidden.reshape(-1, hidden.shape[2]), labels.reshape(-1) - split.first(vocab)
        turned = rows.T  # read by every piece
        lse, entropy, weight, spread = (x.reshape(-1, 1) for x in (lse, entropy, cotangent, of_entropy))

        def add(start: Number, size: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            d_rows, d_unembedding = state
            part = lax.dynamic_slice_in_dim(unembedding, start, size, 1)
            is_label = jnp.arange(size)[None] == (numbers - start)[:, None]
            logits = split.logits(rows, part)
            taken = weight
            if split.entropy:
                taken = taken + spread * (logits - lse + entropy)
            change = jnp.where(is_label, weight, 0.0) - jnp.exp(logits - lse) * taken
            if split.cap is not None:
                change = change * (1.0 - jnp.square(logits / split.cap))
            # The barrier keeps XLA from computing the exponentials once for each of the two products.
            change = lax.optimization_barrier(change.astype(hidden.dtype))
            d_part = _product(turned, change).astype(unembedding.dtype)
            d_unembedding = lax.dynamic_update_slice_in_dim(d_unembedding, d_part, start, 1)
            return d_rows + _product(change, part.T), d_unembedding

        zeros = jnp.zeros(rows.shape, _wide(rows)), jnp.zeros(unembedding.shape, unembedding.dtype)
        d_rows, d_unembedding = split.over_pieces(vocab, add, zeros)
        if split.vocab:
            d_rows = lax.psum(d_rows, split.vocab)
        if split.rows:
            d_unembedding = lax.psum(d_unembedding, split.rows)
        return d_rows.reshape(hidden.shape).astype(hidden.dtype), d_unembedding

    return *split.on_shards(local, "hwttttt", "hw")(*saved, *cotangents), None


_token_statistics.defvjp(_forward, _backward)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, preferred_element_type=_wide(left))


def _wide(x: jax.Array) -> jnp.dtype:
    """The type of sums: float32, float64 where that is what comes in."""
    return jnp.promote_types(x.dtype, jnp.float32)
