"""Load a tokenizer from a directory, or train a small one: `python -m aloe_jax.data.tokenizer`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from aloe_jax.command import one_line_errors
from aloe_jax.data.tokenizer_files import save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.files import WEIGHTS, here, resolved
from aloe_jax.replacing import Kind, check_replaceable, replacing

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# What earlier versions wrote had no digests.json.
KIND = Kind(
    "tokenizer",
    (r"tokenizer\.json", r"tokenizer_config\.json", r"special_tokens_map\.json", r"chat_template\.jinja"),
    (("chat_template.jinja", TEMPLATE), ("tokenizer.json", '"content": "<|assistant|>"')),
    by="tokenizer training",
)


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer in a directory, through transformers, from local files only and without remote code.

    Where the tokenizer begins every text with a BOS token and its chat template writes none, the template gets one:
    training, sampling and whoever serves an export then all see the same single BOS.
    """
    path = here(path, leave=WEIGHTS)
    if not path.is_dir():
        raise AloeError(f"{path}: no tokenizer directory there")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would speak of torch, which is not used
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a parser's, a converter's or a missing package's: the files are not usable
        reason = " ".join(str(error).split())[:200]
        hint = "" if (Path(path) / "tokenizer.json").is_file() else "; it has no tokenizer.json"
        raise AloeError(f"{path}: cannot load a tokenizer ({reason}{hint})") from None
    _write_bos(tokenizer, path)
    return tokenizer


def chat_template(tokenizer: Any) -> str:
    """The tokenizer's chat template, the default one of several. Raises AloeError when it has none."""
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        if "default" not in templates:
            raise AloeError(
                f"{tokenizer.name_or_path}: several chat templates and none of them is the default "
                f"({', '.join(sorted(templates))}); keep one, in chat_template.jinja"
            )
        templates = templates["default"]
    if not templates:
        raise AloeError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja")
    return templates


def _write_bos(tokenizer: Any, path: str | Path) -> None:
    bos = tokenizer.bos_token_id
    if bos is None or not tokenizer.chat_template or tokenizer("a")["input_ids"][:1] != [bos]:
        return
    from jinja2 import TemplateError

    template, user = chat_template(tokenizer), [{"role": "user", "content": "a"}]
    try:
        text = tokenizer.apply_chat_template(user, chat_template=template, tokenize=False)
    except (TemplateError, TypeError):
        return  # told, with what is wrong, when the template is put to use
    if tokenizer.bos_token not in text:
        tokenizer.chat_template = "{{ bos_token }}" + template
        click.echo(f"{path}: the chat template writes no {tokenizer.bos_token}; it is put before every chat", err=True)


def generation_stops(path: str | Path) -> tuple[int, ...]:
    """The ids at which generation ends as generation_config.json in `path` has them; none where it has no such file.

    Raises AloeError naming the file when it cannot be read.
    """
    file = Path(path) / "generation_config.json"
    if not file.is_file():
        return ()
    try:
        ids = json.loads(file.read_text()).get("eos_token_id")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise AloeError(f"{file}: cannot read the generation settings ({error})") from None
    found = ids if isinstance(ids, list) else [] if ids is None else [ids]
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int):
            raise AloeError(f"{file}: eos_token_id is {one!r}; expected the number of a token, or null")
    return tuple(one for one in found if one >= 0)


def train_tokenizer(texts: Iterable[str], vocab: int, path: str | Path) -> Any:
    """Train a byte-level BPE tokenizer with a prefix-stable chat template and save it in `path`.

    Every message is its role token, the text and the end-of-turn token, so the ids of a path are always a
    prefix of the ids of a longer one. An earlier tokenizer of this function is replaced; raises AloeError where
    `path` holds anything else.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"]})
    tokenizer.chat_template = TEMPLATE
    with replacing(path, KIND) as place:
        save_tokenizer(tokenizer, place)
    return tokenizer


@click.command()
@click.option("--data", required=True, help="TFDS directory (…/aloe_trees/1.0.0) or JSONL file of conversations.")
@click.option("--output", required=True, help="Directory to write; an earlier tokenizer is replaced.")
@click.option("--vocab", default=1024, show_default=True, help="Size of the vocabulary, special tokens included.")
def main(data: str, output: str, vocab: int) -> None:
    """Train a byte-level BPE tokenizer with a chat template on the messages of a data set.

    Example: python -m aloe_jax.data.tokenizer --data runs/demo/data/tfds/aloe_trees/1.0.0 --output runs/demo/tokenizer
    """
    with one_line_errors():
        from aloe_jax.data.dataset import read_conversations

        if (resolved(output).parent / "spec.json").exists():
            raise AloeError(f"{output}: is in the directory of a run, which is read with its tokenizer; give another")
        check_replaceable(output, KIND)
        conversations = read_conversations(data)
        texts = (text for c in conversations for turn in c.turns for text in (turn.user, *turn.replies.values()))
        tokenizer = train_tokenizer(texts, vocab, output)
        click.echo(f"{output}: {len(tokenizer)} tokens, trained on {len(conversations)} conversations")


if __name__ == "__main__":
    main()
