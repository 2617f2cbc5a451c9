"""Decoders with random weights everywhere: a new decoder's output projections are zero, which hides mistakes."""

import jax.numpy as jnp
import numpy as np

from aloe_jax.models.native.decoder import Decoder, DecoderSpec
from aloe_jax.models.spec import Compute
from aloe_jax.models.weights import nested


def random_decoder(spec: DecoderSpec, deviation: float = 0.1, seed: int = 1, compute: Compute | None = None) -> Decoder:
    """Every weight drawn from a normal distribution, norms around 1."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]):
        return jnp.asarray(rng.normal(float(name.endswith("norm")), deviation, shape), jnp.float32)

    return spec.assemble(nested({name: draw(name, weight.shape) for name, weight in spec.weights().items()}), compute)
