"""What failed is no answer: the next run asks again, with other seeds, for that and for nothing else."""

import json
import random

import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.results import load_results
from aloe_jax.evaluate import main
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.world.persona_texts import write_personality, write_profile
from aloe_jax.roles import ATTEMPTS, RoleError, derive_seed, persistent
from tests.moody_server import moody

CASES, TURNS = 3, 2
ROLE = "{{provider: openai, model: m, endpoint: '{url}', attempts: 1}}"


@pytest.fixture
def server():
    with moody() as started:
        yield started


@pytest.fixture
def run(tmp_path, server):
    """Run the benchmark; (status, last line, requests)."""
    draw = random.Random(0)
    people = [
        {"id": f"b{i}", "profile": write_profile(draw), "personality": write_personality(draw)} for i in range(CASES)
    ]
    (tmp_path / "personas.jsonl").write_text("".join(json.dumps(person) + "\n" for person in people))
    (tmp_path / "eval.yaml").write_text(
        f"output: {tmp_path}/out\npersonas: {tmp_path}/personas.jsonl\ncases: {CASES}\nturns: {TURNS}\nbootstrap: 50\n"
        f"permutations: 50\nconcurrency: 2\nroles:\n  provider: scripted\n  judge: {ROLE.format(url=server.url)}\n"
        "models: {generic: {scripted: generic}}\njudging: {calibrate: skip}\n"
    )

    def go(*overrides, output="out"):
        server.asked.clear()
        found = CliRunner().invoke(
            main, ["--config", f"{tmp_path}/eval.yaml", *overrides, f"output={tmp_path}/{output}"]
        )
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found.exit_code, found.stderr.strip().splitlines()[-1], list(server.asked)

    go.folder = tmp_path
    return go


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("truncated", "6 truncated (raise roles.judge.max_output_tokens)"),
        ("fragment", "6 truncated (raise roles.judge.max_output_tokens)"),
        ("blocked", "6 blocked by a safety filter"),
        ("empty", "6 empty"),
        ("garbage", "6 unreadable"),
    ],
)
def test_ratings_that_failed_are_asked_for_again_with_other_seeds(run, server, mood, reason):
    server.mood = lambda asked: mood
    status, last, first = run()
    assert status == 1
    assert last == f"Error: coverage 0%: 6 of 6 ratings are missing: {reason}; the same command asks for them again"
    seeds = {asked.seed for asked in first}
    assert len(seeds) == 6 * ATTEMPTS
    _, _, again = run("roles.judge.max_output_tokens=16384")
    assert not seeds & {asked.seed for asked in again} and len({asked.seed for asked in again}) == 6 * ATTEMPTS
    server.mood = lambda asked: "ok"
    status, _, third = run()
    assert (status, len(third)) == (0, 6)
    assert not seeds & {asked.seed for asked in third}
    assert load_results(run.folder / "out").models["generic"].votes_coverage == 1
    assert run()[2] == []
    with Ledger(run.folder / "out/journal.sqlite") as ledger:
        outcomes = ledger.usage()["m/judge"].outcomes
    assert sum(outcomes.values()) == len(first) + len(again) + 6  # all calls stay booked


def test_a_few_missing_ratings_are_the_last_line_and_status_4(run, server):
    bad = []

    def mood(asked):
        # Of the first two ratings every attempt fails; of the others none.
        question = asked.prompt.partition("\n\nYour previous answer was")[0]
        if question not in bad and len(bad) < 2:
            bad.append(question)
        return "ok" if question not in bad else "blocked" if question == bad[0] else "garbage"

    server.mood = mood
    status, last, _ = run("concurrency=1")
    assert status == 4
    assert last == (
        "coverage 66.6%: 2 of 6 ratings are missing: 1 blocked by a safety filter, 1 unreadable; the same command asks "
        "for them again"
    )
    server.mood = lambda asked: "ok"
    status, _, again = run()
    assert (status, len(again)) == (0, 2)


def test_where_a_named_judge_s_setting_is(run, server):
    server.mood = lambda asked: "truncated"
    role = ROLE.format(url=server.url)
    _, last, _ = run(f"judging.judges={{strict: {role}}}")
    assert "6 truncated (raise judging.judges.strict.max_output_tokens)" in last


def test_a_missing_answer_in_an_old_journal_is_asked_for(run, server):
    status, _, _ = run("cases=2")
    assert status == 0
    journal = run.folder / "out/journal.sqlite"
    with Ledger(journal) as ledger:
        whole = ledger.all("rating")
        ledger.put_many(
            "rating", [(id, {"rating": None, "reason": "no rating"}) for id in list(whole)[:3]], replacing=True
        )
    # The calls are there, so nobody is asked: the ratings are what they were.
    assert run("cases=2")[2] == []
    with Ledger(journal) as ledger:
        assert ledger.all("rating").keys() == whole.keys()
        assert all(ledger.get("rating", id) == value for id, value in whole.items())


