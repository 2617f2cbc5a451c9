"""A tiny model, prompts, and the one shape of session that most tests here share, so that it compiles once."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aloe_jax.data.tokenizer import load_tokenizer, train_tokenizer
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native.decoder import Decoder, DecoderSpec
from aloe_jax.models.weights import nested
from aloe_jax.sampling.generation import Generation
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.session import Session
from tests.conversations import conversation
from tests.random_models import random_decoder

SPEC = DecoderSpec(
    vocab=50, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=24, max_length=200
)  # fmt: skip
ROWS, LENGTH = 4, 192
full_logits = nnx.jit(lambda model, tokens: model(tokens))


def lively() -> Decoder:
    """Weights large enough that greedy replies vary: what comes next depends on more than the last token."""
    rng = np.random.default_rng(3)
    values = {name: rng.standard_normal(weight.shape, np.float32) for name, weight in SPEC.weights().items()}
    values |= {name: 0.5 * value for name, value in values.items() if not name.endswith("norm")}
    return SPEC.assemble(nested(jax.tree.map(jnp.asarray, values)))


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Random tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SPEC.vocab, length).tolist() for length in lengths]


def session_of(model: Decoder, rows: Sequence[Sequence[int]] = ()) -> Session:
    """ROWS conversations of at most LENGTH tokens, the first of them begun."""
    session = Sampler(model, max_length=LENGTH).session(ROWS)
    for number, row in enumerate(rows):
        session.replace(number, row)
    return session


def drawn(model: Decoder, rows: Sequence[Sequence[int]], tokens: int, **settings) -> list[Generation]:
    """Replies to at most ROWS prompts, from a session of their own."""
    return session_of(model, rows).replies(tokens, among=range(len(rows)), **settings)


def replies(model: Decoder, rows: Sequence[Sequence[int]], tokens: int, **settings) -> list[list[int]]:
    """The tokens of `drawn`."""
    return [generation.tokens for generation in drawn(model, rows, tokens, **settings)]


def padded(rows: Sequence[Sequence[int]], length: int = LENGTH) -> np.ndarray:
    """[len(rows), length], zeros behind."""
    return np.array([[*row, *[0] * (length - len(row))] for row in rows], np.int32)


def following(model: Decoder, rows: Sequence[Sequence[int]], length: int = LENGTH) -> np.ndarray:
    """By full forward passes, the likeliest token after every place of every row."""
    return np.asarray(full_logits(model, padded(rows, length))).argmax(axis=-1)


def saved_model(root: Path, max_length: int = 192) -> Path:
    """A directory under `root` with a model of one layer, a tokenizer and its chat template."""
    texts = [text for turn in conversation(4).turns for text in (turn.user, turn.preferred)]
    train_tokenizer(texts, 300, root / "tokenizer")
    tokenizer = load_tokenizer(root / "tokenizer")
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=1, width=16, query_heads=2, kv_heads=1, head_size=8, feed_forward=24,
        max_length=max_length,
    )  # fmt: skip
    save_pretrained(random_decoder(spec, deviation=0.3), root / "model", tokenizer=tokenizer)
    return root / "model"
