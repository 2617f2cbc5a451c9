"""The generator against a server that fails, killed again and again: the result is that of a quiet life.

A fifth of all requests go wrong: half of them on the way (429, 503, 500, resets, hangs, cut bodies; drawn anew in
every attempt), half in what is answered (safety blocks, garbage, empty and truncated replies; fixed by the request).
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from aloe_jax.coverage import INCOMPLETE
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.settings import dump_settings
from datagen.journal import BATCH, CONVERSATION, POOL
from datagen.settings import ConversationsSettings, DatagenSettings, PersonasSettings
from tests.forked import Process
from tests.standin import running


def settings(folder, url, provider, count):
    roles = {
        "provider": provider,
        "model": "simulated",
        "endpoint": f"{url}/v1" if provider == "openai" else url,
        "timeout": 1.0,
        "price": {"input": 1.0, "output": 2.0},
    }
    return DatagenSettings(
        output=str(folder / "run"),
        personas=PersonasSettings(
            profiles=40, personalities=12, personalities_per_profile=5, benchmark_profiles=4, benchmark_personalities=2
        ),
        conversations=ConversationsSettings(count=count, turns=2, concurrency=32),
        roles=RolesSettings.model_validate(roles),
    )


def start(folder, verb, forked=True):
    arguments = ["datagen", verb, "--config", str(folder / "config.yaml")]
    environment = os.environ | {"GEMINI_API_KEY": "a-secret", "OPENAI_API_KEY": "a-secret"}
    if forked:
        return Process(*arguments, env=environment)
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder, forked=True):
    """Give both commands until nothing is skipped; what they printed."""
    printed = ""
    for verb in ("personas", "conversations"):
        for _ in range(4):
            process = start(folder, verb, forked)
            out, err = process.communicate(timeout=300)
            assert process.returncode == (INCOMPLETE if "skipped" in out else 0), err
            printed += out + err
            if "skipped" not in out:
                break
        else:
            raise AssertionError(f"still skipping after four runs:\n{out}")
    return printed


def prepared(folder, url, provider="gemini", *, count):
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_settings(settings(folder, url, provider, count)))
    return folder / "run" / "journal.sqlite"


def contents(journal):
    with Ledger(journal, writing=False) as ledger:
        return {kind: ledger.all(kind) for kind in (BATCH, POOL, CONVERSATION)}


def calls(journal):
    database = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        return dict(database.execute("SELECT key, text FROM calls"))
    except sqlite3.OperationalError:  # killed before the tables were made
        return {}
    finally:
        database.close()


def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def served(log):
    """How many requests the server has answered; it may be writing the next line."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_at_random_moments(folder, journal, log, wanted, seed):
    """Kill the commands `wanted` times; when that was, and which calls were journaled by then."""
    draw = random.Random(seed)
    kills = []
    verb = "personas"
    while len(kills) < wanted:
        process = start(folder, verb)
        enough = served(log) + draw.randint(1, 120)
        while process.poll() is None and served(log) < enough:
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()
            if verb == "conversations":
                break
            verb = "conversations"
            continue
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills.append((time.time(), calls(journal) if journal.exists() else {}))
    return kills


@pytest.mark.parametrize(("wanted", "count"), [(3, 30), pytest.param(20, 200, marks=pytest.mark.soak)])
def test_kills_leave_no_trace_and_nothing_is_asked_twice(tmp_path, wanted, count):
    log = tmp_path / "killed.log"
    with running(faults=0.2, seed=1, hang=30, retry_after=0.05) as server:
        alone = prepared(tmp_path / "alone", server.url, count=count)
        printed = finish(tmp_path / "alone", forked=False)  # with another hash seed
    with running(faults=0.2, seed=2, hang=30, retry_after=0.05, log=log) as server:
        killed = prepared(tmp_path / "killed", server.url, count=count)
        kills = kill_at_random_moments(tmp_path / "killed", killed, log, wanted, seed=3)
        printed += finish(tmp_path / "killed")
    assert len(kills) == wanted
    assert sum(len(done) > 0 for _, done in kills) > wanted / 2  # they fell into the work, not into the start

    one, other = contents(alone), contents(killed)
    assert len(other[CONVERSATION]) == count
    assert one == other
    assert calls(alone) == calls(killed)

    requests = lines(log)
    assert {"429", "503", "500", "reset", "hang", "cut"} <= {line["answer"] for line in requests}
    assert {"blocked", "empty", "garbage", "truncated"} <= {line["answer"] for line in requests}
    for when, done in kills:
        again = [line for line in requests if line["received"] > when and line["id"] in done]
        assert not again, f"{len(again)} finished calls were asked again"

    with Ledger(killed, writing=False) as ledger:
        usage, faults = ledger.usage(), ledger.faults()
    assert all(use.cost for use in usage.values())
    assert sum(use.outcomes.get("blocked", 0) for use in usage.values()) > 0
    assert sum(number for role in faults.values() for number in role.values()) > count / 4
    assert "a-secret" not in printed
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"a-secret" not in file.read_bytes(), file


def written(folder, provider):
    """What both commands write when the server is asked in the way of a provider."""
    with running(faults=0.1, retry_after=0.05, hang=30) as server:
        journal = prepared(folder, server.url, provider, count=12)
        for verb in ("personas", "conversations"):
            process = start(folder, verb)
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    return contents(journal)


@pytest.fixture(scope="module")
def of_gemini(tmp_path_factory):
    return written(tmp_path_factory.mktemp("of") / "gemini", "gemini")


@pytest.mark.parametrize("provider", ["genai", "openai"])
def test_the_other_sdks_write_the_same(tmp_path, of_gemini, provider):
    """The model's name is the same, so are the requests, and so is what the server answers."""
    assert written(tmp_path / provider, provider) == of_gemini
