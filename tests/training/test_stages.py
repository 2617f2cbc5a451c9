"""A stage of one's own: one class and one entry, and the loop, the display and the plan work with it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from aloe_jax.data.selection import PAIRS
from aloe_jax.models.checkpoint_files import checkpoint_steps
from aloe_jax.training import stages
from aloe_jax.training.run import train
from aloe_jax.training.stages import StageEntry
from aloe_jax.training.stages.stage import Stage, Watched
from aloe_jax.training.totals import Mean


class Contrast(Stage):
    """Widens the gap of each pair, weighted by an array that is computed before the first step."""

    shown = Watched({"gap": "gap {:+.2f}"}, by_turn={"gap": "{:+.1f}"})
    selection = PAIRS

    def row_arrays(self, rows):
        return {"importance": jax.ShapeDtypeStruct(rows.pairs.shape[1:2], jnp.float32)}

    def compute_row_arrays(self, model, rows):
        assert model.logps is not None and len(model.digest()) > 10
        return {
            split: {"importance": np.full(of_split.pairs.shape[:2], 0.5, np.float32)}
            for split, of_split in rows.items()
        }

    def objective(self, turns=0):
        def contrast(scores, batch):
            logps = scores.replies
            pairs = batch["pairs"]
            both = jnp.take_along_axis(logps, pairs.reshape(len(pairs), -1), axis=1).reshape(pairs.shape)
            there = (batch["pair_turn"] > 0).astype(logps.dtype)
            gap = both[..., 0] - both[..., 1]
            weight = there * batch["importance"]
            by_turn = (batch["pair_turn"][..., None] == jnp.arange(1, turns + 1)).astype(logps.dtype)
            return {
                "loss": Mean(-(gap * weight).sum(), weight.sum()),
                "gap": Mean((gap * there).sum(), there.sum()),
                "gap/turn": Mean((gap[..., None] * by_turn).sum((0, 1)), by_turn.sum((0, 1))),
            }

        return contrast


@pytest.fixture
def contrast(monkeypatch):
    monkeypatch.setitem(stages.STAGES, "contrast", StageEntry(__name__, "Contrast"))


def test_a_stage_of_ones_own_trains(contrast, settings, capsys):
    made = settings("contrast", steps=4)
    train(made, dry_run=True)
    assert "pairs" in capsys.readouterr().out
    train(made)
    records = [json.loads(line) for line in (Path(made.output) / "metrics.jsonl").read_text().splitlines()]
    training = [record for record in records if record["kind"] == "train"]
    assert len(training) == 4 and training[-1]["loss"] < training[0]["loss"]
    np.testing.assert_allclose(training[0]["loss"], -training[0]["gap"], rtol=1e-5)
    assert "gap/turn_01" in training[0]
    printed = capsys.readouterr().out
    assert " | gap " in printed and "  by turn " in printed
    assert checkpoint_steps(Path(made.output)) == (2, 4) or checkpoint_steps(Path(made.output)) == [2, 4]


def test_an_unknown_stage_is_refused_with_those_that_there_are(contrast, settings):
    with pytest.raises(ValidationError, match="input should be 'sft' or 'dpo' or 'rl' or 'contrast'"):
        settings("rlhf")
