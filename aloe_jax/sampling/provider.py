"""The provider `policy`: one of our own models as the responder. Light; the model's code is imported when it plays."""

from aloe_jax.llm.registry import ProviderEntry

POLICY = ProviderEntry(
    "policy",
    "aloe_jax.sampling.policy:Policy",
    remote=False,
    example_model="runs/demo/dpo",
    needs_price=False,
    roles=("responder",),
    defaults={"max_output_tokens": 128},  # its context is small, and room for a whole reply is kept free in it
)
