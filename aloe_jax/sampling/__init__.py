"""Drawing replies from a model with its key/value cache kept over the turns of a conversation."""

from aloe_jax.sampling.generation import Generation
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.session import Session

__all__ = ["Generation", "Sampler", "Session"]
