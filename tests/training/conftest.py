"""A data set, a tokenizer and settings for runs that take seconds."""

import hashlib
import shutil
from pathlib import Path

import pytest

from aloe_jax.data.tokenizer import train_tokenizer
from aloe_jax.settings import dump_settings
from aloe_jax.training.settings import TrainSettings
from tests.conversations import conversation

BRANCHES = ("prrp", "rppr", "pprr", "rprp")


def write_data(directory: Path, count: int = 24, turns: int = 3) -> Path:
    talks = [conversation(1 + (i % turns), f"c{i}", BRANCHES[i % 4]) for i in range(count)]
    for name, part in (("d.jsonl", talks[: -count // 4]), ("d.validation.jsonl", talks[-count // 4 :])):
        (directory / name).write_text("".join(talk.to_json() + "\n" for talk in part))
    return directory / "d.jsonl"


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """{"data": path, "tokenizer": path} of ragged conversations."""
    root = tmp_path_factory.mktemp("material")
    data = write_data(root)
    talks = [conversation(3, f"c{i}") for i in range(24)]
    texts = [text for talk in talks for turn in talk.turns for text in (turn.user, turn.preferred, turn.rejected)]
    train_tokenizer(texts, 300, root / "tokenizer")
    return {"data": data, "tokenizer": root / "tokenizer"}


@pytest.fixture
def settings(material, tmp_path):
    """Settings of a tiny run, changed by `section={...}` arguments."""

    def make(stage="sft", output="run", **changes) -> TrainSettings:
        values = {
            "stage": stage,
            "output": str(tmp_path / output),
            "steps": 6,
            "log_every": 2,
            "evaluate_every": 3,
            "model": {
                "tokenizer": str(material["tokenizer"]),
                "architecture": {
                    "layers": 2, "width": 16, "query_heads": 2, "kv_heads": 2, "feed_forward": 32, "max_length": 256,
                },
            },
            "data": {"path": str(material["data"]), "row_length": 128, "rows": 8},
            # A constant rate, so that runs of different lengths are one program; what resumes takes a decaying one.
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "constant"},
            "checkpoints": {"every": 2},
        }  # fmt: skip
        for key, change in changes.items():
            values[key] = {**values[key], **change} if isinstance(values.get(key), dict) else change
        return TrainSettings.model_validate(values)

    return make


def trained(made: TrainSettings, material) -> TrainSettings:
    """The run, finished: trained once a session for the same settings, and a copy each time."""
    from aloe_jax.training.run import train

    key = hashlib.sha256(dump_settings(made.model_copy(update={"output": "kept"})).encode()).hexdigest()
    kept = material["data"].parent / key[:16]
    if not kept.exists():
        train(made.model_copy(update={"output": str(kept)}))
    shutil.copytree(kept, made.output)
    return made


@pytest.fixture
def starting_model(settings, material):
    """A short SFT run to start DPO from."""
    return trained(settings(output="start", steps=2), material).output
