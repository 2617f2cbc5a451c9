"""`python -m datagen` as a person meets it: killed, interrupted, resumed, asked for help."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from aloe_jax.llm.ledger import Ledger
from aloe_jax.settings import dump_settings, load_settings
from datagen.__main__ import main
from datagen.journal import CONVERSATION
from datagen.settings import DatagenSettings
from tests.players import small_settings

COUNT = 60


def datagen(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "datagen", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def here(*arguments: str) -> str:
    """The same in this process, which has the imports already."""
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def write_config(folder: Path) -> list[str]:
    folder.mkdir()
    settings = small_settings(folder / "run", count=COUNT, turns=6, concurrency=4)
    (folder / "config.yaml").write_text(dump_settings(settings))
    return ["--config", str(folder / "config.yaml")]


def heed_interrupts() -> None:
    """In a child: SIGINT as at a terminal. A shell starts background jobs with it ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_part_way(arguments: list[str], journal: Path, after: int, how: signal.Signals) -> tuple[int, int, str]:
    """Start `conversations`, send a signal once `after` are journaled: (status, journaled, stderr)."""
    command = [sys.executable, "-m", "datagen", "conversations", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - this test starts no threads
    )
    database = sqlite3.connect(journal, timeout=30)
    query = "SELECT count(*) FROM records WHERE kind = ?"
    deadline = time.monotonic() + 60
    while database.execute(query, (CONVERSATION,)).fetchone()[0] < after:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    os.kill(process.pid, how)
    errors = process.communicate(timeout=60)[1]
    journaled = database.execute(query, (CONVERSATION,)).fetchone()[0]
    database.close()
    return process.returncode, journaled, errors


def test_killed_and_interrupted_runs_end_like_a_run_left_alone(tmp_path):
    alone, stopped = write_config(tmp_path / "alone"), write_config(tmp_path / "stopped")
    for arguments in (alone, stopped):
        assert "12 training personas, 4 benchmark personas" in here("personas", *arguments)
    assert "already" in here("personas", *stopped)
    here("conversations", *alone)

    journal = tmp_path / "stopped" / "run" / "journal.sqlite"
    status, journaled, _ = stop_part_way(stopped, journal, 5, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert 5 <= journaled < COUNT
    status, journaled, errors = stop_part_way(stopped, journal, journaled + 5, signal.SIGINT)
    assert status == 130
    assert f"Stopped with {COUNT - journaled} to go; the same command goes on" in errors
    shown = here("conversations", *stopped, "conversations.concurrency=1")
    assert f"{COUNT - journaled} conversations written, {journaled} were there already" in shown
    assert "Simulated" in shown

    with Ledger(journal) as one, Ledger(tmp_path / "alone" / "run" / "journal.sqlite") as other:
        assert one.all(CONVERSATION) == other.all(CONVERSATION)
        assert len(one.all(CONVERSATION)) == COUNT
        calls = [{name: usage.calls for name, usage in ledger.usage().items()} for ledger in (one, other)]
        assert calls[0] == calls[1]

    assert "aloe_personas/1.0.0: 12 train, 4 benchmark" in here("build", *stopped)
    shown = here("stats", *stopped)
    assert f"{COUNT} of {COUNT} conversations, {COUNT * 6} turns" in shown
    assert "Simulated" in shown


COMMANDS = ("personas", "calibrate", "coverage", "conversations", "build", "stats", "browse", "convert")


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_help_has_an_example(command):
    start = time.monotonic()
    result = datagen(*command, "--help")
    assert result.returncode == 0
    assert f"python -m datagen {' '.join(command)}" in result.stdout
    assert "Example" in result.stdout
    assert time.monotonic() - start < 5  # 0.5 s on an idle machine


def test_mistakes_are_told_in_one_line(tmp_path):
    arguments = write_config(tmp_path / "fresh")
    result = datagen("conversations", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert "python -m datagen personas" in result.stderr
    assert not (tmp_path / "fresh" / "run").exists()


def test_the_shipped_config_is_valid():
    shipped = load_settings(DatagenSettings, Path(__file__).parents[2] / "configs/datagen/scripted.yaml")
    assert shipped.personas.benchmark_profiles * shipped.personas.benchmark_personalities == 100
