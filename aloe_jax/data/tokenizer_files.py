"""Write a tokenizer so that transformers 4 and 5, and what builds on either, load it with the same ids."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aloe_jax.errors import AloeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

type TransformersTokenizer = (
    PreTrainedTokenizerBase  # by a name that can be imported without transformers, which is slow
)
Settings = dict[str, object]  # of a JSON file
SETTINGS, CORE = "tokenizer_config.json", "tokenizer.json"
CLASS = "PreTrainedTokenizerFast"  # reads tokenizer.json as it is, in every version of transformers
# What transformers 5 writes that says how or from where a tokenizer was loaded, or names code to run.
LOCAL = {
    "is_local", "local_files_only", "name_or_path", "backend", "auto_map", "trust_remote_code", "device_map",
    "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "added_tokens_file", "files_loaded",
    "proxies", "use_auth_token", "resume_download", "subfolder", "gguf_file", "_commit_hash", "_from_auto", "from_slow",
}  # fmt: skip


def save_tokenizer(tokenizer: TransformersTokenizer, directory: str | Path, vocab: int | None = None) -> None:
    """Write a transformers tokenizer into a directory, which is made where it is missing.

    transformers 5 names a class that 4 does not have, lists special tokens under a key that 4 takes for something
    else, and keeps the arguments it was loaded with; all three are put right. With `vocab`, the number of vectors of
    the model's embedding, added tokens beyond it are left out (see `unused_tokens`). Raises AloeError when the
    files that transformers wrote cannot be read back.
    """
    directory = Path(directory)
    tokenizer.save_pretrained(directory)
    settings = _read(directory / SETTINGS)
    if (directory / CORE).is_file():
        settings = portable(settings, local_settings(type(tokenizer)))
        if vocab is not None and (unused := unused_tokens(tokenizer, vocab)):
            settings = _without(settings, unused, tokenizer)
            core = _read(directory / CORE)
            added, padding = core["added_tokens"], core.get("padding")
            assert isinstance(added, list)
            core["added_tokens"] = [token for token in added if token["content"] not in unused]
            if isinstance(padding, dict) and padding.get("pad_token") in unused:
                core["padding"] = None
            _write(directory / CORE, core)
    _write(directory / SETTINGS, settings)


def local_settings(kind: type) -> set[str]:
    """Names of settings that are arguments of loading, not the tokenizer's own."""
    return LOCAL | set(inspect.signature(kind.from_pretrained).parameters)  # type: ignore[attr-defined]


def portable(settings: Settings, local: Collection[str]) -> Settings:
    """The content of a tokenizer_config.json that transformers 4 and 5 both understand.

    `local`: keys to leave out. Paths of this machine are left out whatever their key.
    """
    kept = {
        key: value
        for key, value in settings.items()
        if key not in local and not (isinstance(value, str) and value.startswith(("/", "~/", "file:", "gs:/")))
    }
    extra = kept.pop("extra_special_tokens", None)
    if isinstance(extra, dict):  # tokens with a name of their own: 4 reads those as they are
        kept["extra_special_tokens"] = extra
    elif isinstance(extra, list) and extra:
        kept["additional_special_tokens"] = list(extra)
    kept["tokenizer_class"] = CLASS
    return kept


def unused_tokens(tokenizer: TransformersTokenizer, vocab: int) -> list[str]:
    """Added tokens that an embedding of `vocab` vectors has none for; a model cannot have learned to use them.

    Only special tokens are accepted: their text in a message is read as plain text. Raises AloeError naming a token
    beyond the embedding that is an ordinary one, begins or ends texts, or is written by the chat template.
    """
    beyond = {text: number for text, number in tokenizer.get_vocab().items() if number >= vocab}
    if not beyond:
        return []
    size = 1 + max(beyond.values())
    why = f"the tokenizer has {size} tokens, but the model's vocabulary has {vocab}"
    added = getattr(tokenizer, "added_tokens_decoder", {})  # one that has none has only ordinary tokens
    special = {token.content for token in added.values() if token.special}
    ordinary = [text for text in beyond if text not in special]
    if ordinary:
        raise AloeError(f"{why}; give the tokenizer that belongs to the model")
    template = tokenizer.chat_template or ""
    written = " ".join(template.values()) if isinstance(template, dict) else template
    for text in beyond:
        role = next((name for name in ("bos_token", "eos_token") if getattr(tokenizer, name) == text), None)
        if role is not None or text in written:
            what = f"is its {role}" if role else "is written by its chat template"
            raise AloeError(f"{why}: {text} has no vector and {what}; give the tokenizer that belongs to the model")
    return sorted(beyond)


def _without(settings: Settings, unused: list[str], tokenizer: TransformersTokenizer) -> Settings:
    """Settings that name none of the tokens; padding becomes the token that ends texts."""
    kept: Settings = {}
    for key, value in settings.items():
        if isinstance(value, list):
            kept[key] = [entry for entry in value if _text(entry) not in unused]
        elif key == "added_tokens_decoder" and isinstance(value, dict):
            kept[key] = {number: entry for number, entry in value.items() if _text(entry) not in unused}
        elif _text(value) not in unused:
            kept[key] = value
        elif key == "pad_token" and tokenizer.eos_token:
            kept[key] = tokenizer.eos_token
    click.echo(f"left out of the tokenizer: {', '.join(unused)}, which the model has no vector for", err=True)
    return kept


def _text(entry: object) -> object:
    return entry.get("content") if isinstance(entry, dict) else entry


def _read(file: Path) -> Settings:
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise AloeError(f"{file}: cannot be read back ({error}); the disk may be full or failing") from None
    assert isinstance(values, dict)
    return values


def _write(file: Path, values: Settings) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
