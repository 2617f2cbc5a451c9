"""The models that every contestant loads, written as Hugging Face directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.peers.rl_task import FIRST, TEMPLATE, RLTask
from tests.benchmarks.peers.task import END, PAD, Task

if TYPE_CHECKING:
    from aloe_jax.models.native.decoder import DecoderSpec
    from aloe_jax.models.spec import LanguageModel


def write_models(task: Task) -> None:
    """Policy and reference of a task: one shape, two draws of all weights."""
    from aloe_jax.models.huggingface import save_pretrained
    from tests.random_models import random_decoder

    spec = spec_of(task)
    for seed, directory in enumerate((task.reference, task.policy), start=1):
        save_pretrained(random_decoder(spec, 0.05, seed), directory)


def spec_of(task: Task) -> DecoderSpec:
    """The shape of a task's models."""
    from aloe_jax.models.native.decoder import DecoderSpec

    return DecoderSpec(
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


def write_policy(task: RLTask) -> None:
    """The policy of an RL task with its tokenizer: random weights that end a reply as often as the task asks for.

    All embeddings share a direction, which so has every last hidden state, and which the unembedding of END reads:
    scaled so that END has the asked chance at an average token. That is linear in the scale; two tries give the line.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from aloe_jax.models.huggingface import save_pretrained
    from aloe_jax.models.weights import nested
    from tests.benchmarks.peers.words import tokenizer

    spec, rng = spec_of(task), np.random.default_rng(task.seed)
    weights = {
        name: rng.normal(float(name.endswith("norm")), 0.05, weight.shape).astype(np.float32)
        for name, weight in spec.weights().items()
    }
    weights["embedding"] = 10 * weights["embedding"] + 2.0
    tokens = jnp.asarray(rng.integers(FIRST, task.vocab, (8, 256)))

    def model(scale: float) -> LanguageModel:
        weights["head"][:, END] = scale
        return spec.assemble(nested({name: jnp.asarray(values) for name, values in weights.items()}))

    def log_odds(scale: float) -> float:
        logps = np.asarray(jax.nn.log_softmax(model(scale)(tokens)))[:, :, END]
        return float(np.mean(logps - np.log1p(-np.exp(logps))))

    scale = 0.0
    if task.mean_reply:
        nothing, little = log_odds(0.0), log_odds(0.01)
        scale = 0.01 * (-np.log(task.mean_reply - 1) - nothing) / (little - nothing)
    words = tokenizer(task.vocab)
    words.chat_template = TEMPLATE
    save_pretrained(model(scale), task.policy, tokenizer=words)
