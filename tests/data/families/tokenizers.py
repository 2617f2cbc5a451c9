"""Tokenizers of the kinds that the families use, with some four hundred tokens each."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.data.families.formats import Family

# The regular expressions by which the families cut text before they merge.
_SPLITS = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    "neox": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
_CORPUS = [
    "The garden is wet this morning.\nI walked the dog and then made coffee for the two of us.",
    "What would you like to know?\n\nTell me more about the bread that you bake.  It's the best!\n\n\n",
    "<|user|>\nyou <|assistant|>\n\n<|assistant|>\n\n<|user|>\n <|system|>\nA patient, dry person. [INST] :\n\n",
    "user\nassistant\nsystem\nmodel\n\n Today Date: 26 Jul 2024 <think>\n\n</think>\n\n 123 4567",
] * 3


def write_tokenizer(family: Family, path: Path) -> Path:
    """Write the family's tokenizer, chat template and generation settings to `path`."""
    from transformers import PreTrainedTokenizerFast

    core = _sentencepiece(family) if family.kind in ("mistral", "legacy", "gemma") else _byte_level(family)
    named = {"eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **named)
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(path)
    if family.generation_eos:
        ids = tokenizer.convert_tokens_to_ids(list(family.generation_eos))
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return path


def _byte_level(family: Family) -> Any:
    from tokenizers import Tokenizer

    return _completed(Tokenizer.from_str(_trained_bytes(family.kind)), family)


@functools.cache
def _trained_bytes(kind: str) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLITS[kind]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    core.decoder = decoders.ByteLevel()
    return core.to_str()


def _sentencepiece(family: Family) -> Any:
    """BPE over text whose spaces are ▁, with bytes for what it has no token for."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens, merges = _trained_pieces()
    start = [*(token for token in family.special), *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {token: number for number, token in enumerate(dict.fromkeys([*start, *tokens]))}
    core = Tokenizer(models.BPE(vocab, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if family.kind == "gemma":
        core.normalizer = normalizers.Replace(" ", "▁")
    elif family.kind == "legacy":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    if family.kind != "gemma":
        parts.append(decoders.Strip(" ", 1, 0))
    core.decoder = decoders.Sequence(parts)
    return _completed(core, family)


@functools.cache
def _trained_pieces() -> tuple[Sequence[str], Sequence[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=True)
    core.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(core.to_str())["model"]
    return tuple(model["vocab"]), tuple(tuple(merge) for merge in model["merges"])


def _completed(core: Any, family: Family) -> Any:
    from tokenizers import AddedToken, processors

    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain])
    if family.adds_bos and family.bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, core.token_to_id(family.bos))]
        )
    return core
