"""Models of one recipe stand together in the report; of a recipe with one run it says what that means."""

import json

import numpy as np
import pytest

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.recipes import case_pseudo_values, estimate_recipe
from aloe_jax.benchmark.results import METRICS, StoredTraining, load_results, ratings_of_cases, write_results
from aloe_jax.errors import AloeError
from aloe_jax.report import recipes
from aloe_jax.report.gathering import gather
from aloe_jax.report.page import render
from aloe_jax.report.summary_table import recipe_lines, table
from aloe_jax.report.tables import latex, markdown
from tests.benchmark.test_case_design import product
from tests.report import sample

CONDITIONAL = "conditional on these weights: another training seed would give other weights"


def trained(root, models, *, cases=12, people=None):
    """A run of models: name -> (mean rating, recipe, seeds)."""
    people = people or sample.personas(cases)
    spoken = [sample.talked(name, people, level) for name, (level, *_) in models.items()]
    results = sample.results(spoken, provider="openai")
    known = {
        name: results.models[name].model_copy(
            update={"training": StoredTraining(recipe=recipe, stages=("sft", "dpo")[-len(seeds) :], seeds=seeds)}
        )
        for name, (_, recipe, seeds) in models.items()
    }
    write_results(root, results.model_copy(update={"models": known}))
    return root


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """SFT and DPO in three runs each, seed by seed; base is one run, and DPO's runs are of very different levels."""
    models = {
        "base": (1.6, "b" * 16, (0,)),
        **{f"sft-s{seed}": (2.5 + seed / 20, "a" * 16, (seed,)) for seed in range(3)},
        **{f"dpo-s{seed}": (2.5 + 0.75 * seed, "d" * 16, (seed, seed)) for seed in range(3)},
    }
    return trained(tmp_path_factory.mktemp("sweep"), models)


def test_runs_of_a_recipe_stand_together(sweep):
    found = gather([sweep]).recipes
    assert [(one.name, one.labels) for one in found.results] == [
        ("sft", ("sft-s0", "sft-s1", "sft-s2")),
        ("dpo", ("dpo-s0", "dpo-s1", "dpo-s2")),
    ]
    dpo = found.results[1]
    assert dpo.seeds_text == "0, 1, 2" and not dpo.shared
    levels = [load_results(sweep).models[name].average.value for name in dpo.labels]
    assert dpo.numbers["average"] == pytest.approx(levels)
    assert dpo.by["average"].value == pytest.approx(sum(levels) / 3)


def test_a_recipes_interval_includes_training(sweep):
    """Every two runs of DPO differ for certain; that DPO is better than SFT cannot be known from three such runs."""
    report = gather([sweep])
    between = {(pair.first, pair.second): pair.by["average"].p for pair in report.pairs}
    assert between["dpo-s0", "dpo-s1"] < 0.01
    dpo = report.recipes.results[1].by["average"]
    assert dpo.low < 1.6 and dpo.high > 4.5 and dpo.low >= 1 and dpo.high <= 5
    (pair,) = report.recipes.pairs
    assert (pair.first, pair.second, pair.paired) == ("sft", "dpo", True)
    assert pair.by["average"].value > 0.5 and not pair.strong("average")


def test_the_variance_over_people_is_that_of_their_design(tmp_path, monkeypatch):
    """Where people share profiles or personalities, a mean over them has another variance."""
    people = product(6, 4)
    models = {f"{name}-s{seed}": (2.5, name * 16, (seed,)) for name in "ab" for seed in range(2)}
    asked = []

    def spied(function):
        def call(*arguments, **more):
            asked.append(arguments[-1])
            return function(*arguments, **more)

        return call

    for name in ("estimate_recipe", "compare_recipes"):
        monkeypatch.setattr(recipes, name, spied(getattr(recipes, name)))
    found = gather([trained(tmp_path, models, people=people)]).recipes
    assert len(found.results) == 2 and len(found.pairs) == 1
    assert len(asked) == 9 and set(asked) == {CaseDesign.of(people)}
    cases = load_results(tmp_path).cases
    tables = [case_pseudo_values(ratings_of_cases(cases[label], sample.TURNS)) for label in found.results[0].labels]
    expected = estimate_recipe(np.stack([one["ir"] for one in tables], axis=1), CaseDesign.of(people))
    assert found.results[0].by["ir"] == expected


def test_it_is_said_in_page_tables_and_terminal(sweep):
    report = gather([sweep])
    page, text, paper = render(report), markdown(report), latex(report)
    assert '<section id="recipes"' in page and "3 runs, seeds 0, 1, 2" in page and 'href="#recipes"' in page
    assert report.single_runs == ["base"]
    for where in (page, text, paper):
        assert f"Intervals and tests of base are {CONDITIONAL}" in where
    assert "| dpo    | 3 runs, seeds 0, 1, 2" in text and "sft → dpo" in text
    assert "dpo & 3 runs, seeds 0, 1, 2 & " in paper and r"sft $\rightarrow$ dpo & by seed & " in paper
    second = paper[paper.index(r"\label{tab:aloe-recipes}") :]
    assert "By recipe" in second and "By recipe" not in paper.removesuffix(second) and paper.isascii()
    caption = table(report).caption.plain
    assert "dpo, 3 runs, seeds 0, 1, 2: " in caption and "recipe sft → dpo: " in caption
    assert "dpo-s0 → dpo-s1" not in caption and CONDITIONAL in caption
    assert recipe_lines(report)[2].endswith("not significant")


