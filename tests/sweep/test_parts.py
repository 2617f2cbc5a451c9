"""How the parts of a sweep follow each other, with stand-ins for the commands."""

import json
from pathlib import Path

import pytest

from aloe_jax.benchmark.results import write_results
from aloe_jax.errors import AloeError
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import write_atomically
from aloe_jax.storage.locks import Lock
from aloe_jax.sweep import run as parts
from aloe_jax.sweep.plan import plan_of
from aloe_jax.training.base import check_base
from aloe_jax.training.settings import TrainSettings
from tests.report import sample
from tests.sweep.lines import settings


@pytest.fixture
def commands(workspace, monkeypatch):
    """Stand-ins that leave what a finished training and a benchmark leave, or end as `ends` says, by name."""
    called, ends = [], {}

    def stand_in(arguments, environment):
        config = Path(arguments[-1])
        called.append(config.stem)
        status, finishes = ends.get(config.stem, (0, True))
        if config.stem == "benchmark":
            sample.write_plain(workspace / "sweep/benchmark", names=("sft-s0", "dpo-s0"), provider="scripted")
            return status
        run_settings = load_settings(TrainSettings, config)
        directory = Path(run_settings.output)
        directory.mkdir(parents=True, exist_ok=True)
        check_base(run_settings, directory)
        (directory / "spec.json").write_text("{}")
        (directory / "checkpoints/4/params").mkdir(parents=True, exist_ok=True)
        (directory / "checkpoints/4/params/weights").write_text(config.stem)
        if finishes:
            write_atomically(directory / "finished.json", "{}")
        return status

    monkeypatch.setattr(parts, "run_command", stand_in)
    return called, ends


NAMES = ["sft-s0", "dpo-s0", "sft-s1", "dpo-s1"]


def go():
    return parts.run_sweep(plan_of(settings()), {})


def test_all_in_order_and_no_run_twice(workspace, commands, capsys):
    called, _ = commands
    assert go() == 0 and called == [*NAMES, "benchmark"]
    assert (workspace / "sweep/report.html").exists() and "[5/5] benchmark" in capsys.readouterr().out
    assert go() == 0 and called == [*NAMES, "benchmark", "benchmark"]
    assert capsys.readouterr().out.count("done before") == 4


@pytest.mark.parametrize("changed", ["people.jsonl", "ratings.json", "nothing"])
def test_the_benchmark_follows_what_it_reads(workspace, commands, capsys, changed):
    """Personas, ratings by people, or another version of the package: its results are never taken from before."""
    called, _ = commands
    (workspace / "ratings.json").write_text("[]")
    plan = plan_of(settings(evaluate={"config": "evaluate.yaml", "set": {"judging.people": ["ratings.json"]}}))
    parts.run_sweep(plan, {})
    if changed != "nothing":
        (workspace / changed).write_text("other")
    parts.run_sweep(plan, {})
    assert called.count("benchmark") == 2 and len(called) == 6
    assert "computed anew; what its journal has is not asked again" in capsys.readouterr().out


def test_replies_with_defects_are_named_at_the_end(workspace, commands, capsys, monkeypatch):
    """As `aloe evaluate` does: the lines of recipes alone would hide that every reply repeats itself."""

    def same(arguments, environment):
        spoken = [sample.talked(name, sample.personas(), 2.0, text="Yes.") for name in ("sft-s0", "dpo-s0")]
        write_results(workspace / "sweep/benchmark", sample.results(spoken))
        return 0

    go()
    assert "warning: " not in capsys.readouterr().out
    monkeypatch.setattr(parts, "run_command", same)
    (workspace / "sweep/report.html").unlink()
    go()
    assert "warning: dpo-s0: 75.0% of its replies repeat themselves or an earlier one" in capsys.readouterr().out


def test_a_failure_ends_it_and_the_rest_follows_later(workspace, commands):
    called, ends = commands
    ends["dpo-s0"] = (1, False)
    with pytest.raises(AloeError, match="run dpo-s0 stopped with status 1; the same command goes on from there"):
        go()
    ends["dpo-s0"] = (0, False)  # a signal: it saved, and ended well
    with pytest.raises(AloeError, match="run dpo-s0 was stopped before its last step"):
        go()
    del ends["dpo-s0"]
    assert go() == 0
    assert called == ["sft-s0", "dpo-s0", "dpo-s0", *NAMES[1:], "benchmark"]


def test_missing_ratings_are_asked_for_again(workspace, commands):
    called, ends = commands
    ends["benchmark"] = (4, True)
    assert go() == 4 and (workspace / "sweep/report.html").exists()
    del ends["benchmark"]
    assert go() == 0 and called.count("benchmark") == 2


def test_a_benchmark_that_stops_has_no_report(workspace, commands):
    _, ends = commands
    ends["benchmark"] = (3, True)  # a limit
    assert go() == 3 and not (workspace / "sweep/report.html").exists()
    ends["benchmark"] = (1, True)
    with pytest.raises(AloeError, match="the benchmark stopped with status 1; the same command goes on from there"):
        go()


def test_other_weights_are_evaluated_again(workspace, commands):
    called, _ = commands
    go()
    (workspace / "sweep/dpo-s0/checkpoints/4/params/weights").write_text("other weights")
    go()
    assert called.count("benchmark") == 2 and len(called) == 6


def test_a_run_whose_beginning_was_trained_anew_is_refused(workspace, commands):
    go()
    (workspace / "sweep/sft-s0/checkpoints/4/params/weights").write_text("other weights")
    with pytest.raises(AloeError, match=r"sft-s0 is not what this run began with"):
        go()


def test_two_sweeps_do_not_write_into_one_directory(workspace, commands):
    (workspace / "sweep").mkdir()
    lock = Lock(workspace / "sweep" / parts.LOCK, str)
    with pytest.raises(AloeError, match="another sweep is writing into it"):
        go()
    lock.release()


def test_a_config_of_every_run_is_kept(workspace, commands):
    go()
    kept = load_settings(TrainSettings, workspace / "sweep/configs/dpo-s1.yaml")
    assert kept == plan_of(settings()).runs[3].settings
    assert json.loads((workspace / "sweep/dpo-s1/base.json").read_text())["model.path"]["path"] == "sweep/sft-s1"
