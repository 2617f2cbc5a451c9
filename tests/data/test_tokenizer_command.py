"""`python -m aloe_jax.data.tokenizer`: what it reads, and what it says where it cannot."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from aloe_jax.cli.tokenizer import main
from aloe_jax.data.tokenizer import load_tokenizer
from tests.conversations import conversation
from tests.data.jsonl import chat, preference, write_jsonl

TREES = [conversation(3, f"c{k}").record() for k in range(3)]


def run(data, output, *more):
    done = CliRunner().invoke(main, ["--data", str(data), "--output", str(output), "--vocab", "280", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "records", [TREES, [chat("Ada", 3, "Speak kindly.")], [preference(["hi", "so", "why"], "because", "why not")]]
)
def test_every_kind_of_data_trains_one(tmp_path, records):
    path = write_jsonl(tmp_path / "x.jsonl", records)
    code, message = run(path, tmp_path / "tokenizer")
    size = len(load_tokenizer(tmp_path / "tokenizer"))
    assert code == 0 and message == f"{tmp_path}/tokenizer: {size} tokens, trained on {len(records)} conversations\n"
    assert 261 < size <= 280


@pytest.mark.parametrize("vocab", ["0", "-3", "260", "1000001", "99999999999999999999"])
def test_a_vocabulary_that_cannot_be_is_refused_before_anything_is_read(tmp_path, vocab):
    code, message = run(tmp_path / "none.jsonl", tmp_path / "tokenizer", "--vocab", vocab)
    assert code == 1 and message == (
        f"Error: --vocab: is {vocab}, must be from 261 (every byte, and the control tokens) to 1,000,000\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such data set"),
        (b"\x1f\x8b\x08", "is compressed with gzip"),
        (b"{", "line 1: not valid JSON"),
        (json.dumps(TREES[0] | {"id": "\ud83d"}).encode(), "line 1: id: has half a character"),
        (b'{"a": 1}', "line 1: its fields (a) are not those of"),
    ],
)
def test_data_that_cannot_be_read_is_told_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.jsonl").write_bytes(content)
    code, said = run(tmp_path / "x.jsonl", tmp_path / "tokenizer")
    assert code == 1 and said.count("\n") == 1 and message in said
    assert not (tmp_path / "tokenizer").exists()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from aloe_jax.cli.tokenizer import main
main()
"""


def test_a_disk_without_room_is_told_in_one_line(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", TREES)
    command = [sys.executable, "-c", FULL, "--data", str(path), "--output", str(tmp_path / "out"), "--vocab", "280"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {tmp_path}/out: cannot be written (")
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