def test_one_run_a_recipe_is_said_to_be_conditional(clear):
    assert not clear.recipes and clear.single_runs == ["weak", "strong", "middle"]
    for where in (render(clear), markdown(clear), latex(clear), table(clear).caption.plain):
        assert CONDITIONAL in where
    assert '<section id="recipes"' not in render(clear)


def test_a_run_that_is_there_twice_counts_once(tmp_path):
    models = {"a": (2.0, "d" * 16, (0, 1)), "again": (2.1, "d" * 16, (0, 1))}
    assert not gather([trained(tmp_path, models)]).recipes


def test_what_was_trained_once_is_said(tmp_path):
    models = {f"dpo-{seed}": (2 + seed / 10, "d" * 16, (7, seed)) for seed in (1, 2)}
    (one,) = gather([trained(tmp_path, models)]).recipes.results
    assert one.seeds_text == "1, 2" and one.shared == ("sft (seed 7)",)
    said = " ".join(gather([tmp_path]).recipes.notes())
    assert "Recipe dpo: its runs share the same sft (seed 7)" in said and "With two runs (dpo)" in said


def test_runs_of_other_seeds_are_not_paired(tmp_path):
    models = {f"one-{seed}": (2 + seed / 10, "c" * 16, (seed,)) for seed in (0, 1)}
    models |= {f"two-{seed}": (3 + seed / 10, "d" * 16, (seed,)) for seed in (1, 2, 3)}
    (pair,) = gather([trained(tmp_path, models)]).recipes.pairs
    assert not pair.paired and pair.by["average"].runs == (2, 3)


def test_what_recipes_have_in_common_of_their_seeds_is_paired(tmp_path):
    models = {f"one-{seed}": (2 + seed / 10, "c" * 16, (seed,)) for seed in (0, 1, 2)}
    models |= {f"two-{seed}": (3 + seed / 10, "d" * 16, (seed,)) for seed in (1, 2, 3)}
    (pair,) = gather([trained(tmp_path, models)]).recipes.pairs
    assert pair.paired and pair.by["average"].runs == (2, 2)


def test_chains_whose_seeds_are_the_same_in_another_stage_are_runs_of_their_own(tmp_path):
    """(0, 1) and (0, 0, 1) say the same of seeds in order; two runs of a recipe that do so are not taken for one."""
    models = {f"one-{i}": (2 + i / 10, "c" * 16, seeds) for i, seeds in enumerate([(0, 1), (1, 1), (2, 2)])}
    models |= {f"two-{i}": (3 + i / 10, "d" * 16, seeds) for i, seeds in enumerate([(0, 1), (0, 0), (2, 2)])}
    found = gather([trained(tmp_path, models)]).recipes
    assert [len(one.labels) for one in found.results] == [3, 3]
    (pair,) = found.pairs
    assert pair.paired and pair.by["average"].runs == (2, 2)


def test_runs_come_together_from_several_evaluations_that_were_alike(tmp_path):
    people = sample.personas(12)
    for seed in (0, 1):
        trained(tmp_path / str(seed), {"dpo": (2 + seed, "d" * 16, (seed,))}, people=people)
    report = gather([tmp_path / "0", tmp_path / "1"])
    (one,) = report.recipes.results
    assert one.name == "dpo" and one.labels == ("dpo (0)", "dpo (1)")
    other = json.loads((tmp_path / "1" / METRICS).read_text())
    other["settings"]["sampling"]["temperature"] = 0.3
    (tmp_path / "1" / METRICS).write_text(json.dumps(other))
    assert not gather([tmp_path / "0", tmp_path / "1"]).recipes


def test_results_of_before_open_and_nonsense_is_refused(sweep, tmp_path):
    record = json.loads((sweep / METRICS).read_text())
    (tmp_path / "transcripts.jsonl").write_bytes((sweep / "transcripts.jsonl").read_bytes())
    for model in record["models"].values():
        del model["training"]
    (tmp_path / METRICS).write_text(json.dumps(record))
    report = gather([tmp_path])
    assert not report.recipes and len(report.single_runs) == 7
    record["models"]["base"]["training"] = {"recipe": "x", "stages": ["sft"], "seeds": []}
    (tmp_path / METRICS).write_text(json.dumps(record))
    with pytest.raises(AloeError, match=r"models.base.training: has 0 seeds of 1 runs"):
        gather([tmp_path])
