"""Without a terminal, long commands say at intervals what is finished, in flight and tried again, and why."""

import json
import os
import random
import re
import subprocess
import sys
import time

import pytest

from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.llm.world.persona_texts import write_personality, write_profile
from aloe_jax.progress import EVERY, VARIABLE, Progress
from aloe_jax.settings import dump_settings
from tests.forked import Process
from tests.players import SCRIPTED, small_settings
from tests.standin import running


@pytest.fixture(scope="module")
def server():
    with running(batch_seconds=1.5) as started:
        yield started


def command(*arguments, seconds=0.2):
    """Run a command without a terminal: (status, lines of stderr, seconds that it took)."""
    environment = os.environ | {VARIABLE: str(seconds), "OPENAI_API_KEY": "k", "GEMINI_API_KEY": "k"}
    start = time.monotonic()
    process = Process(*arguments, env=environment)
    _, errors = process.communicate()
    return process.returncode, errors.splitlines(), time.monotonic() - start


def written(folder, role=None, server=None, model="503x2", provider="openai", **more):
    """The path of a config whose `role` is played by the server's model of a name that says how it fails."""
    settings = small_settings(folder / "run", count=4, turns=1)
    roles = SCRIPTED.model_dump()
    if role:
        endpoint = server.url if provider == "genai" else f"{server.url}/v1"
        roles[role] = {"provider": provider, "model": model, "endpoint": endpoint, "attempts": 4}
    made = settings.model_copy(update={"roles": RolesSettings.model_validate(roles), **more})
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text(dump_settings(made))
    return str(folder / "c.yaml")


FAILED = re.compile(r"(\d+) attempts failed and were made again: (\d+) 503 Service Unavailable")


def test_conversations_while_calls_fail(tmp_path, server):
    assert command("datagen", "personas", "--config", written(tmp_path))[0] == 0
    status, lines, _ = command("datagen", "conversations", "--config", written(tmp_path, "responder", server))
    assert status == 0
    message = [line for line in lines if re.match(r"\d+ s: conversations \d of 4", line)]
    assert len(message) >= 3
    assert any(re.search(r"[1-9]\d* calls in flight, \d+ made; ", line) for line in message)
    counts = [int(found[2]) for line in message if (found := FAILED.search(line))]
    assert counts == sorted(counts) and counts[-1] == 16  # two of every call's attempts, of two replies in four turns
    assert "conversations 4 of 4" in message[-1]


def test_personas_while_the_writer_fails(tmp_path, server):
    more = small_settings(tmp_path).personas.model_copy(update={"profiles": 30})
    path = written(tmp_path, "persona_writer", server, personas=more)
    status, lines, _ = command("datagen", "personas", "--config", path)
    assert status == 0
    assert any(re.match(r"\d+ s: profiles \d+ of 32; [1] calls in flight", line) for line in lines)
    assert any(FAILED.search(line) for line in lines)


def test_batches_while_they_are_waited_for(tmp_path, server):
    assert command("datagen", "personas", "--config", written(tmp_path))[0] == 0
    settings = small_settings(tmp_path / "run", count=2, turns=1)
    endpoint = {"provider": "genai", "model": "plain", "endpoint": server.url}
    roles = RolesSettings.model_validate(
        SCRIPTED.model_dump() | dict.fromkeys(("user", "inducer", "responder", "verifier"), endpoint)
    )
    talk = settings.conversations.model_copy(update={"batch": True, "hint": False})
    (tmp_path / "b.yaml").write_text(dump_settings(settings.model_copy(update={"roles": roles, "conversations": talk})))
    process = subprocess.Popen(
        [sys.executable, "-m", "datagen", "conversations", "--config", str(tmp_path / "b.yaml")],
        env=os.environ | {VARIABLE: "0.2", "GEMINI_API_KEY": "k"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if re.match(r"\d+ s: waiting for 2 calls in 1 jobs 0 of 2", line):
                break
        else:
            raise AssertionError("the job was not message of")
    finally:
        process.kill()
        process.communicate()


def test_calibration_of_vectors_tells_of_embeddings(tmp_path, server):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"She is {n} and drives tram number {n * 7} in Porto.\n" for n in range(20, 180)))
    more = small_settings(tmp_path).personas.model_copy(update={"vectors": "gemini", "vector_model": "503x2"})
    path = written(tmp_path, "persona_writer", server, "503x2", "genai", personas=more)
    status, lines, _ = command("datagen", "calibrate", "--texts", str(texts), "--config", path)
    assert status == 0, lines
    assert any(re.match(r"\d+ s: sets of texts compared 0 of 1; embeddings \d+ of \d+; ", line) for line in lines)
    assert any(FAILED.search(line) for line in lines)


