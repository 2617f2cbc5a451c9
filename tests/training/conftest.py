"""A data set, a tokenizer and settings for runs that take seconds."""

from pathlib import Path

import pytest

from aloe_jax.data.tokenizer import train_tokenizer
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
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
            "checkpoints": {"every": 2},
        }  # fmt: skip
        for key, change in changes.items():
            values[key] = {**values[key], **change} if isinstance(values.get(key), dict) else change
        return TrainSettings.model_validate(values)

    return make


@pytest.fixture
def starting_model(settings):
    """A short SFT run to start DPO from."""
    from aloe_jax.training.run import train

    start = settings(output="start", steps=2)
    train(start)
    return start.output
