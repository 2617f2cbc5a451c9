"""A judge without bias shows none: in `rate agreement` and in the report, which have one set of weights."""

import numpy as np
import pytest

from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.benchmark.human_ratings import HumanRating, HumanRatings, by_rater
from aloe_jax.benchmark.judge import JudgedReply, Vote
from aloe_jax.benchmark.rating.analysis import bias_by_model, compare, compare_with_people
from aloe_jax.benchmark.rating.key import Item, Key, Page
from aloe_jax.benchmark.rating.sample import candidates, draw
from aloe_jax.benchmark.rating.weights import run_weights, unrated, whole_key
from aloe_jax.benchmark.results import write_results
from aloe_jax.benchmark.scoring import Talked
from aloe_jax.report.gathering import Run, from_runs
from tests.report import sample

LEVELS = {"weak": 1.9, "middle": 2.8, "strong": 3.4}
CASES, TURNS, DRAWN = 40, 5, 90


class Trial:
    """A run, a judge with the same noise around the quality of a reply as every person, and a drawn page."""

    def __init__(self, seed, favour=None, rated=1.0):
        random = np.random.default_rng(seed)
        people = sample.personas(CASES)
        quality = {}

        def scored(level):
            return int(np.clip(round(level + random.normal(0, 0.6)), 1, 5))

        spoken = []
        for model, level in LEVELS.items():
            dialogues, verdicts = [], []
            for case, person in enumerate(people):
                own = level + random.normal(0, 0.5)
                texts = [f"{model} {case} {turn}" for turn in range(TURNS)]
                quality |= {text: own + random.normal(0, 0.7) for text in texts}
                dialogues.append(Dialogue(person, [DialogueTurn("hi", CandidateReply(text)) for text in texts]))
                given = [scored(quality[text] + (favour or {}).get(model, 0)) for text in texts]
                verdicts.append([JudgedReply((Vote("judge", 0, rating, ""),)) for rating in given])
            spoken.append(Talked(model, dialogues, verdicts))
        self.results = sample.results(spoken, turns=TURNS)
        sampled = draw(candidates({"run": self.results}), 1, DRAWN, 1.0, seed)
        (drawn,) = sampled.pages
        items = {
            one.item: Item(case=one.persona.id, weight=sampled.weights[one.item], places=[*one.places]) for one in drawn
        }
        self.key = Key(seed=0, simulated=[], pages=[Page(file="f", page="p1", items=list(items))], items=items)
        said = [one for one in drawn if random.random() < rated]
        self.files = {
            rater: HumanRatings(
                rater=rater,
                page="p1",
                ratings=[HumanRating(item=one.item, rating=scored(quality[one.reply])) for one in said],
            )
            for rater in "abc"
        }

    def unweighted(self, model):
        """The judge's bias for a model over the rated replies as they were drawn: evenly over the judge's ratings."""
        said = by_rater(self.files)
        own = [(item, one.places[0]) for item, one in self.key.items.items() if one.places[0].model == model]
        return np.mean([place.rating - np.mean([said[rater][item] for rater in said]) for item, place in own])

    def agreement(self):
        return {one.model: one.bias.value for one in compare(self.key, self.files, bootstrap=20).models}

    def report(self, folder):
        """Biases by model and of all, as the report has them."""
        write_results(folder, self.results)
        paths = []
        for rater, found in self.files.items():
            paths.append(folder / f"{rater}.json")
            paths[-1].write_text(found.model_dump_json())
        (found,) = from_runs([Run("run", self.results)], paths).people
        return {label: one.bias.value for label, one in found.models.items()}, found.found.bias


def test_the_report_and_rate_agreement_say_the_same(tmp_path):
    trial = Trial(0)
    by_model, overall = trial.report(tmp_path)
    assert by_model == pytest.approx(trial.agreement())
    assert overall == pytest.approx(compare(trial.key, trial.files, bootstrap=20).bias["judge"].value)


def test_an_unbiased_judge_shows_no_bias_for_any_model(tmp_path):
    """Without weights the weak model seems to be flattered by 0.2."""
    trials = [Trial(seed) for seed in range(12)]
    assert np.mean([trial.unweighted("weak") for trial in trials]) > 0.15
    found = [trial.report(tmp_path)[0] for trial in trials]
    for model in LEVELS:
        values = np.array([one[model] for one in found])
        error = values.std(ddof=1) / len(values) ** 0.5
        assert error < 0.05  # so that 0.2 would be seen
        assert abs(values.mean()) < 3 * error + 0.03  # what evening out the turns leaves


@pytest.mark.soak
def test_an_unbiased_judge_shows_no_bias_in_a_hundred_runs_where_raters_stop_early(tmp_path):
    found = [Trial(seed, rated=0.7).report(tmp_path)[0] for seed in range(100)]
    for model in LEVELS:
        values = np.array([one[model] for one in found])
        assert abs(values.mean()) < 0.05 + 3 * values.std() / 10


def test_a_judge_that_favours_a_model_is_seen_in_the_report(tmp_path):
    by_model, _ = Trial(1, favour={"middle": 1.0}).report(tmp_path)
    assert by_model["middle"] > 0.5 > max(by_model["weak"], by_model["strong"])


