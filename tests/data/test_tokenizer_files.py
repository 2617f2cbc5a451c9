"""Tokenizers as they are written: for transformers 4 and 5, and without what is true of this machine only."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aloe_jax.cli.tokenizer import main
from aloe_jax.data.tokenizer import KIND, load_tokenizer, train_tokenizer
from aloe_jax.data.tokenizer_files import save_tokenizer, unused_tokens
from aloe_jax.errors import AloeError
from aloe_jax.storage.replacing import check_replaceable
from tests.golden.check_tokenizer import facts, variants

LOCAL = ("is_local", "local_files_only", "name_or_path", "backend", "trust_remote_code", "tokenizer_file")


def written(directory):
    return json.loads((directory / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("name", ["plain", "begins", "added", "several", "bare"])
def test_saved_loaded_and_saved_again_it_is_the_same(tmp_path, name):
    tokenizer = variants()[name]
    expected = facts(tokenizer)
    for directory in (tmp_path / "one", tmp_path / "two"):
        save_tokenizer(tokenizer, directory)
        settings = written(directory)
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not isinstance(settings.get("extra_special_tokens"), list)
        assert not [key for key in LOCAL if key in settings]
        assert str(tmp_path) not in (directory / "tokenizer_config.json").read_text()
        tokenizer = load_tokenizer(directory)
        # A template that writes no BOS gets one where it is loaded; these write it themselves.
        assert facts(tokenizer) == expected
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_special_tokens_are_listed_as_transformers_4_reads_them(tmp_path):
    save_tokenizer(variants()["added"], tmp_path)
    settings = written(tmp_path)
    assert set(settings["additional_special_tokens"]) == {"<|system|>", "<|user|>", "<|assistant|>", "<extra>"}
    assert settings["pad_token"] == "<pad>"


def test_paths_of_this_machine_are_left_out_whatever_their_key(tmp_path):
    tokenizer = variants()["plain"]
    tokenizer.init_kwargs |= {"cache": "/home/somebody/models", "auto_map": {"AutoTokenizer": ["x.py", None]}}
    save_tokenizer(tokenizer, tmp_path)
    assert {"cache", "auto_map"}.isdisjoint(written(tmp_path))


def padded(vocab_of="plain"):
    """A tokenizer that was given one token for padding beyond its model's embedding, and the size of that."""
    tokenizer = variants()[vocab_of]
    vocab = 1 + max(tokenizer.get_vocab().values())
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    return tokenizer, vocab


def test_an_added_token_that_nothing_uses_may_lie_beyond_the_embedding(tmp_path):
    tokenizer, vocab = padded()
    assert unused_tokens(tokenizer, vocab) == ["<padding>"]
    save_tokenizer(tokenizer, tmp_path, vocab)
    again = load_tokenizer(tmp_path)
    assert max(again.get_vocab().values()) < vocab
    assert (again.pad_token, again.eos_token) == ("<|end|>", "<|end|>")
    assert again("a <padding> b")["input_ids"] == variants()["plain"]("a <padding> b")["input_ids"]


def ordinary(tokenizer):
    tokenizer.add_tokens(["ordinary"])


def ends(tokenizer):
    tokenizer.add_special_tokens({"eos_token": "<stop>"})


def in_the_template(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = "<turn>" + tokenizer.chat_template


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ordinary, "the tokenizer has .* tokens, but the model's vocabulary has .*; give the tokenizer that belongs"),
        (ends, "<stop> has no vector and is its eos_token"),
        (in_the_template, "<turn> has no vector and is written by its chat template"),
    ],
)
def test_a_token_that_is_used_must_have_a_vector(change, message):
    tokenizer, vocab = padded()
    change(tokenizer)
    with pytest.raises(AloeError, match=message):
        unused_tokens(tokenizer, vocab)


def test_training_a_tokenizer_replaces_an_earlier_one_and_nothing_else(tmp_path):
    out = tmp_path / "tokenizer"
    train_tokenizer(["some words"], 270, out)
    train_tokenizer(["other words"], 280, out)
    assert len(load_tokenizer(out)) > 265
    (out / "digests.json").unlink()  # as an earlier version left it
    check_replaceable(out, KIND)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(AloeError, match=r"holds notes\.txt, which no tokenizer training wrote"):
        train_tokenizer(["words"], 270, out)
    assert (out / "notes.txt").read_text() == "mine"


def data(tmp_path):
    turns = [{"user": "Hi", "preferred": "Hello", "rejected": "No", "continued": "preferred"}]
    file = tmp_path / "data.jsonl"
    persona = {"id": "p", "profile": "x", "personality": "y"}
    file.write_text(json.dumps({"id": "c", "persona": persona, "turns": turns}) + "\n")
    return file


def test_the_command_refuses_before_it_reads_anything(tmp_path):
    precious, run = tmp_path / "precious", tmp_path / "run"
    (precious / "thesis").mkdir(parents=True)
    (precious / "thesis/chapter").write_text("x")
    run.mkdir()
    (run / "spec.json").write_text("{}")
    downloaded = tmp_path / "downloaded"  # somebody else's, of the same names
    save_tokenizer(variants()["plain"], downloaded)
    for output, message in [
        (precious, "holds thesis/chapter, which no tokenizer training wrote"),
        (run / "tokenizer", "is in the directory of a run"),
        (downloaded, "nothing in it says that aloe-jax wrote it"),
        (precious / "thesis/chapter", "is a file"),
    ]:
        done = CliRunner().invoke(main, ["--data", str(tmp_path / "none"), "--output", str(output)])
        assert done.exit_code == 1
        assert message in done.output
    assert (precious / "thesis/chapter").read_text() == "x"
    assert Path(downloaded / "tokenizer.json").exists()
    done = CliRunner().invoke(
        main, ["--data", str(data(tmp_path)), "--output", str(tmp_path / "out"), "--vocab", "270"]
    )
    assert done.exit_code == 0, done.output
    assert len(load_tokenizer(tmp_path / "out")) <= 270
