"""Load a tokenizer from a directory, or train a small one: `aloe tokenizer`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from aloe_jax.conversation import shown
from aloe_jax.data.confined import render
from aloe_jax.data.tokenizer_files import TransformersTokenizer, save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.storage.copies import WEIGHTS, local_copy
from aloe_jax.storage.replacing import Kind, replacing

LARGEST = 1_000_000  # tokens that a vocabulary may have
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


def load_tokenizer(path: str | Path) -> TransformersTokenizer:
    """The tokenizer in a directory, through transformers, from local files only and without remote code.

    Where the tokenizer begins every text with a BOS token and its chat template writes none, the template gets one:
    training, sampling and servers of an export then all see the same single BOS.
    """
    path = local_copy(path, leave=WEIGHTS)
    if not path.is_dir():
        raise AloeError(f"{path}: no tokenizer directory there")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would speak of torch, which is not used
    from transformers import AutoTokenizer

    try:
        with _without_panics():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            tokenizer.decode(tokenizer("a b")["input_ids"])  # some damage shows only when it is used
    except BaseException as error:  # a parser's, a converter's or a missing package's: the files are not usable
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = shown(error, 200)
        hint = "" if (Path(path) / "tokenizer.json").is_file() else "; it has no tokenizer.json"
        raise AloeError(f"{path}: cannot load a tokenizer ({reason}{hint})") from None
    _write_bos(tokenizer, path)
    return tokenizer


@contextlib.contextmanager
def _without_panics() -> Iterator[None]:
    """What is written to the error output comes when all is well; a panic of a library in Rust writes a traceback."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        there = os.dup(2)
        os.dup2(kept.fileno(), 2)
        panicked = True
        try:
            yield
            panicked = False
        except Exception:
            panicked = False
            raise
        finally:
            sys.stderr.flush()
            os.dup2(there, 2)
            os.close(there)
            if not panicked:
                kept.seek(0)
                with contextlib.suppress(OSError):
                    os.write(2, kept.read())


def chat_template(tokenizer: TransformersTokenizer) -> str:
    """The tokenizer's chat template, the default one of several. Raises AloeError when it has none."""
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        if "default" not in templates:
            raise AloeError(
                f"{tokenizer.name_or_path}: several chat templates and none of them is the default "
                f"({shown(', '.join(sorted(map(str, templates))), 200)}); keep one, in chat_template.jinja"
            )
        templates = templates["default"]
    if templates and not isinstance(templates, str):
        raise AloeError(
            f"{tokenizer.name_or_path}: its chat template is no text ({type(templates).__name__}); mend chat_template "
            "in tokenizer_config.json, or add chat_template.jinja"
        )
    if not templates:
        raise AloeError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja")
    return templates


def named_tokens(tokenizer: TransformersTokenizer) -> dict[str, str]:
    """What a chat template may call the tokenizer's special tokens by: bos_token, eos_token and so on."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)}


def _write_bos(tokenizer: TransformersTokenizer, path: str | Path) -> None:
    bos = tokenizer.bos_token_id
    try:
        if bos is None or not tokenizer.chat_template or tokenizer("a")["input_ids"][:1] != [bos]:
            return
    except BaseException as error:  # of the tokenizers library, whose panics are no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise AloeError(f"{path}: the tokenizer cannot encode text ({shown(error, 200)})") from None
    try:
        template = chat_template(tokenizer)
        (text,) = render(str(path), template, named_tokens(tokenizer), [(-1, "user", "a")], [(0, False)])
    except AloeError:
        return  # reported, with what is wrong, when the template is used
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
        found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise AloeError(f"{file}: cannot read the generation settings ({shown(error, 200)})") from None
    ids = [] if found is None else found if isinstance(found, list) else [found]
    for one in ids:
        if isinstance(one, bool) or not isinstance(one, int) or one >= 1 << 31:
            raise AloeError(f"{file}: eos_token_id is {shown(one)}; expected the number of a token, or null")
    return tuple(one for one in ids if one >= 0)  # -1 stands for none


def train_tokenizer(texts: Iterable[str], vocab: int, path: str | Path) -> TransformersTokenizer:
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
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[2:])})
    tokenizer.chat_template = TEMPLATE
    with replacing(path, KIND) as directory:
        save_tokenizer(tokenizer, directory)
    return tokenizer


def texts_of(data: str) -> tuple[int, Iterable[str]]:
    """How many conversations a data set of any kind holds, and their messages."""
    from aloe_jax.data.settings import SourceSettings
    from aloe_jax.data.sources import read_trees

    conversations = list(read_trees(SourceSettings(path=data)))
    return len(conversations), (text for conversation in conversations for text in conversation.texts())


if __name__ == "__main__":  # python -m aloe_jax.data.tokenizer: the same as `aloe tokenizer`
    from aloe_jax.cli.tokenizer import main

    main()
