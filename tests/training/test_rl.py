"""On-policy runs, small and whole: the policy talks to the scripted users, learns, and goes on where it was ended."""

import json
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from aloe_jax.conversation import Persona
from aloe_jax.data.tokenizer import train_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.llm import scripted
from aloe_jax.llm.world import persona_texts, user_messages
from aloe_jax.models.opening import load_run
from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.rollouts import rewards as rewards_table
from aloe_jax.rollouts.rewards import REWARDS, RewardEntry
from aloe_jax.settings import dump_settings
from aloe_jax.training.run import train
from aloe_jax.training.settings import TrainSettings
from tests.compilations import compilations
from tests.forked import Process
from tests.standin import running


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Personas of the scripted world, a tokenizer of its words, and a model that was begun on them."""
    root = tmp_path_factory.mktemp("world")
    draw = random.Random(0)
    personas = [
        Persona(
            id=f"p{i}", profile=persona_texts.write_profile(draw), personality=persona_texts.write_personality(draw)
        )
        for i in range(12)
    ]
    (root / "personas.jsonl").write_text("".join(persona.model_dump_json() + "\n" for persona in personas))
    texts = []
    for persona in personas * 20:
        facts = persona_texts.read_profile(persona.profile)
        poles = persona_texts.read_personality(persona.personality)
        texts.append(user_messages.say(facts, poles, [], draw))
    train_tokenizer(texts, 600, root / "tokenizer")
    talks = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "I like tea."}]}
        for text in texts
    ]
    for name, part in (("d.jsonl", talks[:200]), ("d.validation.jsonl", talks[200:])):
        (root / name).write_text("".join(json.dumps(talk) + "\n" for talk in part))
    start = {
        "stage": "sft",
        "output": str(root / "start"),
        "steps": 2,
        "model": {
            "tokenizer": str(root / "tokenizer"),
            "architecture": {
                "layers": 2, "width": 16, "query_heads": 2, "kv_heads": 2, "feed_forward": 32, "max_length": 512,
            },
        },
        "data": {"path": str(root / "d.jsonl"), "row_length": 128, "rows": 8},
    }  # fmt: skip
    train(TrainSettings.model_validate(start))
    return root


@pytest.fixture
def settings(world, tmp_path):
    """Settings of a run of seconds, changed by `section={...}` arguments."""

    def make(output="run", **changes):
        values = {
            "stage": "rl",
            "output": str(tmp_path / output),
            "steps": 3,
            "log_every": 1,
            "evaluate_every": 2,
            "model": {"path": str(world / "start")},
            "data": {"row_length": 384, "rows": 8, "accumulate": 2},
            "mesh": {"data": 1, "fsdp": 4, "tensor": 2},
            "rl": {
                "personas": str(world / "personas.jsonl"), "conversations": 4, "heldout": 3, "group": 3, "turns": 3,
                "draw": {"max_new_tokens": 6, "rows": 8}, "rewards": {"judge": 1.0, "length": 0.5}, "concurrency": 2,
                "overlong": "keep",
            },
            "roles": {"provider": "scripted"},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
            "checkpoints": {"every": 1, "keep": 5},
        }  # fmt: skip
        for key, change in changes.items():
            values[key] = {**values[key], **change} if isinstance(values.get(key), dict) else change
        return TrainSettings.model_validate(values)

    return make


def weights(made):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(load_run(made.output), nnx.Param)))


def records(made):
    """What was logged, without times and speeds."""
    lines = [json.loads(line) for line in Path(made.output, "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if "second" not in key and key != "time"}
        for line in lines
        if line["kind"] != "speed"
    ]


def calls(made):
    with sqlite3.connect(Path(made.output, "journal.sqlite")) as journal:
        return sorted(journal.execute("SELECT key FROM calls").fetchall())


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, weights(one), weights(other))
    assert calls(one) == calls(other)


def test_a_run_learns_reports_and_goes_on_as_if_it_had_not_been_ended(settings, capsys):
    whole, ended = settings("whole"), settings("ended")
    train(whole)
    shown = capsys.readouterr().out
    assert "7 held-out" not in shown and "3 held-out personas every 2 steps" in shown
    assert "a step is 4 conversations x 3 turns x 3 replies = 36 replies" in shown
    shutil.copytree(whole.output, ended.output)
    Path(ended.output, "config.yaml").write_text(dump_settings(ended))
    for gone in ("checkpoints/2", "checkpoints/3"):
        shutil.rmtree(Path(ended.output, gone))
    Path(ended.output, "finished.json").unlink()
    train(ended)
    equal(whole, ended)
    logged = [line for line in records(whole) if "reward" in line]
    trained = [line for line in logged if "entropy" in line]
    validated = [line for line in logged if "entropy" not in line]
    assert [line["step"] for line in trained] == [1, 2, 3] and [line["step"] for line in validated] == [2, 3]
    for line in trained:
        assert line["log_ratio"] <= 1e-4 and line["coverage"] == 1.0
        assert line["reward"] == pytest.approx(line["reward/judge"] + 0.5 * line["reward/length"])
        assert {"reward/turn_01", "reward/turn_03", "no_variance", "cut", "clipped", "reply_tokens"} <= line.keys()
    assert [line for line in records(ended) if "reward" in line] == logged
    lines = [json.loads(line) for line in Path(whole.output, "metrics.jsonl").read_text().splitlines()]
    speed = [line for line in lines if line["kind"] == "speed"]
    assert [line["step"] for line in speed] == [2, 3]  # not of the step that compiles
    for line in speed:
        phases = {key.removeprefix("seconds/"): value for key, value in line.items() if key.startswith("seconds/")}
        assert phases.keys() == {"generating", "waiting", "training", "other"} and min(phases.values()) >= 0.0
        assert line["replies_per_second"] == pytest.approx(36 / sum(phases.values()))
        assert line["tokens_per_second"] > 0.0
    assert "s drawing" in shown and "replies/s" in shown
    before = weights(settings("x", model={}).model_copy(update={"output": whole.model.path}))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(weights(whole)), strict=True))


def test_dry_run_says_what_a_step_asks_for_and_writes_nothing(settings, capsys):
    made = settings()
    train(made, dry_run=True)
    assert "user 12 (scripted), judge 36 (scripted); 48 calls, " in capsys.readouterr().out
    assert not Path(made.output).exists()


def test_dry_run_warns_of_a_judge_of_the_users_family(settings, capsys):
    role = {"provider": "openai", "model": "gpt-5-mini", "endpoint": "http://localhost:1/v1"}
    for judge, warned in ((role, True), ({**role, "model": "qwen3"}, False)):
        train(settings(roles={"user": role, "judge": judge}), dry_run=True)
        said = "warning: the judge is of the same family as the users (gpt)"
        assert (said in capsys.readouterr().out) == warned


@pytest.mark.parametrize(
    "changes",
    [
        {"rl": {"updates": 2, "kl": 0.1, "entropy": 0.01, "loss": "gspo", "continued": "best"}},
        {"model": {"lora": {"rank": 2}}, "rl": {"kl": 0.1, "normalise": "sequence", "advantage": "standardised"}},
        {
            "data": {"row_length": 768},
            "rl": {
                "loss": "dpo",
                "updates": 2,
                "lookahead": 1,
                "branches": 2,
                "overlong": "penalise",
                "overlong_part": 0.5,
                "rewards": {"judge": 1.0, "belief": 2.0, "leakage": 1.0},
            },
        },
    ],
)
def test_options(settings, changes):
    plain = settings()
    for section, change in changes.items():
        changes = {**changes, section: {**getattr(plain, section).model_dump(exclude_unset=True), **change}}
    made = settings(**changes)
    train(made)
    trained = [line for line in records(made) if "kl" in line]
    assert len(trained) == 3
    assert trained[0]["log_ratio"] <= 1e-4
    if made.rl.loss == "dpo":
        assert all(-1 <= line["reward/belief"] <= 1 and -1 <= line["reward/leakage"] <= 0 for line in trained)
        assert all(-1 <= line["reward/overlong"] < 0 for line in trained)
        assert any(0 <= line["accuracy"] <= 1 and "margin" in line for line in trained if "accuracy" in line)
    if made.model.lora is not None:
        assert trained[0]["kl"] == pytest.approx(0.0, abs=1e-6)
        assert trained[2]["kl"] > 0


def test_steps_after_the_first_compile_nothing(settings):
    with compilations() as count:
        train(settings(steps=2, rl={"heldout": 0}))
        first = len(count)
        train(settings("more", steps=6, rl={"heldout": 0}))
    assert len(count) <= 2 * first


@pytest.mark.parametrize(("role", "said", "least"), [("judge", 3, 2 / 3), ("user", 2, 1 / 3)])
def test_a_role_without_an_answer_costs_its_own_group_or_conversation_only(settings, monkeypatch, role, said, least):
    play = scripted._PARTS[role]

    def sometimes(inputs, draw):
        return {} if len(inputs["history"]) == said and inputs["profile"] < "M" else play(inputs, draw)

    made = settings(steps=2)
    monkeypatch.setitem(scripted._PARTS, role, sometimes)
    train(made)
    coverage = [line["coverage"] for line in records(made) if "coverage" in line]
    assert least <= min(coverage) < 1.0


def test_a_reward_that_is_not_finite_names_the_conversation(settings, monkeypatch):
    bad = RewardEntry(lambda cast, reply: float("nan"), (-1.0, 0.0))
    monkeypatch.setattr(rewards_table, "REWARDS", {**REWARDS, "length": bad})
    monkeypatch.setattr("aloe_jax.rollouts.rating.REWARDS", {**REWARDS, "length": bad})
    with pytest.raises(AloeError, match=r"rl\.rewards: a reward of conversation 0\.\d\.p\d+, turn 1, is not finite"):
        train(settings())


def test_a_budget_ends_the_run_saved_and_a_larger_one_goes_on(settings, capsys):
    whole = settings("whole")
    train(whole)
    made = settings("run", checkpoints={"every": 100}, rl={"max_calls": 80})
    train(made)
    assert "stopped by max_calls: this run has made its 80 calls: saved at step 1" in capsys.readouterr().out
    train(settings("run", checkpoints={"every": 100}))
    jax.tree.map(np.testing.assert_array_equal, weights(whole), weights(made))
    assert calls(whole) == calls(made)


def test_a_signal_while_replies_are_drawn_discards_the_step_and_nothing_is_asked_twice(settings, monkeypatch, capsys):
    """In the first step, in a later one and in a validation: saved before even the call under way has its answer."""
    whole, made = settings("whole", steps=4), settings(steps=4)
    train(whole)
    play, log = scripted._PARTS["judge"], Path(made.output, "train.log")
    heldout = {json.loads(line)["profile"] for line in Path(made.rl.personas).read_text().splitlines()[-3:]}

    def stopped():
        return log.read_text().count("stopped by SIGTERM")

    moments = [
        lambda inputs: inputs["history"][2:],  # the second turn of the first step
        lambda inputs: checkpoint_steps(made.output) and inputs["history"][2:],
        lambda inputs: inputs["profile"] in heldout,
    ]
    answered = []
    for number, due in enumerate(moments):
        asked, lock = [], threading.Lock()

        def judge(inputs, draw, asked=asked, lock=lock, due=due, number=number):
            with lock:
                first = not asked and due(inputs)
                if first:
                    asked.append(inputs)
            if first:
                os.kill(os.getpid(), signal.SIGTERM)
                end = time.monotonic() + 120
                while stopped() <= number and time.monotonic() < end:
                    time.sleep(0.05)
                answered.append(stopped() == number + 1)
            return play(inputs, draw)

        monkeypatch.setitem(scripted._PARTS, "judge", judge)
        train(made)
        shown = capsys.readouterr().out
        assert ("before the first step was done" if number == 0 else "saved at step") in shown
        assert len(calls(made)) < len(calls(whole)) and not Path(made.output, "finished.json").exists()
    assert answered == [True, True, True]
    assert "validating at step 2 was not completed: SIGTERM" in shown
    monkeypatch.setitem(scripted._PARTS, "judge", play)
    train(made)
    equal(whole, made)
    assert records(whole) == records(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"rows": 2}}, r"data\.rows: 4 conversations a step"),
        ({"data": {"path": "x"}}, r"data\.path: rl learns from conversations of its own"),
        ({"data": {"packing": "paths"}}, r"data\.packing"),
        ({"data": {"row_length": 16}}, r"data\.row_length: one group of 3 replies takes up to 21 tokens"),
        ({"rl": {"personas": None}}, r"rl\.personas: rl talks to personas"),
        ({"rl": {"group": 1}}, r"rl\.group"),
        ({"rl": {"group": 9}}, r"rl\.draw\.rows: a group of 9 replies"),
        ({"rl": {"rewards": {}}}, "name at least one of judge, length"),
        ({"rl": {"rewards": {"applause": 1.0}}}, r"rl\.rewards"),
        ({"rl": {"rewards": {"overlong": 1.0}}}, r"rewards: overlong is the reward of overlong=penalise, not of keep"),
        ({"rl": {"lookahead": 60}}, r"rl\.lookahead: a reply and 60 that follow it take up to 427 tokens"),
        ({"rl": {"branches": 4}}, r"branches: 4 of 3 replies \(group\) cannot be continued"),
        (
            {"rl": {"branches": 3, "branch_turns": 9, "turns": 9}},
            r"rl\.branches: a conversation would branch into 9,841",
        ),
        ({"rl": {"beta": 0.0}}, r"rl\.beta"),
        (
            {"rl": {"rewards": {"belief": 1.0}}, "roles": {"inducer": {"provider": "openai", "model": "m"}}},
            r"roles\.inducer: provider openai needs a key",
        ),
        ({"rl": {"overlong_part": 0.0}}, r"rl\.overlong_part"),
        ({"rl": {"rewards": {"judge": 0.0}}}, r"judge: its weight is 0; leave it out"),
        ({"rl": {"conversations": 8, "heldout": 8}}, r"personas\.jsonl has 12 personas .* 8 \(rl\.conversations\)"),
        ({"rl": {"loss": "policy_gradient", "updates": 2}}, r"rl\.updates: policy_gradient"),
        ({"rl": {"split": "benchmark"}}, r"rl\.split: the personas of the benchmark"),
        ({"model": {"path": None, "tokenizer": "x"}}, r"model\.path: rl starts from a trained model"),
        ({"roles": {"judge": {"provider": "openai", "model": "m"}}}, r"roles\.judge: provider openai needs a key"),
    ],
)
def test_what_cannot_be_right_is_refused_before_a_call_is_made(settings, changes, message, monkeypatch):
    monkeypatch.setitem(scripted._PARTS, "user", lambda inputs, draw: pytest.fail("asked"))
    plain = settings()
    given = {
        section: {**getattr(plain, section).model_dump(exclude_unset=True), **change}
        for section, change in changes.items()
    }
    with pytest.raises((AloeError, ValueError), match=message):
        train(settings(**given))


@pytest.mark.soak
def test_ten_kills_change_nothing(settings, tmp_path):
    """Processes killed in rollouts, calls, updates and saves: weights, metrics and journal of the undisturbed run.

    Users and judge are behind a server, whose own log shows that no call is made again once it is journaled.
    """
    log = tmp_path / "server.log"
    with running(log=log, latency=0.002) as server:
        one = {
            "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
            "checkpoints": {"every": 2},
            "steps": 40,
            "roles": {"provider": "openai", "model": "simulated", "endpoint": f"{server.url}/v1"},
        }
        environment = os.environ | {
            "XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONUNBUFFERED": "1", "OPENAI_API_KEY": "a-secret",
        }  # fmt: skip

        def launch(made):
            path = tmp_path / f"{Path(made.output).name}.yaml"
            path.write_text(dump_settings(made))
            return Process("aloe_jax.train", "--config", path, env=environment)

        whole, part = settings("whole", **one), settings("part", **one)
        process = launch(whole)
        printed = "".join(process.communicate(timeout=300))
        assert process.returncode == 0, printed
        draw = random.Random(0)
        kills = []  # when, and which calls were journaled by then
        for kill in range(10):
            process, before = launch(part), len(checkpoint_steps(part.output)) and checkpoint_steps(part.output)[-1]
            end = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < end:
                steps = checkpoint_steps(part.output)
                if kill % 2 == 0 or (steps and steps[-1] > before):
                    break
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 4.0 if kill % 2 == 0 else 1.0))
            process.kill()
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: give it more steps"
            done = calls(part) if Path(part.output, "journal.sqlite").exists() else []
            kills.append((time.time(), {key for (key,) in done}))
        process = launch(part)
        printed = "".join(process.communicate(timeout=300))
        assert process.returncode == 0 and "resuming after step" in printed, printed
    equal(whole, part)
    assert records(whole) == records(part)
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["id"] for line in requests} >= {key for (key,) in calls(whole)}  # both name a call alike
    assert any(done for _, done in kills)
    for when, done in kills:
        again = [line for line in requests if line["received"] > when and line["id"] in done]
        assert not again, f"{len(again)} finished calls were asked again"