@pytest.mark.parametrize("phase", ["ratings", "calibration", "side by side", "dialogues"])
def test_the_benchmark_in_all_its_phases(tmp_path, server, phase):
    draw = random.Random(0)
    people = [{"id": f"b{i}", "profile": write_profile(draw), "personality": write_personality(draw)} for i in range(2)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(person) + "\n" for person in people))
    role = {"provider": "openai", "model": "503x2", "endpoint": f"{server.url}/v1", "attempts": 4}
    settings = {
        "output": str(tmp_path / "out"), "personas": str(tmp_path / "p.jsonl"), "cases": 2, "turns": 1, "bootstrap": 50,
        "permutations": 50, "roles": {"provider": "scripted", "judge": role}, "judging": {"calibrate": "skip"},
        "models": {"generic": {"scripted": "generic"}},
    }  # fmt: skip
    match phase:
        case "calibration":
            settings["judging"] = {"calibrate": "report", "calibration_personas": 10}
        case "side by side":
            settings["models"]["informed"] = {"scripted": "informed"}
            settings["judging"] |= {"pairs": [["generic", "informed"]]}
        case "dialogues":
            settings["models"] = {"far": {"remote": role}}
    (tmp_path / "e.yaml").write_text(json.dumps(settings))
    status, lines, _ = command("aloe_jax.evaluate", "--config", str(tmp_path / "e.yaml"))
    assert status == 0, lines
    message = [line for line in lines if re.match(r"\d+ s: ", line)]
    assert any(re.search(rf"{phase} [01] of [1-9]", line) and FAILED.search(line) for line in message), message
    assert any("calls in flight" in line for line in message)


def test_the_line(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        progress = Progress(ledger)
        assert progress.line() == "0 s: starting"
        one, _ = progress.add("ratings", 2000), progress.add("side by side", 8)
        one.advance(1234)
        for _ in range(3):
            ledger.count_fault("m", "judge", "timeout")
        ledger.count_fault("m", "judge", "429 Too Many Requests")
        assert progress.line() == (
            "0 s: ratings 1,234 of 2,000, side by side 0 of 8; 4 attempts failed and were made again: 3 timeout, "
            "1 429 Too Many Requests"
        )


def test_lines_come_often_enough_and_end_with_the_last(capsys):
    assert EVERY <= 30
    with Progress(every=0.05) as progress:
        task = progress.add("rows", 3)
        time.sleep(0.3)
        task.advance(3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and lines[0] == "0 s: rows 0 of 3" and lines[-1] == "0 s: rows 3 of 3"


def test_at_a_terminal_there_are_bars(tmp_path):
    """And the attempts that failed below them."""
    import pty

    code = (
        "import time\nfrom aloe_jax.llm.ledger import Ledger\nfrom aloe_jax.progress import Progress\n"
        f"with Ledger({str(tmp_path / 'j')!r}) as ledger, Progress(ledger) as progress:\n"
        "    task = progress.add('ratings [x]', 8)\n    ledger.count_fault('m', 'judge', 'timeout')\n"
        "    task.advance(5)\n    time.sleep(0.5)\n"
    )
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    assert process.wait() == 0
    text = shown.decode()
    assert "ratings [x]" in text and "5/8" in text
    assert "1 attempts failed and were made again: 1 timeout" in text
