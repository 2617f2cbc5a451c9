"""`aloe evaluate --rescore`: numbers of earlier versions anew, from what is stored, without a single question."""

import json

import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.dialogue import CandidateReply, DialogueTurn, Journal
from aloe_jax.benchmark.earlier_dialogues import report_unused
from aloe_jax.benchmark.results import METRICS, load_results
from aloe_jax.conversation import Persona
from aloe_jax.evaluate import main
from aloe_jax.llm import notices
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast
from tests.benchmark.rated_runs import write_run


def go(directory):
    return CliRunner().invoke(main, ["--rescore", str(directory)])


def edited(directory, change):
    record = json.loads((directory / METRICS).read_text())
    change(record)
    (directory / METRICS).write_text(json.dumps(record))


@pytest.fixture
def run(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(Cast, "_ask", refuse)
    write_run(tmp_path / "run", rate=lambda model, case, turn: None if case == turn == 1 else 1 + (case + turn) % 5)
    return tmp_path / "run"


def test_numbers_come_anew_from_transcripts_and_settings_alone(run):
    now = load_results(run)

    def as_before(record):
        del record["design"]
        record["settings"]["judging"] |= {"calibrate": "require", "calibration_personas": 6}  # refused today
        record["settings"]["sampling"]["max_new_tokens"] = 128
        record["calibration"] = [
            {"judge": "sternjudge", "ratings": {"generic": [3]}, "correlation": 0.9, "coverage": 1.0, "passed": True}
        ]
        for model in record["models"].values():
            model["average"] |= {"low": 2.0, "high": 2.1}

    edited(run, as_before)
    before = load_results(run)
    assert before.design is None
    found = go(run)
    assert found.exit_code == 0, found.output
    after = load_results(run)
    assert after.design == now.design and after.models == now.models and after.differences == now.differences
    assert after.cases == now.cases
    assert after.settings == before.settings and after.calibration == before.calibration
    assert (run / "report.html").is_file() and not (run / "journal.sqlite").exists()


def test_side_by_side_comparisons_follow_from_their_outcomes(run):
    outcomes = ["second"] * 9 + ["tie", None, "first"]
    first, second, _ = load_results(run).models
    pair = {
        "first": first, "second": second, "wins": 9, "ties": 1, "losses": 1, "win_rate": 0.5, "low": 0.5, "high": 0.5,
        "p": 0.9, "shown_first": 0.4, "contradictions": 0.1, "coverage": 0.9, "outcomes": outcomes,
    }  # fmt: skip
    edited(run, lambda record: record["side_by_side"].append(pair))
    assert go(run).exit_code == 0
    (after,) = load_results(run).side_by_side
    assert (after.wins, after.ties, after.losses) == (9, 1, 1) and after.win_rate == pytest.approx(9.5 / 11)
    assert after.p == pytest.approx(2 * 11 / 2**10) and after.low < after.win_rate < after.high
    assert (after.shown_first, after.contradictions, after.coverage) == (0.4, 0.1, 0.9)
    assert after.p_holm >= after.p


def test_a_stored_recipe_stays(run):
    trained = {"recipe": "0" * 16, "stages": ["sft"], "seeds": [3]}
    edited(run, lambda record: record["models"]["zebramodel"].update(training=trained))
    assert go(run).exit_code == 0
    assert load_results(run).models["zebramodel"].training.recipe == "0" * 16


def test_what_is_no_run_is_refused_in_a_line(tmp_path):
    found = go(tmp_path / "nothing")
    assert found.exit_code == 1
    assert found.stderr == (
        f"Error: {tmp_path}/nothing: holds no metrics.json; give --rescore the output directory of a finished run\n"
    )


# ---------------------------------------------------------------- dialogues that a run does not use

PERSONAS = [Persona(id=name, profile=f"Profile {name}.", personality=f"Personality {name}.") for name in "ab"]
USER = {"model": "scripted-3"}


def identity(most, files="f", path="/m"):
    return {"path": path, "files": files, "sampling": {"max_new_tokens": most, "temperature": 1.0}}


def heard(ledger, candidate):
    lines = []
    with notices.heard_by(lines.append):
        report_unused(ledger, "dpo", candidate, USER, 0, PERSONAS)
    return lines


def talk(ledger, candidate):
    turn = DialogueTurn("Hello", CandidateReply("Hi"))
    Journal(ledger, candidate, USER, 0, PERSONAS).write(0, [(0, turn), (1, turn)])


def test_dialogues_with_the_default_of_before_are_named(tmp_path):
    with Ledger(tmp_path / "j.sqlite") as ledger:
        talk(ledger, identity(128))  # of an earlier version, which kept no identities
        assert heard(ledger, identity(512)) == [
            f"warning: models.dpo: sampling.max_new_tokens was 128 (now 512) in {tmp_path}/j.sqlite: "
            "these 2 dialogues are not used"
        ]
        assert heard(ledger, identity(128)) == []  # they are used


def test_so_is_any_other_sampling_until_dialogues_have_begun(tmp_path):
    with Ledger(tmp_path / "j.sqlite") as ledger:
        assert heard(ledger, identity(300)) == []
        talk(ledger, identity(300))
        assert "sampling.max_new_tokens was 300 (now 512)" in heard(ledger, identity(512))[0]
        assert heard(ledger, identity(512, files="trained further")) == []  # other weights are another model
        talk(ledger, identity(512))
        assert heard(ledger, identity(512)) == []
