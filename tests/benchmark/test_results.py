"""A whole run with simulated players: what it stores, what it marks, and that one bad answer spoils nothing else."""

import json
import random

import numpy as np
import pytest

from aloe_jax.benchmark.alignment import alignment_metrics
from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.human_ratings import item_id
from aloe_jax.benchmark.results import Results, as_json, load_results, ratings_of_cases, write_results
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.benchmark.stages import evaluate
from aloe_jax.errors import AloeError
from aloe_jax.llm.protocol import Completion
from aloe_jax.llm.scripted import Scripted
from aloe_jax.llm.world.persona_texts import write_personality, write_profile
from aloe_jax.llm.world.user_messages import revealed
from tests.report import sample

CASES, TURNS = 6, 3
MODELS = {
    "generic": {"scripted": "generic"},
    "far": {"remote": {"provider": "scripted"}},
    "informed": {"scripted": "informed"},
}


@pytest.fixture(scope="module")
def personas(tmp_path_factory):
    draw = random.Random(0)
    profiles = [write_profile(draw) for _ in range(3)]
    lines = [{"id": f"b{i}", "profile": profiles[i // 2], "personality": write_personality(draw)} for i in range(CASES)]
    path = tmp_path_factory.mktemp("personas") / "personas.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(personas, output, **more):
    settings = {
        "output": str(output), "personas": str(personas), "models": MODELS, "cases": CASES, "turns": TURNS,
        "bootstrap": 100, "permutations": 100, "roles": {"provider": "scripted"}, **more,
    }  # fmt: skip
    return evaluate(EvaluateSettings.model_validate(settings)).results


@pytest.fixture(scope="module")
def whole(personas, tmp_path_factory):
    judging = {
        "judges": {"strict": {"provider": "scripted"}, "kind": {"provider": "scripted"}},
        "votes": 2,
        "pairs": [["generic", "informed"], ["generic", "far"]],
    }
    return run(personas, tmp_path_factory.mktemp("whole"), judging=judging)


def test_written_and_loaded_it_is_the_same(whole, tmp_path):
    write_results(tmp_path, whole)
    assert load_results(tmp_path) == whole
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    lines = (tmp_path / "transcripts.jsonl").read_text().splitlines()
    assert len(lines) == len(MODELS) * CASES


def test_numbers_fit_the_transcripts(whole):
    assert list(whole.models) == list(MODELS) and whole.complete
    for name, model in whole.models.items():
        cases = whole.cases[name]
        table = np.array([[turn.rating for turn in case.turns] for case in cases], float)
        level = alignment_metrics(table, 100, 0, CaseDesign.of([case.persona for case in cases])).model_dump()
        assert model.average.model_dump() == level["average"] and model.al == level["al"]
        assert sum(map(sum, model.histogram)) == CASES * TURNS * 4
        assert set(model.judges) == {"strict", "kind"} and model.votes_coverage == 1
        assert [len(group.personas) for group in model.by_profile] == [2, 2, 2]
        assert len(model.by_personality) == CASES
        means = [group.average.value for group in model.by_personality]
        assert np.mean(means) == pytest.approx(model.average.value)
        for case in cases:
            assert case.stopped is None and len(case.turns) == TURNS
            path = []
            for turn in case.turns:
                path.append({"role": "user", "content": turn.user})
                assert turn.item == item_id(case.persona, path, turn.reply)
                path.append({"role": "assistant", "content": turn.reply})
                assert [(vote.judge, vote.number) for vote in turn.votes] == [
                    (judge, vote) for judge in ("strict", "kind") for vote in (0, 1)
                ]
                assert set(turn.mentioned) <= set(turn.revealed) and not set(turn.leaked) & set(turn.revealed)
                said = [message["content"] for message in path if message["role"] == "user"]
                assert len(turn.revealed) == sum(map(len, revealed(said))) >= 1
    assert whole.models["informed"].automatic.untrue == 0 < whole.models["informed"].automatic.leaked
    assert whole.models["generic"].automatic.mentioned == 0 or whole.models["generic"].automatic.untrue > 0
    assert [model.kind for model in whole.models.values()] == ["reference", "remote", "reference"]


def test_judges_are_checked_and_compared(whole):
    assert [calibration.passed for calibration in whole.calibration] == [True, True]
    assert whole.agreement.raters == 4 and whole.agreement.alpha == pytest.approx(1)
    sure, even = whole.side_by_side
    assert (sure.first, sure.second, sure.wins, sure.coverage) == ("generic", "informed", CASES, 1)
    assert even.p is None or even.p > 0.01
    assert whole.simulated == ["the users", "the judges", "the model far", "the reference lines"]
    assert whole.differences == []  # only one model under test
    assert {name.split("/")[1] for name in whole.usage} == {"user", "responder", "judge", "comparer"}


def test_differences_are_of_every_two_models_under_test(personas, tmp_path):
    models = {name: {"remote": {"provider": "scripted", "temperature": i / 10}} for i, name in enumerate("abc")}
    found = run(personas, tmp_path, models=models)
    assert [(d.first, d.second) for d in found.differences[::3]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(d.p_holm >= d.p for d in found.differences)


@pytest.fixture(scope="module")
def good(personas, tmp_path_factory):
    return run(personas, tmp_path_factory.mktemp("good"))


BAD = {
    "prose": "I would say this is rather a good reply, four stars.",
    "out of range": '{"reason": "superb", "rating": 9}',
    "a fraction": '{"reason": "between", "rating": 3.5}',
    "nothing": "",
    "a null": '{"reason": "none", "rating": null}',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_judge_that_cannot_be_read_in_one_case_touches_no_other(personas, good, tmp_path, monkeypatch, bad):
    persona = good.cases["far"][2].persona
    answer = Scripted.complete

    def spoiled(self, request):
        if request.role == "judge" and request.inputs["personality"] == persona.personality:
            return Completion(bad, outcome="ok" if bad else "empty")
        return answer(self, request)

    monkeypatch.setattr(Scripted, "complete", spoiled)
    found = run(personas, tmp_path)
    for name in MODELS:
        for before, after in zip(good.cases[name], found.cases[name], strict=True):
            if before.persona == persona:
                assert [turn.rating for turn in after.turns] == [None] * TURNS
                assert all(turn.reason.startswith("no rating: ") for turn in after.turns)
                assert [turn.reply for turn in after.turns] == [turn.reply for turn in before.turns]
            else:
                assert after == before
        model = found.models[name]
        assert model.coverage == model.votes_coverage == pytest.approx((CASES - 1) / CASES)
        assert model.coverage_by_turn == pytest.approx([(CASES - 1) / CASES] * TURNS)
        others = np.array([[t.rating for t in case.turns] for case in good.cases[name] if case.persona != persona])
        assert model.al == pytest.approx(others.mean(axis=0).tolist())
        assert not model.complete
    assert not found.complete and good.complete


def test_one_judge_of_two_that_falls_silent_leaves_the_other_s_ratings(personas, tmp_path, monkeypatch):
    answer = Scripted.complete

    def spoiled(self, request):
        if request.role == "judge" and request.temperature == 0.5 and len(request.inputs["history"]) == 5:
            return Completion("no comment")
        return answer(self, request)

    monkeypatch.setattr(Scripted, "complete", spoiled)
    judges = {"steady": {"provider": "scripted"}, "moody": {"provider": "scripted", "temperature": 0.5}}
    found = run(personas, tmp_path, judging={"judges": judges})
    model = found.models["far"]
    assert model.coverage == 1 and model.votes_coverage == pytest.approx(5 / 6) and not model.complete
    assert model.judges["steady"].coverage == 1 and model.judges["moody"].coverage == pytest.approx(2 / 3)


def test_a_judge_that_fails_calibration_stops_the_run_before_any_dialogue(personas, tmp_path, monkeypatch):
    answer = Scripted.complete

    def flattering(self, request):
        if request.role == "judge":
            return Completion('{"reason": "lovely", "rating": 5}')
        if request.role == "user":
            pytest.fail("a user was asked")
        return answer(self, request)

    with monkeypatch.context() as patched:
        patched.setattr(Scripted, "complete", flattering)
        with pytest.raises(AloeError, match="judge rated everything alike"):
            run(personas, tmp_path / "a")
    monkeypatch.setattr(
        Scripted, "complete", lambda self, r: flattering(self, r) if r.role == "judge" else answer(self, r)
    )
    found = run(personas, tmp_path / "b", judging={"calibrate": "report"})
    assert not found.calibration[0].passed and found.calibration[0].correlation is None
    assert found.models["far"].average.value == 5
    assert run(personas, tmp_path / "c", judging={"calibrate": "skip"}).calibration == []


def test_people_are_compared_with_the_judges(personas, tmp_path, whole):
    ratings = [
        {"item": turn.item, "rating": round(turn.rating)}
        for case in whole.cases["informed"] + whole.cases["generic"]
        for turn in case.turns
    ]
    path = tmp_path / "anna.json"
    unique = list({one["item"]: one for one in ratings}.values())
    record = {"format": "aloe-human-ratings", "version": 1, "rater": "anna", "ratings": unique}
    path.write_text(json.dumps(record))
    found = run(personas, tmp_path / "out", judging={"people": [str(path)]}).people
    assert found.raters == ["anna"] and found.items == len(unique) and found.unknown == 0
    assert found.judge.alpha == pytest.approx(1) and found.people.alpha is None and found.bias == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "metrics.json").unlink(), "metrics.json: cannot be read"),
        (
            lambda d: (d / "metrics.json").write_text('{"version": 1}'),
            "results of version 1, this program reads version 2",
        ),
        (lambda d: (d / "metrics.json").write_text("[]"), "metrics.json: results of version"),
        (lambda d: (d / "transcripts.jsonl").write_text(""), "has 0 dialogues of generic"),
        (lambda d: (d / "transcripts.jsonl").write_text('{"model": 1}\n'), "transcripts.jsonl line 1: "),
    ],
)
def test_what_does_not_fit_is_refused(whole, tmp_path, change, message):
    write_results(tmp_path, whole)
    change(tmp_path)
    with pytest.raises(AloeError, match=message):
        load_results(tmp_path)


def test_json_values():
    assert as_json((1.0, float("nan"), np.array([np.inf, 2]), {"a": None})) == [1.0, None, [None, 2.0], {"a": None}]
    assert Results.model_fields["version"].default == 2


def test_ratings_of_cases_are_nan_where_there_is_none():
    spoken = [sample.talked("m", sample.strangers(5), 3.0, gap=(1, 2), stop=3)]
    cases = sample.results(spoken, provider="openai").cases["m"]
    found = ratings_of_cases(cases, sample.TURNS + 1)
    assert found.shape == (5, sample.TURNS + 1)
    expected = np.zeros(found.shape, bool)
    expected[:, -1] = expected[1, 2] = expected[3, 1:] = True
    assert (np.isnan(found) == expected).all()
    assert found[0, :2].tolist() == [turn.rating for turn in cases[0].turns[:2]]
    np.testing.assert_array_equal(ratings_of_cases(cases, 2), found[:, :2])
