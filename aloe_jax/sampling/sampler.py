"""A model, its devices, and the settings under which sessions draw from it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from aloe_jax.models.spec import LanguageModel
from aloe_jax.parallel.mesh import RULES, sharding
from aloe_jax.sampling import programs
from aloe_jax.sampling.cache import Cache
from aloe_jax.sampling.session import LEAST_LENGTH, Session, bucket
from aloe_jax.sampling.settings import CacheType


class Sampler:
    """Draws replies from `model`. Compiled functions are shared by all samplers of models of one shape.

    `max_length` bounds a conversation's tokens, prompts and replies together; the model's own maximum bounds it too.
    `rows` conversations at most are drawn at a time, and have their keys and values in the cache; the others wait.
    `cache` is how these are held: in the type of activations, in bfloat16, or in int8 with a scale a token and head.
    `tokenizer` is only asked for its end-of-sequence id, where the model's spec has none.

    The model's parameters stay where they are; on a mesh, rows are spread over data and fsdp, heads over tensor. The
    layers' weights are held a second time, as a loop over tokens reads them.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Any = None,
        max_length: int = 4096,
        rows: int = 64,
        cache: CacheType = "compute",
    ) -> None:
        self.model = model
        self.max_length = min(max_length, model.spec.max_length)
        self.stop = model.spec.eos_ids
        if not self.stop and tokenizer is not None and tokenizer.eos_token_id is not None:
            self.stop = (tokenizer.eos_token_id,)
        self.graph, self.state = nnx.split(model)
        self.mesh = _mesh(self.state)
        self.device = next(iter(jax.tree.leaves(self.state)[0].devices()))  # the only one, without a mesh
        self.shards = 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in RULES["batch"])
        self.rows = -(-rows // self.shards) * self.shards
        self.dtype = model.compute.dtype if cache == "compute" else cache
        with self.on_mesh():
            self.layers = programs.unstack(self.graph, self.state)

    def on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        """Where the model lies."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def put(self, array: np.ndarray) -> jax.Array:
        """An array whose first axis counts rows, on its devices."""
        if self.mesh is None:
            return jax.device_put(array, self.device)
        return jax.device_put(array, sharding(self.mesh, ("batch", *(None,) * (array.ndim - 1)), array.shape))

    def empty_cache(self, rows: int, blocks: tuple[int, ...]) -> Cache:
        """See `cache.empty_cache`. Bound to its devices: one that is not would have the first call compiled for it."""
        with self.on_mesh():
            made = programs.new_cache(self.model.spec, rows, blocks, self.dtype)
        return jax.tree.map(lambda x: jax.device_put(x, self.device if self.mesh is None else x.sharding), made)

    def session(self, batch: int, length: int | None = None) -> Session:
        """`batch` empty conversations of at most `length` tokens each (default: max_length)."""
        return Session(self, batch, self.max_length if length is None else min(length, self.max_length))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
    ) -> list[list[int]]:
        """The continuation of every prompt, new tokens only. See `Session.replies`; a session of its own."""
        needed = bucket(max(map(len, prompts), default=0) + max(max_new_tokens, 0), LEAST_LENGTH)
        session = self.session(len(prompts), needed)
        session.extend(prompts)
        return session.reply(
            max_new_tokens, temperature, top_k, top_p, seeds, stop, min_p=min_p, repetition_penalty=repetition_penalty
        )


def _mesh(state: nnx.State) -> Mesh | None:
    """The mesh over which parameters are laid out, if they are."""
    for leaf in jax.tree.leaves(state):
        place = leaf.sharding
        if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh):
            return place.mesh
    return None
