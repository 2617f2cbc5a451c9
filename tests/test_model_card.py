"""The model card says what is true of a model: its data, what was simulated, the optimizer, the objective."""

import json

import pytest

from aloe_jax.data.settings import DataSettings, SourceSettings
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.settings import ModelSettings
from aloe_jax.publishing.export import maxtext_card
from aloe_jax.publishing.model_card import Origin, full_card, simulated, trace_origin
from aloe_jax.settings import dump_settings
from aloe_jax.training.settings import TrainSettings

SPEC = DecoderSpec(
    vocab=8, layers=1, width=8, query_heads=2, kv_heads=1, head_size=4, feed_forward=8, max_length=64
)  # fmt: skip


def data_set(root, name, says=None):
    """A data set that says of itself that it is simulated, that it is not, or nothing."""
    directory = root / name
    directory.mkdir()
    if says is not None:
        (directory / "metadata.json").write_text(json.dumps({"simulated": says}))
    return str(directory)


def stage(**changes):
    values = {"stage": "sft", "output": "out", "model": ModelSettings(path="base"), "steps": 4} | changes
    return TrainSettings.model_validate(values)


def card(*stages, **more):
    origin = Origin(stages, "base", "apache-2.0", **more)
    return full_card(SPEC, origin, None, simulated(origin))


def mixture(*paths):
    return DataSettings(mixture=tuple(SourceSettings(path=path, weight=1 + n) for n, path in enumerate(paths)))


def test_a_mixture_of_a_scripted_and_an_unknown_source(tmp_path):
    scripted, unknown, real = (
        data_set(tmp_path, name, says) for name, says in (("played", True), ("web", None), ("real", False))
    )
    text = card(stage(data=mixture(scripted, unknown, real)))
    assert f"a part of the training data were played by a script: {scripted}. Of {unknown} it is not stated." in text
    assert f"- Data: {scripted} (weight 1, simulated); {unknown} (weight 2, not stated whether simulated); " in text
    assert f"; {real} (weight 3)\n" in text


def test_all_of_it_some_of_it_none_of_it(tmp_path):
    one, two = data_set(tmp_path, "one", True), data_set(tmp_path, "two", True)
    assert "the people and replies of the training data were played" in card(stage(data=mixture(one, two)))
    # A later stage on other data does not make the earlier one real.
    real = data_set(tmp_path, "real", False)
    later = stage(data=DataSettings(path=real))
    assert f"played by a script: {one}." in card(later, stage(data=DataSettings(path=one)))
    for path, said in ((real, f"- Data: {real}\n"), (str(tmp_path / "gone"), "not there when this card was written")):
        text = card(stage(data=DataSettings(path=path)))
        assert "Simulated" not in text and said in text
    assert "not stated whether simulated, not there" in card(stage(data=DataSettings(path=str(tmp_path / "gone"))))
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "metadata.json").write_text("[1]")
    assert "not stated whether simulated" in card(stage(data=DataSettings(path=str(odd))))


@pytest.mark.parametrize(
    ("optimizer", "there", "not_there"),
    [
        (
            {},
            ["AdamW: ", "b1 0.9, b2 0.95, eps 1e-08, first moment in float32", "weight decay 0.0 (so plain Adam)"],
            [],
        ),
        ({"weight_decay": 0.1, "moment_dtype": "bfloat16"}, ["AdamW", "in bfloat16", "weight decay 0.1,"], ["plain"]),
        ({"name": "lion", "b2": 0.99}, ["Lion: ", "b1 0.9, b2 0.99, first moment in float32"], ["Adam", "eps 1"]),
        ({"name": "adafactor"}, ["Adafactor: ", "no first moment"], ["AdamW", "b1", "eps 1", "plain"]),
        ({"schedule": "constant"}, ["then constant;"], ["decay to"]),
        ({"schedule": "linear", "final_fraction": 0.25}, ["then linear decay to 0.25 of it;"], []),
    ],
)
def test_the_optimizer_that_was_used(tmp_path, optimizer, there, not_there):
    text = card(stage(data=DataSettings(path=str(tmp_path)), optimizer=optimizer))
    (line,) = [line for line in text.splitlines() if "gradients clipped" in line]
    assert all(part in line for part in there) and not any(part in line for part in not_there)


def test_the_objective_of_every_stage(tmp_path):
    data = DataSettings(path=str(tmp_path))
    text = card(
        stage(stage="dpo", data=data, dpo={"loss": "simpo", "gamma": 1.5, "turn_weights": [1.0, 0.5]}),
        stage(data=data, sft={"replies": "plain"}),
    )
    assert text.index("**SFT on plain replies, averaged by token**") < text.index("**DPO (simpo, beta 0.1, gamma 1.5")
    assert "weights by turn 1, 0.5)**" in text


