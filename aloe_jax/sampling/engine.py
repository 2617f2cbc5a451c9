"""The model behind the sampler: its weights as a loop over tokens reads them, and where its arrays are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from aloe_jax.errors import AloeError
from aloe_jax.models.spec import LanguageModel, Layers, Parameters
from aloe_jax.parallel.mesh import RULES, sharding
from aloe_jax.sampling import programs
from aloe_jax.sampling.cache import Cache
from aloe_jax.sampling.new_weights import replaced
from aloe_jax.sampling.settings import CacheType

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Engine:
    """A model on its devices with what its compiled functions are called with; see `Sampler`, which adds sessions."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int = 4096,
        rows: int = 64,
        cache: CacheType = "compute",
    ) -> None:
        self.max_length = min(max_length, model.spec.max_length)
        self.stop = model.spec.eos_ids
        if not self.stop and tokenizer is not None and tokenizer.eos_token_id is not None:
            self.stop = (tokenizer.eos_token_id,)
        self.graph, state = nnx.split(model)
        self.mesh = _mesh(state)
        self.device = next(iter(jax.tree.leaves(state)[0].devices()))  # the only one, without a mesh
        self.shards = 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in RULES["batch"])
        self.rows = -(-rows // self.shards) * self.shards
        self.dtype = model.compute.dtype if cache == "compute" else cache
        self.version = 0  # counts updates: what was computed under another one is not used
        # Bound to where they are, as those of an update will be: else its first call would be compiled for them.
        self.state = jax.tree.map(lambda x: jax.device_put(x, x.sharding), state)
        self._use()

    def _use(self) -> None:
        """Let the model and the layers be those of `state`."""
        self.model = nnx.merge(self.graph, self.state)
        self.layers: Layers = ()  # the old ones are freed before there are new ones
        with self.on_mesh():
            self.layers = programs.unstack(self.graph, self.state)

    def update(self, params: Parameters) -> None:
        """Draw with other weights from now on: a tree as `LanguageModel.split().trained`, adapters where it has any.

        Nothing is compiled but, at the first update, what brings arrays of another type or sharding to the sampler's.
        Those of its own type and sharding are not copied but referred to, and never donated; a caller that donates them
        itself has to call `update` again before the next draw. Freed before the new ones are there are the layers'
        arrays of the old weights. Conversations that are open read their tokens again. Raises AloeError naming the
        first weight that is missing, left over or of another shape; nothing is changed then.
        """
        self.state = replaced(self.state, self.model.split().trained, params)
        self.version += 1
        self._use()

    def check_weights(self) -> None:
        """Raise AloeError where the weights are gone, because their arrays were donated to another computation."""
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state)):
            raise AloeError(
                "sampler: its weights were donated to another computation, such as a training step; call update with "
                "the new ones"
            )

    def on_mesh(self) -> contextlib.AbstractContextManager[object]:
        """The mesh of the model as the context, if it has one."""
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


def _mesh(state: nnx.State[Hashable, object]) -> Mesh | None:
    """The mesh over which parameters are laid out, if they are."""
    for leaf in jax.tree.leaves(state):
        found = leaf.sharding
        if isinstance(found, NamedSharding) and isinstance(found.mesh, Mesh):
            return found.mesh
    return None