def test_a_run_that_is_stopped_again_and_again_ends_as_one_left_alone(run, server):
    """By limits of calls, which leave what a kill leaves: whole calls. A third of all answers is spoiled."""
    moods = ["truncated", "empty", "garbage", "ok", "ok", "ok", "ok", "ok", "ok"]
    server.mood = lambda asked: random.Random(asked.id).choice(moods)
    status, _, alone = run()
    assert status == 0 and any(random.Random(asked.id).choice(moods) != "ok" for asked in alone)
    seen = []
    for _ in range(60):
        status, _, asked = run("max_calls=1", output="stopped")
        seen += asked
        if status == 0:
            break
    assert status == 0
    assert sorted(asked.id for asked in seen) == sorted(asked.id for asked in alone)
    one, other = (load_results(run.folder / name) for name in ("out", "stopped"))
    assert one.cases == other.cases


def test_comparisons_and_the_judges_calibration(run, server):
    # The judge reads no dialogue side by side at first.
    server.mood = lambda asked: "truncated" if "which assistant" in asked.prompt.lower() else "ok"
    both = "models={generic: {scripted: generic}, informed: {scripted: informed}}"
    _, _, asked = run(both, "judging.pairs=[[generic, informed]]")
    compare = [one for one in asked if '"rating"' not in one.prompt]
    assert compare
    prompts = {one.prompt for one in compare}
    server.mood = lambda asked: "blocked" if asked.prompt in prompts else "ok"
    status, last, _ = run(both, "judging.pairs=[[generic, informed]]", output="other")
    assert status == 1 and last == (
        "Error: coverage 0%: 6 of 6 comparisons are missing: 6 blocked by a safety filter; the same command asks for "
        "them again"
    )
    server.mood = lambda asked: "ok"
    status, _, again = run(both, "judging.pairs=[[generic, informed]]", output="other")
    assert (status, len(again)) == (0, 6)

    server.mood = lambda asked: "empty"
    status, last, _ = run("judging.calibrate=require", "judging.calibration_personas=10", output="third")
    assert status == 1 and "gave a readable rating in 0% of the cases (missing: 50 empty)" in last
    server.mood = lambda asked: "ok"
    _, _, again = run("judging.calibrate=report", "judging.calibration_personas=10", output="third")
    assert len(again) == 50 + 6


def test_a_dialogue_that_stopped_goes_on_from_its_finished_turns(run, server):
    """Of a remote user, and of a remote model under test."""
    role = ROLE.format(url=server.url)
    remote = (f"roles.user={role}", f"models={{far: {{remote: {role}}}}}", "roles.judge={provider: scripted}")
    openings = []

    def mood(asked):
        if '"message"' in asked.prompt:  # the user: only openings are answered
            if "Assistant:" in asked.prompt:
                return "blocked"
            openings.append(asked)
        return "ok"

    server.mood = mood
    # The simulated judge knows the simulated world alone, so a server rates here, too.
    remote = remote[:2]
    status, last, _ = run(*remote)
    assert status == 4
    assert last == (
        "coverage 50.0%: 3 of 6 ratings are missing: 3 of dialogues that ended early: user blocked by a safety filter; "
        "the same command asks for them again"
    )
    server.mood = lambda asked: "ok"
    status, _, again = run(*remote)
    assert status == 0
    assert not {asked.id for asked in openings} & {asked.id for asked in again}
    assert len(again) == 9  # a message, a reply and a rating for each case


def test_models_that_are_opened_alike_share_the_attempts_of_a_run(run, server):
    server.mood = lambda asked: "empty"
    both = "models={generic: {scripted: generic}, informed: {scripted: informed}}"
    user = f"roles.user={ROLE.format(url=server.url)}"
    _, last, first = run(both, user)
    assert len(first) == CASES * ATTEMPTS
    assert "12 of dialogues that ended early: user empty; the same command asks for them again" in last
    _, _, again = run(both, user)
    assert len(again) == CASES * ATTEMPTS and not {a.seed for a in first} & {a.seed for a in again}


# ---------------------------------------------------------------- the seeds


def seeds(*parts):
    return [derive_seed(*parts, n) for n in range(20)]


def test_every_run_has_three_fresh_attempts_after_those_that_failed_before():
    asked = []

    def ask(stored, right):
        def once(seed):
            number = seeds("a", 1).index(seed)
            asked.append(number)
            if number == right:
                return number
            raise RoleError("user: empty reply, STOP", fresh=number not in stored)

        return once

    with pytest.raises(RoleError, match="empty"):
        persistent(ask((), None), "a", 1)
    assert asked == [0, 1, 2]
    asked.clear()
    with pytest.raises(RoleError, match="empty"):
        persistent(ask((0, 1, 2), None), "a", 1)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert persistent(ask((0, 1, 2, 3), 4), "a", 1) == 4
    # Killed after its second attempt: it goes on with the third, as it would have.
    assert persistent(ask((0, 1), 2), "a", 1) == persistent(ask((), 2), "a", 1) == 2
