"""The models that every contestant loads, written as Hugging Face directories."""

from __future__ import annotations

from tests.benchmarks.peers.task import END, PAD, Task


def write_models(task: Task) -> None:
    """Policy and reference of a task: one shape, two draws of all weights."""
    from aloe_jax.models.huggingface import save_pretrained
    from aloe_jax.models.native.decoder import DecoderSpec
    from tests.random_models import random_decoder

    spec = DecoderSpec(
        vocab=task.vocab,
        layers=task.layers,
        width=task.width,
        query_heads=task.query_heads,
        kv_heads=task.kv_heads,
        head_size=task.head_size,
        feed_forward=task.feed_forward,
        max_length=task.max_length,
        rope_theta=task.rope_theta,
        norm_eps=task.norm_eps,
        eos_ids=(END,),
        pad_id=PAD,
    )
    for seed, directory in enumerate((task.reference, task.policy), start=1):
        save_pretrained(random_decoder(spec, 0.05, seed), directory)
