"""What earlier versions wrote is read and gone on with: tests/old/make.sh made it.

`first` is of commit 24930d7, before files had digests; `second` of 984350c, before settings and storage were moved and
digests became quicker checksums.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from flax import nnx

from aloe_jax.benchmark.results import load_results
from aloe_jax.data.dataset import read_conversations
from aloe_jax.export import main as export
from aloe_jax.llm.ledger import Ledger
from aloe_jax.models.opening import load_pretrained
from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.settings import load_settings
from aloe_jax.training.settings import TrainSettings
from datagen.__main__ import main as datagen
from datagen.journal import CONVERSATION
from tests.forked import Process

OLD = Path(__file__).parent / "old"
TOKENS = np.arange(2, 34, dtype=np.int32)[None]


@pytest.fixture(params=["first", "second"])
def old(request, tmp_path, monkeypatch) -> Path:
    """A copy, and the directory that its relative paths start from."""
    shutil.copytree(OLD / request.param, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@nnx.jit
def last(model):
    return model(TOKENS)[:, -2:]


def logits(path):
    return last(load_pretrained(path))


def done(command, *arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result


def test_models_compute_what_they_did(old):
    expected = np.load(old / "logits.npz")
    for name in ("sft", "dpo", "export"):
        np.testing.assert_allclose(logits(name), expected[name], atol=1e-5)


def test_a_run_that_was_killed_goes_on(old):
    before = (old / "dpo/metrics.jsonl").read_text().splitlines()
    assert checkpoint_steps("dpo") == [2]
    parts = sorted((old / "reference-logps").rglob("*.npz"))
    one_device = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    process = Process("aloe_jax.train", "--config", "dpo.yaml", env=one_device)
    output, errors = process.communicate()
    assert process.returncode == 0 and "resuming after step 2" in output, errors
    assert checkpoint_steps("dpo") == [2, 4]
    assert sorted((old / "reference-logps").rglob("*.npz")) == parts  # not computed again
    after = [json.loads(line) for line in (old / "dpo/metrics.jsonl").read_text().splitlines()]
    for line, kept in zip(map(json.loads, before), after, strict=True):
        assert (line["step"], line["kind"]) == (kept["step"], kept["kind"])
        np.testing.assert_allclose(kept["loss"], line["loss"], rtol=1e-5)
    assert load_settings(TrainSettings, "dpo/config.yaml").stage == "dpo"
    done(export, "--checkpoint", "dpo", "--output", "again")
    expected = np.load(old / "logits.npz")["export"]
    np.testing.assert_allclose(logits("again"), expected, atol=1e-5)


def test_an_export_is_replaced_by_a_new_one(old):
    done(export, "--checkpoint", "sft", "--output", "export")
    expected = np.load(old / "logits.npz")["sft"]
    np.testing.assert_allclose(logits("export"), expected, atol=1e-5)


def test_a_journal_is_read_and_nothing_is_asked_again(old):
    with Ledger(old / "data/journal.sqlite", writing=False) as ledger:
        conversations, usage = ledger.all(CONVERSATION), ledger.usage()
    assert len(conversations) == 8
    assert "8 were there already" in done(datagen, "conversations", "--config", "datagen.yaml").output
    with Ledger(old / "data/journal.sqlite", writing=False) as ledger:
        assert ledger.all(CONVERSATION) == conversations and ledger.usage() == usage


def test_a_data_set_is_read_and_built_the_same(old):
    def read():
        path = "data/tfds/aloe_trees/1.0.0"
        return [read_conversations(path, split) for split in ("train", "validation")]

    before = read()
    assert sum(map(len, before)) == 8 and all(len(talk.turns) == 3 for part in before for talk in part)
    done(datagen, "build", "--config", "datagen.yaml")
    assert read() == before


def test_results_of_a_benchmark_are_read(old):
    results = load_results("benchmark")
    numbers = json.loads((old / "benchmark/metrics.json").read_text())["models"]
    assert set(results.models) == set(numbers) == {"dpo", "generic"}
