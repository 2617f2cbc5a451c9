"""The implementations of a model by the names that `model.backend` and spec.json have for them."""

from __future__ import annotations

from aloe_jax.models.spec import Backend, ModelSpec


def implementation(backend: Backend) -> type[ModelSpec]:
    """The class of specs of a backend; MaxText's is imported only where it is used."""
    if backend == "maxtext":
        from aloe_jax.models.maxtext.decoder import MaxTextSpec

        return MaxTextSpec
    from aloe_jax.models.native.decoder import DecoderSpec

    return DecoderSpec
