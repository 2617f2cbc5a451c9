"""Watching an on-policy run by other roles: what is logged, what it costs, and that reward hacking shows."""

import json
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from aloe_jax.data.tokenizer import train_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.llm import scripted
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.llm.registry import PROVIDERS, ProviderEntry
from aloe_jax.llm.world import persona_texts, replies, user_messages
from aloe_jax.training import start
from aloe_jax.training.run import train
from aloe_jax.training.settings import TrainSettings
from tests.training.test_rl import equal, records, settings, world  # noqa: F401  fixtures among them


@pytest.fixture
def watched(settings, monkeypatch):  # noqa: F811
    """Settings of runs that are trained with a judge of length and watched by the scripted one."""
    monkeypatch.setitem(
        PROVIDERS, "wordy", ProviderEntry("wordy", "tests.training.wordy:Wordy", remote=False, needs_price=False)
    )
    plain = settings()

    def make(output="run", watch=None, rl=(), **changes):
        given = plain.rl.model_dump(exclude_unset=True) | {
            "rewards": {"judge": 1.0},
            "watch": {"every": 1, "personas": 2, "roles": {"judge": {"provider": "scripted"}}} | (watch or {}),
        }
        roles = {"provider": "scripted", "judge": {"provider": "wordy"}}
        return settings(output, **{"roles": roles, "rl": given | dict(rl), "steps": 2} | changes)

    return make


