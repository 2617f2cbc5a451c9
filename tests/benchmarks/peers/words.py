"""One word an id: a tokenizer of every contestant's, so that all count the tokens that were drawn.

Runs in every contestant's environment, each of which has the packages tokenizers and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.benchmarks.peers.task import END, PAD, word


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Of words with white space between them."""
    words = {word(index): index for index in range(vocab)}
    inner = Tokenizer(models.WordLevel(words, unk_token=word(PAD)))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=word(PAD), eos_token=word(END))


def text(tokens: Sequence[int]) -> str:
    """Words with a space after each but a final end of reply, so that texts can be joined."""
    joined = " ".join(map(word, tokens))
    return joined if tokens[-1] == END else joined + " "
