"""A model directory → what it takes to let it talk."""

from __future__ import annotations

from pathlib import Path

from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.models import check_vocabulary, load_pretrained, tokenizer_directory
from aloe_jax.sampling.sampler import Sampler


def load_sampler(path: str | Path, max_length: int) -> tuple[Sampler, ChatTemplate]:
    """The sampler and the chat template of a Hugging Face directory or one of our runs."""
    tokenizer = load_tokenizer(tokenizer_directory(path))
    model = load_pretrained(path)
    check_vocabulary(tokenizer, model.spec, str(tokenizer_directory(path)))
    return Sampler(model, tokenizer, max_length=max_length), ChatTemplate(tokenizer, stop=model.spec.eos_ids)