def test_an_rl_run_names_loss_rewards_and_who_played(tmp_path):
    personas = data_set(tmp_path, "personas", True)
    rl = {
        "personas": personas,
        "loss": "gspo",
        "rewards": {"judge": 1.0, "belief": 2.0},
        "kl": 0.05,
        "draw": {"max_new_tokens": 16},
    }
    roles = {"provider": "openai", "model": "m-1", "judge": {"provider": "scripted", "model": None}}
    text = card(stage(stage="rl", rl=rl, roles=roles, data={"rows": 16}))
    assert "**RL (gspo, groups of 4 over 10 turns, advantages centred, replies averaged by constant, clipped to" in text
    assert "reward 1 x judge, 2 x belief, KL 0.05)**" in text
    assert f"the personas of {personas} (simulated), user: openai/m-1, judge: scripted, inducer: openai/m-1" in text
    assert "> **Simulated**: the personas of on-policy training come from a script." in text
    assert "> **Simulated**: the users, or the judge, of on-policy training were played by a script." in text
    real = card(
        stage(
            stage="rl",
            rl=rl | {"personas": str(tmp_path / "own.jsonl")},
            roles={"provider": "gemini"},
            data={"rows": 16},
        )
    )
    assert "Simulated" not in real and "user: gemini" in real


def test_steps_that_were_done_not_those_that_were_asked_for(tmp_path):
    run = tmp_path / "run"
    for step in (2, 3):
        (run / f"checkpoints/{step}/params").mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    (run / "config.yaml").write_text(dump_settings(stage(data=DataSettings(path="d"), model={"path": "nowhere"})))
    origin = trace_origin(run)
    assert origin.reached == (3,) and trace_origin(run, 2).reached == (2,)
    assert "- Length: 3 steps (of 4 steps asked for) of 8 rows" in full_card(SPEC, origin, None, [])
    assert "- Base model: nowhere (not there when this card was written" in full_card(SPEC, origin, None, [])
    assert "- Length: 4 steps of 8 rows" in card(stage(data=DataSettings(path="d")), reached=(4,))
    passes = stage(data=DataSettings(path="d"), steps=None, epochs=2)
    assert "- Length: 31 steps, of 2 epochs of 8 rows" in card(passes, reached=(31,))


def test_a_checkpoint_for_maxtext_says_the_same(tmp_path):
    scripted = data_set(tmp_path, "played", True)
    origin = Origin((stage(data=DataSettings(path=scripted)),), "base", "apache-2.0")
    text = maxtext_card(origin, simulated(origin), (1,))
    assert f"- Data: {scripted} (simulated)" in text and "AdamW: learning rate" in text and "**Simulated**" in text


# ---------------------------------------------------------------- what stands against the benchmark's numbers

SCORES = {"cases": 10, "turns": 2, "al": [2.0, 3.0], "complete": True, "kind": "model"}
REPLIES = {"cut": 0.25, "shortened": 0.0, "empty": 0.01, "repeated": 0.5, "earlier": 0.5, "looping": 0.0}


def scored(**more):
    return full_card(SPEC, Origin((), "base", "mit"), SCORES | more, [])


def test_the_card_names_defects_of_replies_wherever_the_numbers_go():
    said = scored(replies=REPLIES, automatic={"untrue": 0.125})
    assert "Replies: cut 25.0%, empty 1.0%, repeated 50.0%, with untrue assertions 12.5%.\n" in said
    assert "Warning: 25.0% of its replies were cut.\n" in said
    assert "Warning: 50.0% of its replies repeat themselves or an earlier one.\n" in said
    assert "replies are empty" not in said  # 1%
    assert "untrue assertions n/a" in scored(replies=REPLIES, automatic={"untrue": None})
    assert "did not count those that were cut" in scored()


def test_the_card_says_for_whom_and_for_which_weights_the_numbers_hold():
    said = scored(design={"kind": "shared profiles", "people": 80, "profiles": 20, "personalities": 4})
    assert "80 people, 20 profiles and 4 personalities (design: shared profiles)" in said
    assert "The numbers hold for these personalities alone" in said and "conditional on these weights" in said
    for kind, profiles, personalities in (("distinct", 40, 40), ("crossed", 8, 5), ("shared profiles", 8, 40)):
        design = {"kind": kind, "people": 40, "profiles": profiles, "personalities": personalities}
        assert "alone" not in scored(design=design)
    assert "was not stored by the version that wrote the results" in scored()


def test_the_card_says_what_is_missing():
    said = scored(complete=False, votes_coverage=0.875, stopped={"p1": "turn 2: no reply"})
    assert "**Incomplete**: 87.5% of the votes are there, 1 dialogues ended early.\n" in said
    assert "Incomplete" not in scored()