def lines_of(made, kind):
    lines = [json.loads(line) for line in Path(made.output, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def journal(made):
    """(model, role) of every call, in the order in which they were made."""
    with sqlite3.connect(Path(made.output, "journal.sqlite")) as database:
        return database.execute("SELECT model, role FROM calls ORDER BY finished").fetchall()


def test_both_judges_are_logged_and_a_watch_that_the_budget_cut_short_is_made_up_for(watched, capsys):
    whole, made = watched("whole"), watched("made")
    train(whole)
    shown = capsys.readouterr().out
    assert "watched every 1 steps with 2 of them and another judge: at most 18 calls each time" in shown
    assert "watch at step 1 | training judge" in shown and "watch at step 2 | training judge" in shown
    found = lines_of(whole, "watch")
    assert [line["step"] for line in found] == [1, 2]
    for line in found:
        assert line["gap"] == pytest.approx(line["judge"] - line["watch"]) and line["coverage"] == 1.0
        assert line["reward"] == pytest.approx(line["judge"])  # the judge's is the only reward
        assert {"judge/turn_03", "watch/turn_03", "reply_tokens", "judge_error", "watch_error"} <= line.keys()
    made_calls = journal(whole)
    other = [number for number, (model, role) in enumerate(made_calls) if role == "judge" and model != "wordy"]
    assert (
        6 <= len(other) <= 2 * 2 * 3
    )  # a reply a turn; those of the second watch that are as before are not asked again

    train(watched("made", rl={"max_calls": other[3]}))  # in the middle of the first watch
    shown = capsys.readouterr().out
    assert "watching at step 1 was not completed: max_calls" in shown and "saved at step 1" in shown
    assert not lines_of(made, "watch")
    train(made)
    equal(whole, made)
    assert records(whole) == records(made)


@pytest.mark.parametrize("watch", [True, False])
def test_what_the_budget_cuts_short_after_the_last_step_is_made_up_for(watched, settings, capsys, watch):  # noqa: F811
    configured = watched if watch else settings
    whole, made = configured("whole", steps=2), configured("made", steps=2)
    train(whole)
    kind, doing = ("watch", "watching") if watch else ("validation", "validating")
    for most in (len(journal(whole)) - 3, 1):  # the second start, with a budget of its own, finds all steps done
        capsys.readouterr()
        train(configured("made", steps=2, rl={"max_calls": most}))
        shown = capsys.readouterr().out
        assert f"{doing} at step 2 was not completed: max_calls" in shown and "stopped by max_calls" in shown
        assert "saved at step 2; run the same command to go on" in shown and "complete at step" not in shown
        assert not Path(made.output, "finished.json").exists()
        assert 2 not in [line["step"] for line in lines_of(made, kind)]
    train(made)
    assert json.loads(Path(made.output, "finished.json").read_text()) == {"step": 2}
    equal(whole, made)
    assert records(whole) == records(made)
    losses = [Path(one.output, "checkpoints/2/metrics/metrics").read_text() for one in (whole, made)]
    assert losses[0] == losses[1]  # by which the best checkpoint is kept
    capsys.readouterr()
    train(made)  # verifies the files of the checkpoint
    assert capsys.readouterr().out.strip() == f"{made.output}: complete at step 2"


def test_a_watch_whose_provider_is_out_of_reach_is_skipped_but_for_the_last(watched, monkeypatch, capsys):
    made = watched()
    complete = scripted.Scripted.complete

    def unreachable(self, request):
        if request.role == "judge":
            raise UnavailableError("out of reach")
        return complete(self, request)

    with monkeypatch.context() as patched:
        patched.setattr(scripted.Scripted, "complete", unreachable)
        with pytest.raises(AloeError, match="out of reach"):
            train(made)
    shown = capsys.readouterr().out
    assert "watching at step 1 was not completed" in shown and "step 2/2" in shown
    assert not Path(made.output, "finished.json").exists()
    train(made)
    assert [line["step"] for line in lines_of(made, "watch")] == [2]


def test_with_another_user_alone_the_same_judge_rates(watched):
    made = watched(watch={"roles": {"user": {"provider": "scripted", "temperature": 0.1}}}, steps=1)
    train(made)
    (line,) = lines_of(made, "watch")
    assert "gap" not in line and line["watch"] == pytest.approx(line["reward"])
    assert {model for model, role in journal(made) if role == "judge"} == {"wordy"}


def test_a_run_may_be_watched_from_now_on_or_no_longer(watched):
    made = watched(steps=2)
    train(made.model_copy(update={"rl": made.rl.model_copy(update={"watch": None})}))
    shutil.rmtree(Path(made.output, "checkpoints/2"))
    Path(made.output, "finished.json").unlink()
    train(made)
    assert [line["step"] for line in lines_of(made, "watch")] == [1, 2]


@pytest.mark.parametrize(
    ("watch", "rl", "message"),
    [
        ({"roles": {}}, {}, r"rl\.watch\.roles: names neither a judge nor a user that differs from those of training"),
        ({"roles": {"judge": {"provider": "wordy"}}}, {}, r"rl\.watch\.roles: names neither"),
        ({"personas": 4}, {}, r"rl\.watch\.personas: 4 of the held-out personas .* there are 3 \(rl\.heldout\)"),
        (
            {"roles": {"user": {"provider": "scripted", "temperature": 0.1}}},
            {"rewards": {"length": 1.0}},
            r"rl\.watch\.roles\.judge: rl\.rewards asks no judge",
        ),
        (
            {"roles": {"provider": "openai", "model": "m"}}, {},
            r"rl\.watch\.roles\.user: provider openai needs a key",
        ),
        (
            {"roles": {"judge": {"provider": "openai", "model": "m", "endpoint": "http://localhost:1/v1"}}},
            {"max_cost": 1.0},
            r"rl\.watch\.roles\.judge\.price: max_cost needs the price",
        ),
        ({"every": 0}, {}, r"rl\.watch\.every"),
    ],
)  # fmt: skip
def test_a_watch_that_cannot_be_is_refused_before_weights_are_loaded(watched, watch, rl, message, monkeypatch):
    monkeypatch.setattr(start, "build_model", lambda *arguments: pytest.fail("loaded"))
    with pytest.raises((AloeError, ValueError), match=message):
        train(watched(watch=watch, rl=rl))


@pytest.mark.parametrize(
    ("roles", "rl", "message"),
    [
        ({"user": {"provider": "gemini"}}, {}, r"rl\.watch\.roles\.user\.model: provider gemini needs a model"),
        (
            {"judge": {"provider": "gemini", "model": "m"}},
            {"max_cost": 1.0},
            r"rl\.watch\.roles\.judge\.price: max_cost needs the price",
        ),
    ],
)
def test_a_dry_run_refuses_others_without_a_model_or_a_price(watched, roles, rl, message):
    with pytest.raises(AloeError, match=message):
        train(watched(watch={"roles": roles}, rl=rl), dry_run=True)


@pytest.mark.soak
def test_a_judge_that_rewards_length_alone_is_seen_through_within_20_steps(watched, world, tmp_path, capsys):  # noqa: F811
    """The policy has learned to answer the scripted users, with replies of several lengths; then length is all."""
    draw = random.Random(1)
    personas = [json.loads(line) for line in (world / "personas.jsonl").read_text().splitlines()]
    talks = []
    for number in range(400):
        persona = personas[number % len(personas)]
        facts = persona_texts.read_profile(persona["profile"])
        poles = persona_texts.read_personality(persona["personality"])
        said = user_messages.say(facts, poles, [], draw)
        reply = replies.respond(user_messages.hear(said).asked, facts, poles, replies.HINTED, draw)
        talks.append({"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]})
    for name, part in (("d.jsonl", talks[:360]), ("d.validation.jsonl", talks[360:])):
        (tmp_path / name).write_text("".join(json.dumps(talk) + "\n" for talk in part))
    texts = [message["content"] for talk in talks for message in talk["messages"]]
    train_tokenizer(texts, 600, tmp_path / "tokenizer")
    start = {
        "stage": "sft", "output": str(tmp_path / "start"), "steps": 150, "seed": 1,
        "model": {
            "tokenizer": str(tmp_path / "tokenizer"),
            "architecture": {
                "layers": 2, "width": 64, "query_heads": 2, "kv_heads": 2, "feed_forward": 128, "max_length": 512,
            },
        },
        "data": {"path": str(tmp_path / "d.jsonl"), "row_length": 256, "rows": 8},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 5},
    }  # fmt: skip
    train(TrainSettings.model_validate(start))
    made = watched(
        steps=20, seed=1,
        model={"path": str(tmp_path / "start")},
        data={"row_length": 512, "rows": 8, "accumulate": 1},
        rl={"conversations": 8, "heldout": 4, "group": 4, "turns": 2, "draw": {"max_new_tokens": 40, "rows": 32}},
        watch={"every": 5, "personas": 4},
        optimizer={"learning_rate": 3e-3, "warmup_steps": 1, "schedule": "constant"},
        checkpoints={"every": 20},
    )  # fmt: skip
    train(made)
    found = lines_of(made, "watch")
    assert [line["step"] for line in found] == [5, 10, 15, 20]
    assert found[-1]["judge"] > found[0]["judge"] and found[-1]["watch"] <= found[0]["watch"]
    assert found[-1]["gap"] > found[0]["gap"] + 0.5 and found[-1]["reply_tokens"] > found[0]["reply_tokens"]
    assert "reward hacking: since step" in capsys.readouterr().out
