"""Killed (SIGKILL) at random moments and resumed, a run leaves what a run without a stop leaves.

The children share one process that has loaded everything, from which they are forked: a start costs what the run
itself costs. Each is a whole command with a model of its own to load.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from aloe_jax.data.tokenizer import train_tokenizer
from aloe_jax.llm.world.persona_texts import write_personality, write_profile
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native.decoder import DecoderSpec
from tests.random_models import random_decoder

PARENT = """
import os, sys, aloe_jax.benchmark.stages, aloe_jax.report.page, aloe_jax.sampling.loading, aloe_jax.models
from aloe_jax.evaluate import main
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.stderr = sys.stdout = open(os.devnull, "w")
        try:
            main(line.split(), standalone_mode=False)
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.write(1, f"{child}\\n".encode())
    os.write(1, f"{os.waitpid(child, 0)[1]}\\n".encode())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    draw = random.Random(0)
    people = [{"id": f"b{i}", "profile": write_profile(draw), "personality": write_personality(draw)} for i in range(6)]
    (root / "personas.jsonl").write_text("".join(json.dumps(person) + "\n" for person in people))
    tokenizer = train_tokenizer([person["profile"] for person in people], 300, root / "tokenizer")
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=1, width=16, query_heads=2, kv_heads=1, head_size=8, feed_forward=16,
        max_length=1024, tie_embeddings=True, eos_ids=(tokenizer.eos_token_id,),
    )  # fmt: skip
    save_pretrained(random_decoder(spec, 0.3), root / "near", tokenizer=tokenizer)
    models = f"{{near: {{path: {root}/near}}, far: {{remote: {{provider: scripted}}}}}}"
    (root / "eval.yaml").write_text(
        f"output: {root}/unset\npersonas: {root}/personas.jsonl\nmodels: {models}\ncases: 6\nturns: 4\nbootstrap: 50\n"
        "permutations: 50\nsampling: {max_new_tokens: 12, max_length: 1024, rows: 4}\nroles: {provider: scripted}\n"
        "judging: {votes: 2, pairs: [[near, far]]}\n"
    )
    return root


@pytest.fixture(scope="module")
def parent():
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.stdin.close()
    process.wait()


def run(parent, folder, output, kill_at=None):
    """Whether a run came to its end; once its journal has `kill_at` entries it is killed."""
    parent.stdin.write(f"--config {folder}/eval.yaml output={folder}/{output}\n")
    parent.stdin.flush()
    child = int(parent.stdout.readline())
    if kill_at is not None:
        patience = time.monotonic() + 120
        while entries(folder, output) < kill_at and time.monotonic() < patience:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(child, signal.SIGKILL)
    status = int(parent.stdout.readline())
    assert status in (0, signal.SIGKILL), status
    return status == 0


def entries(folder, output):
    """Finished calls, turns, ratings and comparisons in a journal."""
    path = folder / output / "journal.sqlite"
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return sum(database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("calls", "records"))
        except sqlite3.OperationalError:  # it is just being made
            return 0


def outputs(folder, output):
    return [
        (folder / output / name).read_text().replace(f"{folder}/{output}", "OUTPUT")
        for name in ("transcripts.jsonl", "metrics.json")
    ]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_kills_change_nothing(folder, parent, kills):
    if not (folder / "whole").exists():
        assert run(parent, folder, "whole")
    total = entries(folder, "whole")
    moments = sorted(random.Random(4).sample(range(1, total), kills))
    killed = [not run(parent, folder, f"killed{kills}", moment) for moment in moments]
    assert sum(killed) >= kills - 1
    assert run(parent, folder, f"killed{kills}")
    assert outputs(folder, f"killed{kills}") == outputs(folder, "whole")
    assert entries(folder, f"killed{kills}") == total  # nothing was done twice, nothing left out
