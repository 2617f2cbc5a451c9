from dataclasses import replace

import pytest

from aloe_jax.benchmark.results import load_results
from aloe_jax.report.gathering import gather
from tests.report import sample


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Directories: `first` (hostile, simulated, gaps), `second` (plain, with preferences), `anna.json`, `ben.json`."""
    root = tmp_path_factory.mktemp("runs")
    sample.write_hostile(root / "first")
    sample.write_plain(root / "second")
    sample.write_preferences(root / "second")
    results = load_results(root / "first")
    sample.write_human(root / "anna.json", "anna", results, "good")
    sample.write_human(root / "ben.json", "ben", results, "good", shift=-1)
    return root


@pytest.fixture(scope="session")
def one(runs):
    """The report on the hostile run alone."""
    return gather([runs / "first"])


@pytest.fixture(scope="session")
def both(runs):
    """The report on both runs, with people."""
    return gather([runs / "first", runs / "second"], [runs / "anna.json", runs / "ben.json"])


@pytest.fixture(scope="session")
def clear(tmp_path_factory):
    """One run without gaps or scripts, whose second model is far above the first and level with the third in IR."""
    people = sample.strangers(20)
    spoken = [
        sample.talked("weak", people, 1.6),
        sample.talked("strong", people, 4.2),
        sample.talked("middle", people, 2.9),
    ]
    root = tmp_path_factory.mktemp("clear")
    sample.write_results(root, sample.results(spoken, provider="openai"))
    return gather([root])


@pytest.fixture(scope="session")
def undecided(one):
    """The same, had no corrected test found a difference."""
    pairs = [
        replace(pair, by={name: found.model_copy(update={"p_holm": 0.5}) for name, found in pair.by.items()})
        for pair in one.pairs
    ]
    return replace(one, pairs=tuple(pairs))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of three models: one without records of RL, one that was watched, one with fewer steps that was not."""
    root = tmp_path_factory.mktemp("learning")
    sample.write_rl(root / "first")
    sample.write_rl(root / "second", steps=6, watch=False, scripted=False, level=1.0)
    people = sample.personas()
    names = ("sft", "rl", "other <b>")
    spoken = [sample.talked(name, people, 2 + 0.5 * number) for number, name in enumerate(names)]
    paths = ("nowhere", root / "first", root / "second")
    models = {name: {"path": str(path)} for name, path in zip(names, paths, strict=True)}
    sample.write_results(root / "run", sample.results(spoken, models=models))
    return root / "run"
