"""How often a dialogue compiles, and that a second process compiles nothing again."""

import json
import os
import subprocess
import sys

import jax
import numpy as np

from aloe_jax.models import ModelSpec
from aloe_jax.sampling import Sampler
from tests.random_models import random_decoder

COMPILED = "/jax/core/compile/backend_compile_duration"
SPEC = ModelSpec(
    vocab=50, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=24, max_length=1024
)  # fmt: skip


def converse(turns: int) -> list[list[list[int]]]:
    """Ten turns of eleven conversations in eight rows; lengths, settings, seeds and stop tokens differ."""
    random = np.random.default_rng(0)
    session = Sampler(random_decoder(SPEC, 0.4), rows=8).session(11)
    told = []
    for turn in range(turns):
        session.extend([random.integers(0, 50, random.integers(1, 90)).tolist() for _ in range(11)])
        settings = {
            "temperature": turn % 3,
            "top_k": 5 * (turn % 2),
            "top_p": 1 - 0.1 * (turn % 4),
            "min_p": 0.01 * turn,
        }
        stop = tuple(range(turn % 5))
        told.append(session.reply(8 + turn, seeds=range(turn, turn + 11), stop=stop, **settings))
    return told


def test_a_run_of_ten_turns_compiles_four_times_at_most():
    jax.clear_caches()
    random_decoder(SPEC, 0.4)
    names: list[str] = []

    def listen(event: str, seconds: float, **about) -> None:
        if event == COMPILED:
            names.append(about.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        told = converse(10)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(told) == 10 and max(len(reply) for reply in told[9]) > 8
    assert 2 <= len(names) <= 4, names


def test_a_second_process_reads_what_the_first_compiled(tmp_path):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "tests.sampling.test_compiles"]
    runs = [
        json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    ]
    assert runs[0]["told"] == runs[1]["told"]
    assert runs[0]["misses"] >= 4 and runs[1] == {"told": runs[0]["told"], "misses": 0, "hits": runs[0]["misses"]}


if __name__ == "__main__":
    counts = {"hits": 0, "misses": 0}

    def count(event: str, **_) -> None:
        for name in counts:
            counts[name] += event == f"/jax/compilation_cache/cache_{name}"

    jax.monitoring.register_event_listener(count)
    print(json.dumps({"told": converse(2), **counts}))