def test_weights_are_replies_of_the_run_over_those_rated():
    trial = Trial(2, rated=0.5)
    people = by_rater(trial.files)
    rated = [item for item in trial.key.items if item in people["a"]]
    for key in (trial.key, whole_key(trial.results.cases)):
        weights = run_weights(key, rated)
        assert weights.sum() == pytest.approx(len(LEVELS) * CASES * TURNS - unrated(key, rated)[0])
        assert unrated(key, rated)[1] == len(LEVELS) * CASES * TURNS
    np.testing.assert_allclose(run_weights(trial.key, rated), run_weights(whole_key(trial.results.cases), rated))
    everything = list(trial.key.items)
    np.testing.assert_allclose(run_weights(trial.key, everything), [item.weight for item in trial.key.items.values()])
    assert unrated(trial.key, rated[:3])[0] > 0
    few = {"a": {item: people["a"][item] for item in rated[:3]}}
    assert any("nobody has rated one of their model and rating" in line for line in missing(trial, few))


def missing(trial, people):
    files = {
        name: HumanRatings(
            rater=name, page="p1", ratings=[HumanRating(item=item, rating=rating) for item, rating in given.items()]
        )
        for name, given in people.items()
    }
    return compare(trial.key, files, bootstrap=5).missing


def test_without_ratings_there_is_no_bias():
    key = whole_key({})
    assert compare_with_people({"a": {}}, key).bias is None and bias_by_model(key, {"a": {}}) == []


def shared_trial(seed, pages_of=("dpo",), rated=1.0):
    """Two models that say the same at the first turn, SFT the first; judge and people see the same quality.

    Results, people's ratings by rater, the key of a page of `pages_of`, and the judge's mean rating of each model.
    """
    random = np.random.default_rng(seed)
    people, spoken = sample.personas(60), []
    first = {case: (f"both {case}", int(np.clip(round(2.2 + random.normal(0, 1)), 1, 5))) for case in range(60)}
    ratings = {}
    for model, level in (("sft", 2.2), ("dpo", 3.6)):
        dialogues, verdicts = [], []
        for case, person in enumerate(people):
            replies = [first[case]]
            replies += [
                (f"{model} {case} {turn}", int(np.clip(round(level + random.normal(0, 1)), 1, 5)))
                for turn in range(1, 6)
            ]
            ratings |= dict(replies)
            dialogues.append(Dialogue(person, [DialogueTurn("hi", CandidateReply(text)) for text, _ in replies]))
            verdicts.append([JudgedReply((Vote("judge", 0, rating, ""),)) for _, rating in replies])
        spoken.append(Talked(model, dialogues, verdicts))
    results = sample.results(spoken, turns=6)
    sampled = draw(candidates({"run": results}, pages_of), 1, 120, 1.0, seed)
    (drawn,) = sampled.pages
    items = {
        one.item: Item(case=one.persona.id, weight=sampled.weights[one.item], places=[*one.places]) for one in drawn
    }
    key = Key(seed=0, simulated=[], pages=[Page(file="f", page="p", items=list(items))], items=items)
    given = {one.item: ratings[one.reply] for one in drawn if random.random() < rated}
    true = {one.name: np.mean([verdict.rating for row in one.verdicts for verdict in row]) for one in spoken}
    return results, {"a": given, "b": given}, key, true


def test_a_page_of_one_model_says_nothing_of_another_that_gave_some_of_its_replies():
    """The first replies of DPO are SFT's too: a handful of them stood for all of SFT's, and were missing in DPO's."""
    off = []
    for seed in range(8):
        results, people, key, true = shared_trial(seed)
        by_key = {one.model: one for one in bias_by_model(key, people, 5)}
        found = {one.model: one for one in bias_by_model(whole_key(results.cases), people, 5)}
        assert found["sft"].items == 0 and found["sft"].judge.value is None
        assert found["dpo"].items == by_key["dpo"].items == 120
        assert found["dpo"].judge.value == pytest.approx(true["dpo"], abs=0.05)  # every rating was drawn
        off.append(found["dpo"].judge.value - by_key["dpo"].judge.value)
    assert abs(np.mean(off)) < 0.05


def test_a_page_of_both_models_stands_for_the_replies_of_each():
    for seed in range(4):
        results, people, _, true = shared_trial(seed, ())
        found = {one.model: one for one in bias_by_model(whole_key(results.cases), people, 5)}
        for model, mean in true.items():
            assert found[model].judge.value == pytest.approx(mean, abs=0.05)
            assert found[model].bias.value == pytest.approx(0, abs=1e-9)


def test_replies_that_nobody_drew_are_counted_as_not_represented():
    results, _, key, _ = shared_trial(0)
    items = list(key.items)
    assert unrated(key, items) == (0, 360)
    assert unrated(whole_key(results.cases), items) == (300, 660)  # SFT's own from the second turn on
    assert run_weights(whole_key(results.cases), items).sum() == pytest.approx(360)
