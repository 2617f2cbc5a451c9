"""What a run will ask of language models: calls by hand, tokens and dollars by price, and where a budget ends."""

import pytest

from aloe_jax.conversation import Persona
from aloe_jax.llm.ledger import Usage
from aloe_jax.llm.settings import Price
from aloe_jax.rollouts import rewards as table
from aloe_jax.rollouts.rewards import REWARDS, RewardEntry
from aloe_jax.training import rollout_costs as costs
from aloe_jax.training.settings import TrainSettings

PERSONAS = [Persona(id=f"p{n}", profile="Has a dog. " * (n + 1), personality="Calm. " * 3) for n in range(3)]


def configured(roles=None, steps=100, **rl):
    return TrainSettings.model_validate({
        "stage": "rl", "output": "run", "steps": steps, "evaluate_every": 30, "model": {"path": "start"},
        "data": {"row_length": 512, "rows": 4},
        "rl": {"personas": "p", "conversations": 2, "group": 3, "turns": 4, "heldout": 5,
               "draw": {"max_new_tokens": 16, "rows": 8}, **rl},
        "roles": roles or {"model": "m", "price": {"input": 1.0, "output": 10.0}},
    })  # fmt: skip


def expected(given, used=None):
    return costs.rollout_costs(given, PERSONAS, used or {}, given.steps)


def test_calls_of_a_step_a_validation_and_a_run():
    made = expected(configured())
    assert {one.player: one.calls for one in made.step} == {"user": 2 * 4, "judge": 2 * 4 * 3}
    assert {one.player: one.calls for one in made.validation} == {"user": 5 * 4, "judge": 5 * 4}
    assert made.validations == 4  # after 30, 60, 90 and the last
    assert made.calls(100) == 100 * 32 + 4 * 40 and made.calls(59) == 59 * 32 + 40
    assert expected(configured(heldout=0)).validations == 0
    offline = expected(configured(rewards={"length": 1.0}))
    assert [one.player for one in offline.step] == ["user"]


PRICE = {"input": 1.0, "output": 10.0}


@pytest.mark.parametrize(
    ("others", "asked"),
    [
        ({"judge": {"model": "n", "price": PRICE}}, [("user", "m", 8), ("judge", "m", 8), ("judge", "n", 8)]),
        ({"user": {"model": "n", "price": PRICE}}, [("user", "n", 8), ("judge", "m", 8)]),
    ],
)
def test_a_watch_counts_in_the_run_and_against_its_budget(others, asked):
    given = configured(watch={"every": 40, "personas": 2, "roles": others})
    made, plain = expected(given), expected(configured())
    assert [(one.player, one.model, one.calls) for one in made.watch] == asked
    calls, dollars = sum(count for *_, count in asked), sum(one.cost for one in made.watch)
    assert [made.watched_by(step) for step in (39, 40, 99, 100)] == [0, 1, 2, 3]
    assert made.calls(100) == plain.calls(100) + 3 * calls and made.watch_calls == calls
    assert made.dollars(40) == pytest.approx(plain.dollars(40) + dollars)
    assert made.within(plain.calls(40) + calls - 1, None) == 39 and made.within(None, plain.dollars(40)) == 39
    lines = list(made.lines(given.rl))
    assert any(line.startswith(f"at most a watch, of which there are 3: {calls} calls, ") for line in lines)
    assert any(line.startswith(f"at most in all: {plain.calls(100) + 3 * calls:,} calls, $") for line in lines)


def test_every_reward_asks_the_roles_of_its_entry(monkeypatch):
    two = RewardEntry(lambda cast, reply: 0.0, (0.0, 1.0), ("inducer", "judge"), 2)
    monkeypatch.setattr(table, "REWARDS", {**REWARDS, "length": two})
    made = table.calls_by_role(configured(rewards={"judge": 1.0, "length": 1.0}).rl, 2, 3)
    assert made == {"user": 8, "judge": 24 + 24, "inducer": 24}


def test_dollars_are_those_of_the_price():
    made = expected(configured())
    for one in made.step:
        assert one.cost == pytest.approx(Price(input=1.0, output=10.0).cost(one.input_tokens, one.output_tokens))
        assert one.input_tokens > one.output_tokens > 0 and not one.measured
    step, validation = (sum(one.cost for one in part) for part in (made.step, made.validation))
    assert made.dollars(100) == pytest.approx(100 * step + 4 * validation)
    assert expected(configured({"model": "m"})).dollars(1) is None
    assert expected(configured({"provider": "scripted"})).dollars(100) == 0.0


def test_a_journal_says_how_long_answers_are():
    used = {"m/judge": Usage(50, 10_000, 5_000, 1.0, 9.0, {"ok": 50})}
    user, judge = expected(configured(), used).step
    assert judge.measured and judge.output_tokens == 24 * 100 and not user.measured


@pytest.mark.parametrize(
    ("limits", "steps", "text"),
    [
        ({"max_calls": 32 * 10}, 10, "rl.max_calls: 320 ends the run after about 10 of 100 steps"),
        ({"max_calls": 32 * 30 + 39}, 29, "rl.max_calls: 999 ends the run after about 29 of 100 steps"),
        ({"max_calls": 10_000}, 100, "rl.max_calls: 10,000 suffices"),
        ({}, 100, None),
    ],
)
def test_a_budget_ends_the_run_after_so_many_steps(limits, steps, text):
    given = configured(**limits)
    made = expected(given)
    assert made.within(given.rl.max_calls, None) == steps
    lines = list(made.lines(given.rl))
    assert (text in lines) if text else not any("rl.max" in line for line in lines)
    assert lines[0].startswith("at most a step: user 8 (m), judge 24 (m); 32 calls, ")


def test_a_limit_of_dollars_does_so_too():
    plain = expected(configured())
    given = configured(max_cost=plain.dollars(41) + 1e-9)
    assert expected(given).within(None, given.rl.max_cost) == 41
    assert "after about 41 of 100 steps" in list(expected(given).lines(given.rl))[-1]
