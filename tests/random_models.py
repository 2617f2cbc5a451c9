"""Decoders with random weights everywhere: a new decoder's output projections are zero, which hides mistakes."""

import jax.numpy as jnp
import numpy as np

from aloe_jax.models.decoder import Compute, Decoder, assemble
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import nested, weights


def random_decoder(spec: ModelSpec, deviation: float = 0.1, seed: int = 1, compute: Compute | None = None) -> Decoder:
    """Every weight drawn from a normal distribution, norms around 1."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]):
        return jnp.asarray(rng.normal(float(name.endswith("norm")), deviation, shape), jnp.float32)

    return assemble(spec, nested({name: draw(name, weight.shape) for name, weight in weights(spec).items()}), compute)
