"""The export command on a run directory, as its user meets it."""

import dataclasses
import json

import numpy as np
import orbax.checkpoint as ocp
import pytest
from click.testing import CliRunner
from flax import nnx

from aloe_jax.data.settings import DataSettings
from aloe_jax.data.tokenizer import load_tokenizer, train_tokenizer
from aloe_jax.export import main
from aloe_jax.models.native.decoder import Decoder, DecoderSpec
from aloe_jax.models.opening import load_pretrained
from aloe_jax.models.run_directory import save_spec
from aloe_jax.models.settings import ModelSettings
from aloe_jax.publishing.model_card import Origin, full_card
from aloe_jax.settings import dump_settings
from aloe_jax.training.settings import TrainSettings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A base model with a licence, a DPO run on it, its simulated data and its benchmark."""
    root = tmp_path_factory.mktemp("export")
    base, run, data = root / "base", root / "dpo", root / "trees"
    for directory in (base, run, data, root / "benchmark"):
        directory.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (base / "notes.txt").write_text("not of an export")
    (data / "metadata.json").write_text('{"simulated": true}')
    scores = {"cases": 3, "turns": 2, "al": [2.0, 3.25], "ir": {"value": 1.25, "low": 1.0, "high": None}}
    settings = {"models": {"dpo": {"path": str(run)}, "other": {"path": None}}}
    benchmark = {"settings": settings, "models": {"dpo": scores}, "simulated": ["the judge"]}
    (root / "benchmark/metrics.json").write_text(json.dumps(benchmark))
    tokenizer = train_tokenizer(["some words to learn from"], 280, run / "tokenizer")
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=1, width=8, query_heads=2, kv_heads=1, head_size=4, feed_forward=8, max_length=64
    )  # fmt: skip
    save_spec(spec, run)
    model = Decoder(spec, rngs=nnx.Rngs(0))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(run / "checkpoints/5/params", nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    made = TrainSettings(
        stage="dpo", output=str(run), model=ModelSettings(path=str(base)), data=DataSettings(path=str(data)), steps=5
    )
    (run / "config.yaml").write_text(dump_settings(made))
    return root


def export(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_run_becomes_a_directory_that_loads(root):
    done = export("--checkpoint", root / "dpo", "--output", root / "out", "--max-shard-size", "5KB")
    assert done.exit_code == 0, done.output
    exported, run = load_pretrained(root / "out"), load_pretrained(root / "dpo")
    # The template's end of turn is one of the tokens that end a reply, whatever the run's own spec says.
    assert exported.spec == dataclasses.replace(run.spec, eos_ids=(1,))
    for name, value in run.layers.items():
        np.testing.assert_array_equal(exported.layers[name][...], value[...])
    ids = [load_tokenizer(path).encode("some words") for path in (root / "out", root / "dpo/tokenizer")]
    assert ids[0] == ids[1]


def test_the_card_says_what_is_known(root):
    export("--checkpoint", root / "dpo", "--output", root / "card", "--step", "5", "--dtype", "bfloat16")
    card = (root / "card/README.md").read_text()
    for part in [
        "license: apache-2.0",
        "# base, DPO",
        "> **Simulated**: the people and replies of the training data were played by a script.",
        "> **Simulated**: in the benchmark a script played the judge.",
        "- Base model: base",
        "DPO (sigmoid, beta 0.1",
        "5 steps of 8 rows of 2048 tokens",
        "| ir | 1.250 | 1.000 | n/a |",
        "Mean rating by turn: 2.000, 3.250.",
    ]:
        assert part in card
    assert json.loads((root / "card/config.json").read_text())["dtype"] == "bfloat16"
    # An export can be exported again, and claims no training that it does not know of.
    assert export("--checkpoint", root / "card", "--output", root / "again").exit_code == 0
    again = (root / "again/README.md").read_text()
    assert "license: apache-2.0" in again
    assert "Not stated." in again


def test_a_baseline_is_called_one():
    """SFT on rejected replies, in the title of the card and where its training is described."""
    cards = {}
    spec = DecoderSpec(
        vocab=300, layers=1, width=8, query_heads=2, kv_heads=1, head_size=4, feed_forward=8, max_length=64
    )  # fmt: skip
    for replies in ("preferred", "rejected"):
        stage = TrainSettings.model_validate(
            {
                "stage": "sft",
                "output": "o",
                "model": {"path": "base"},
                "data": {"path": "trees"},
                "sft": {"replies": replies},
            }
        )
        cards[replies] = full_card(spec, Origin((stage,), "base", "mit"), None, [])
    assert "# base, SFT on rejected replies (baseline)\n" in cards["rejected"]
    assert (
        "**SFT on rejected replies (a baseline: what people did not prefer), averaged by token**" in cards["rejected"]
    )
    assert "# base, SFT\n" in cards["preferred"] and "baseline" not in cards["preferred"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--checkpoint", "{root}/dpo", "--output", "{root}/x", "--step", "4"],
            "no checkpoint of step 4; there are: 5",
        ),
        (["--checkpoint", "{root}/none", "--output", "{root}/x"], "none: not found"),
        (["--checkpoint", "{root}/dpo", "--output", "{root}/dpo"], "is the checkpoint itself"),
        (["--checkpoint", "{root}/dpo", "--output", "{root}/base"], "holds notes.txt, which no export wrote"),
        (["--checkpoint", "{root}/dpo", "--output", "{root}/x", "--max-shard-size", "lots"], "max_shard_size 'lots'"),
        (
            ["--checkpoint", "{root}/dpo", "--output", "{root}/x", "--metrics", "{root}/base/README.md"],
            "not the metrics",
        ),
    ],
)
def test_mistakes_are_one_line(root, arguments, message):
    result = export(*(argument.format(root=root) for argument in arguments))
    assert result.exit_code == 1
    assert message in result.output
    assert not (root / "x").exists()
