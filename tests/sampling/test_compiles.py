"""How often a benchmark run compiles, and that a second process compiles nothing again."""

import json
import os
import subprocess
import sys

import jax

from aloe_jax.benchmark.candidates import ModelCandidate
from aloe_jax.benchmark.dialogue import Dialogue, DialogueTurn, NoReply
from aloe_jax.conversation import Persona
from aloe_jax.sampling.settings import SamplingSettings
from tests.sampling.tiny import saved_model

COMPILED = "/jax/core/compile/backend_compile_duration"


def benchmark(model: str, turns: int) -> list[Dialogue]:
    """Dialogues of eight personas with a model; users say more and more, and one says more than fits at once."""
    sampling = SamplingSettings(max_new_tokens=10, max_length=700, rows=8)
    partner = ModelCandidate(model, sampling).partner(8)
    dialogues = [Dialogue(Persona(id=f"p{number}", profile="A.", personality="B.")) for number in range(8)]
    for turn in range(turns):
        going = [dialogue for dialogue in dialogues if dialogue.stopped is None]
        users = [f"{'hello there ' * (turn * number // 12)}{number}" for number in range(len(going))]
        if turn == 4:
            users[3] = "x" * 700
        for dialogue, user, reply in zip(going, users, partner.reply(going, users, range(len(going))), strict=True):
            if isinstance(reply, NoReply):
                dialogue.stopped = reply.reason
            else:
                dialogue.exchanges.append(DialogueTurn(user, reply))
    return dialogues


def test_a_benchmark_run_of_ten_turns_compiles_four_times_at_most(tmp_path):
    """The loading of the model included."""
    directory = saved_model(tmp_path, 1024)
    jax.clear_caches()
    names: list[str] = []

    def listen(event: str, seconds: float, **about) -> None:
        if event == COMPILED:
            names.append(about.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        dialogues = benchmark(str(directory), 10)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert 2 <= len(names) <= 4, names
    finished = [dialogue for dialogue in dialogues if dialogue.stopped is None]
    assert len(finished) == 7 and all(len(dialogue.exchanges) == 10 for dialogue in finished)
    (stopped,) = (dialogue for dialogue in dialogues if dialogue.stopped is not None)
    assert len(stopped.exchanges) == 4 and "tokens of context are needed, 700 are there" in stopped.stopped


def test_a_second_process_reads_what_the_first_compiled(tmp_path):
    directory = saved_model(tmp_path, 256)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "tests.sampling.test_compiles", str(directory)]
    runs = [
        json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    ]
    assert runs[0]["replies"] == runs[1]["replies"] and any(runs[0]["replies"])
    assert runs[0]["misses"] >= 4 and runs[0]["hits"] == 0
    assert runs[1]["misses"] == 0 and runs[1]["hits"] == runs[0]["misses"]


if __name__ == "__main__":
    counts = {"hits": 0, "misses": 0}

    def count(event: str, **_) -> None:
        for name in counts:
            counts[name] += event == f"/jax/compilation_cache/cache_{name}"

    jax.monitoring.register_event_listener(count)
    done = benchmark(sys.argv[1], 2)
    print(json.dumps({"replies": [turn.reply.text for dialogue in done for turn in dialogue.exchanges], **counts}))
