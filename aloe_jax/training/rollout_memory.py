"""How much memory of a device on-policy training takes beside its updates: reference, second layout, drawing.

Drawing, the reference's log-probs and updates follow each other, so the most at one time is the largest of the three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax.sharding import Mesh

from aloe_jax.models.spec import ModelSpec
from aloe_jax.parallel.device_bytes import bytes_on_a_device
from aloe_jax.parallel.mesh import RULES
from aloe_jax.rollouts.waves import wave_count
from aloe_jax.sampling.cache import PAGE
from aloe_jax.sampling.shapes import cache_rows, cache_shapes, layer_shapes, page_shapes, rows_read, sibling_rows
from aloe_jax.training.memory import abstract, activations, gathered, head, rows_at_once, whole_sizes, without_zeros
from aloe_jax.training.policy_losses import needs_reference
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import MemoryBeside, Phase

LOGITS = 8  # float32 arrays [rows, vocabulary] that drawing a token has at once, as compiled for CPUs


def rollout_memory(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> MemoryBeside:
    """What a run takes on a device of `mesh` beside its updates; `settings` are resolved.

    State and caches are exact; what programs work with is an estimate, as that of updates is.
    """
    options, rl = settings.model, settings.rl
    layers = layer_shapes(spec, options.dtype, options.compute_dtype, options.lora, mesh)
    state = {"the layers' weights once more, for drawing": bytes_on_a_device(layers)}
    between = {"replies are drawn": Phase(_drawing(settings, spec, mesh), "lower rl.draw.rows")}
    if needs_reference(rl):
        params = abstract(spec.trained(options.lora), mesh, options.dtype)
        state[f"reference in {options.dtype}"] = bytes_on_a_device(params)
        between["the reference is computed"] = Phase(_reference(settings, spec, mesh), "lower data.rows")
    return MemoryBeside(state, between)


@dataclass(frozen=True)
class Sessions:
    """The sessions of a step, over the whole mesh: one a wave, and as many that look ahead where that is set."""

    count: int  # of waves
    rows: int  # of the cache of each
    siblings: int  # drawn from a row together
    ahead: int  # rows of the cache of each that looks ahead; 0: none

    @property
    def replies(self) -> int:
        """Drawn together."""
        return self.rows * self.siblings


def sessions(settings: TrainSettings, mesh: Mesh) -> Sessions:
    """Those of a step; a validation's are smaller, or take as much (see `validating`)."""
    rl, shards, count = settings.rl, _shards(mesh), _waves(settings)
    room = -(-rl.conversations // count) * rl.lines(rl.turns - 1)
    ahead = cache_rows(room * rl.group, rl.draw.rows, shards) if rl.lookahead else 0
    return Sessions(min(count, rl.conversations), sibling_rows(room, rl.group, rl.draw.rows, shards), rl.group, ahead)


def validating(settings: TrainSettings, mesh: Mesh) -> Sessions | None:
    """Those of a validation, with one reply a turn; None where nobody is held out."""
    rl, count = settings.rl, _waves(settings)
    if not rl.heldout:
        return None
    rows = sibling_rows(-(-rl.heldout // count), 1, rl.draw.rows, _shards(mesh))
    return Sessions(min(count, rl.heldout), rows, 1, 0)


def cache_bytes(settings: TrainSettings, spec: ModelSpec, mesh: Mesh, drawn: Sessions) -> int:
    """Bytes of a device in the caches of all these sessions."""
    length, dtype = session_length(settings, spec), cache_type(settings)
    own = bytes_on_a_device(page_shapes(spec, drawn.replies, settings.rl.draw.max_new_tokens, dtype, mesh))
    found = bytes_on_a_device(cache_shapes(spec, drawn.rows, length, dtype, mesh)) + own
    if drawn.ahead:
        found += bytes_on_a_device(cache_shapes(spec, drawn.ahead, length, dtype, mesh))
    return drawn.count * found


def _shards(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def _waves(settings: TrainSettings) -> int:
    return wave_count(settings.rl, lambda role: getattr(settings.roles, role).entry.remote)


def session_length(settings: TrainSettings, spec: ModelSpec) -> int:
    """Tokens that a conversation has at most, along one path."""
    return min(settings.data.row_length, spec.max_length)


def cache_type(settings: TrainSettings) -> str:
    """In which type keys and values are stored."""
    chosen = settings.rl.draw.cache
    return settings.model.compute_dtype if chosen == "compute" else chosen


def _drawing(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> dict[str, int]:
    options, drawn, length, shards = (
        settings.model, sessions(settings, mesh), session_length(settings, spec), _shards(mesh)
    )  # fmt: skip
    cached = cache_bytes(settings, spec, mesh, drawn)
    if (held_out := validating(settings, mesh)) is not None:
        cached = max(cached, cache_bytes(settings, spec, mesh, held_out))
    rows = max(drawn.rows, drawn.ahead)
    cache = bytes_on_a_device(cache_shapes(spec, rows, length, cache_type(settings), mesh))
    few = rows_read(rows // shards, "tpu")  # a CPU takes fewer
    dense = options.model_copy(update={"attention": "dense", "remat": "none"})
    # Of a layer that a page of some rows goes through, all but what only a backward pass would need; and their part of
    # the cache, which is picked out of it.
    kept, _ = activations(spec, dense, mesh, few * PAGE, length)
    reading = kept // spec.layers + cache * few * shards // rows // spec.layers
    tokens = 4 * (max(drawn.replies, drawn.ahead) // shards) * (LOGITS * spec.vocab + length)
    many = f"{drawn.count} x " if drawn.count > 1 else ""
    found = {
        f"keys and values of {many}{drawn.rows} conversations and {drawn.replies} replies": cached,
        ("a page of tokens read" if reading > tokens else "a token of every conversation"): max(reading, tokens),
        "weights gathered or cast": gathered_for_drawing(settings, spec, mesh),
    }
    return without_zeros(found)


def gathered_for_drawing(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> int:
    """Copies of weights that drawing has: of embedding and head where they are cast, and whole ones along `fsdp`.

    The compiler brings the parts of all layers together once a call, ahead of its loop over tokens; and those of the
    head along `tensor`, too, since every row's logits are on one device (as compiled for v5e).
    """
    options = settings.model
    width, layers, split = jnp.dtype(options.compute_dtype).itemsize, spec.stacked(), mesh.shape["fsdp"] > 1
    sizes = whole_sizes(spec, mesh)
    outside = sum(size for name, size in sizes.items() if name not in layers)
    inside = sum(size for name, size in sizes.items() if name in layers)
    head = spec.vocab * spec.width * (mesh.shape["tensor"] > 1)
    return width * (outside * (split or options.dtype != options.compute_dtype) + inside * split + head)


def _reference(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> dict[str, int]:
    """Its log-probs of all rows of a step at once: one layer's forward pass, then the head's."""
    options, data = settings.model, settings.data
    rows = rows_at_once(settings, mesh, parts=1)
    kept, _ = activations(
        spec, options.model_copy(update={"remat": "none"}), mesh, rows * data.row_length, data.row_length
    )
    found = {
        "forward pass": max(kept // spec.layers, head(spec, options, mesh, rows * data.row_length)),
        "weights gathered or cast": gathered(spec, options.model_copy(update={"remat": "full"}), mesh),
    }
    return without_zeros(found)
