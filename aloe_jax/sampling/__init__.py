"""Drawing replies from a model with its key/value cache kept over the turns of a conversation."""

from aloe_jax.sampling.sampler import Sampler, Session

__all__ = ["Sampler", "Session"]
