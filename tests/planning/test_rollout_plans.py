"""Plans of on-policy training: what drawing takes against counts by hand, and how a step adds up."""

import json
import math
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

from aloe_jax import plan
from aloe_jax.data.trees import Node, TokenTree
from aloe_jax.parallel.chips import read_topology
from aloe_jax.planning.drawing import DrawnTokens
from aloe_jax.planning.plan import Subject, estimate_plan, prepared
from aloe_jax.planning.remote import remote_calls
from aloe_jax.planning.search import search
from aloe_jax.planning.table import table
from aloe_jax.planning.workload import Conversations, Shape
from aloe_jax.training import memory
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.work import Work
from tests.planning.subjects import SPEC

VALUES = {
    "stage": "rl",
    "output": "run",
    "steps": 20,
    "model": {"path": "runs/dpo/Meta-Llama-3-8B-Instruct", "dtype": "bfloat16", "compute_dtype": "bfloat16",
              "remat": "full"},
    "data": {"row_length": 1024, "rows": 8, "accumulate": 2},
    "mesh": {"data": 1, "fsdp": 2, "tensor": 2},
    "rl": {"personas": "nowhere", "conversations": 6, "group": 3, "turns": 4, "concurrency": 4,
           "draw": {"max_new_tokens": 32, "rows": 8}},
    "roles": {"model": "gemini-3.5-flash-lite"},
}  # fmt: skip
SHAPE = Shape(64, turns=99, user_tokens=10, reply_tokens=15)


def subject(topology="v5e:2x2", **changes):
    values = json.loads(json.dumps(VALUES))
    for key, change in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section][name] = change
        else:
            values[section] = change
    settings = TrainSettings.model_validate(values)
    return Subject(settings, SPEC, "a test", read_topology(topology), Conversations(settings, SHAPE), latency=2.0)


def test_tokens_of_a_step_by_hand():
    """Two conversations of two turns with groups of two, in two waves and in one."""

    def tree(lengths):
        (first, (a, b)), (second, (c, d)) = lengths
        return TokenTree("t", (
            Node(-1, [0] * first, turn=0), Node(0, [0] * a, a, 0), Node(0, [0] * b, b, 0),
            Node(2, [0] * second, turn=1), Node(3, [0] * c, c, 1), Node(3, [0] * d, d, 1),
        ), ())  # fmt: skip

    trees = [tree([(5, (3, 4)), (6, (70, 2))]), tree([(1, (2, 2)), (1, (1, 9))])]
    divided = DrawnTokens.of(trees, waves=2, rows=1, siblings=2)
    assert (divided.tokens, divided.read) == (93, 13)
    assert divided.steps == 4 + 70 + 2 + 9 and divided.calls == 2 * 2
    together = DrawnTokens.of(trees, waves=1, rows=1, siblings=2)
    assert together.steps == max(4, math.ceil(11 / 2)) + max(70, math.ceil(82 / 2)) and together.rows == 2
    # A group a call where there is a row for one conversation; a reply of more than a page takes no further one.
    assert together.calls == 2 + 2 and DrawnTokens.of(trees, waves=1, rows=2, siblings=2).calls == 1 + 1
    branched = TokenTree("b", (
        Node(-1, [0], turn=0), Node(0, [0], 1, 0), Node(1, [0], turn=1), Node(2, [0], 1, 1), Node(2, [0], 1, 1),
        Node(0, [0], 1, 0), Node(5, [0], turn=1), Node(6, [0], 1, 1), Node(6, [0], 1, 1),
    ), ())  # fmt: skip
    assert [DrawnTokens.of([branched, *trees], 1, rows, 2).calls for rows in (1, 2, 3, 4)] == [3 + 4, 2 + 2, 1 + 2, 2]
    # Every drawn token attends to its path and itself.
    keys = {(5, 3): 5 * 3 + 6, (5, 4): 5 * 4 + 10, (15, 70): 15 * 70 + 35 * 71, (15, 2): 15 * 2 + 3}
    keys |= {(1, 2): 2 * (1 * 2 + 3), (4, 1): 4 + 1, (4, 9): 4 * 9 + 45}
    assert together.seen == divided.seen == sum(keys.values())
    shared = {(5, 3), (5, 4), (15, 70), (15, 2), (1, 2), (4, 1), (4, 9)}
    own = {(before, length): before * length for before, length in shared}
    # Siblings read what is before them together: half of it each.
    assert together.fetched == together.seen - (sum(own.values()) + own[1, 2]) / 2
    assert together.seen_reading == 15 + (9 * 6 + 21) + 1 + (3 * 1 + 1)


def test_a_step_is_drawing_reference_and_updates_or_the_calls():
    made = estimate_plan(subject(rl__kl=0.1))
    work = made.workload
    assert made.device_step == pytest.approx(made.roofline.bound + made.drawing.seconds + made.reference.bound)
    assert made.device_step <= made.device_step_serial
    calls = {"user": 6 * 4, "judge": 6 * 4 * 3}
    assert made.remote.calls == calls and made.remote.seconds == 2.0 * calls["judge"] / 4
    assert made.step == max(made.device_step, made.remote.seconds) == made.remote.seconds
    assert made.seconds == 20 * made.step
    assert work.flops == pytest.approx(Work.of(work.packed.rows, SPEC).flops.sum())
    assert estimate_plan(subject(roles={"provider": "scripted"})).remote is None
    offline = estimate_plan(subject(roles={"provider": "scripted"}))
    assert offline.step == offline.device_step and offline.reference is None


def test_calls_wait_for_a_conversations_turns_and_for_limits():
    few = subject(rl__concurrency=1000).settings
    assert remote_calls(few, 2.0).seconds == 2.0 * (4 + 1)  # the user's turns follow each other, then the last rating
    unrated = subject(rl__concurrency=1000, rl__rewards={"length": 1.0}).settings
    assert remote_calls(unrated, 2.0).seconds == 2.0 * 4
    ahead = subject(rl__concurrency=1000, rl__rewards={"length": 1.0}, rl__lookahead=3).settings
    assert remote_calls(ahead, 2.0).seconds == 2.0 * (1 + 4 * 3)  # the first message, and three answers a turn
    slow = subject(rl__concurrency=1000, roles={"model": "m", "requests_per_minute": 60}).settings
    assert remote_calls(slow, 2.0).seconds == pytest.approx(6 * 4 * 4)  # one model plays both
    judged = subject(roles={"model": "m", "user": {"provider": "scripted"}}).settings
    assert remote_calls(judged, 2.0).calls == {"judge": 72}


def test_memory_is_that_of_a_dry_run():
    for changes in ({}, {"rl__kl": 0.5, "data__accumulate": 4}, {"rl__draw": {"max_new_tokens": 32, "rows": 512}}):
        given = subject(**changes)
        made = estimate_plan(given)
        ready, mesh, workload = prepared(given, real=False)
        said = memory.estimate(ready.settings, SPEC, mesh, workload.packed.rows, workload.steps)
        assert made.peak == said.total
        assert made.demand.arguments < sum(said.state.values()) + said.working["batch"]


def test_more_updates_take_their_time_and_empty_rows_none():
    one, two = (estimate_plan(subject(rl__updates=updates)) for updates in (1, 2))
    assert two.computed.total == pytest.approx(2 * one.computed.total)
    assert two.workload.flops == 2 * one.workload.flops and two.demand.traffic == 2 * one.demand.traffic
    assert two.drawing == one.drawing
    # Six conversations of about 220 tokens fill two rows: one part of two, of four rows; or one of eight, of two.
    spare = estimate_plan(subject(data__rows=16, data__accumulate=8))
    assert len(spare.workload.packed.rows) == 2
    assert spare.computed.total == pytest.approx(one.computed.total / 2)


def test_drawing_reads_weights_for_every_token_of_all_rows():
    made = estimate_plan(subject(roles={"provider": "scripted"}, mesh={"data": 2, "fsdp": 1, "tensor": 2}))
    work, chip = made.drawing.work, made.subject.where.chip
    layers = sum(math.prod(w.shape) for name, w in SPEC.weights().items() if name.startswith("layers."))
    weights = 2 * (layers / 2 + SPEC.vocab * SPEC.width)  # the head is brought together
    cache = 2 * 2 * SPEC.layers * (SPEC.kv_heads // 2) * SPEC.head_size * work.fetched / 2  # half of the rows
    least = (work.steps * weights + cache) / chip.bandwidth
    assert made.drawing.decode.memory == pytest.approx(least, rel=0.02)  # norms are not split
    # Of the sampler's eight, groups of three have two conversations: six replies.
    assert work.rows == 6 and work.tokens < work.steps * work.rows
    split = estimate_plan(subject(roles={"provider": "scripted"}))
    assert split.drawing.decode.axes["fsdp"] > 0 and "fsdp" not in made.drawing.decode.axes


def test_the_search_keeps_the_conversations_of_a_step():
    found = search(subject(), compiles=False)
    assert found.best.fits and found.changes["data.rows"] >= 6 and found.changes["data.row_length"] == 1024
    assert found.best.subject.settings.rl.conversations == 6
    small = replace(subject().where, chip=replace(subject().where.chip, memory=found.best.peak - 1))
    other = search(replace(subject(), where=small), compiles=False)
    assert other.best.peak < found.best.peak and other.changes != found.changes


def test_the_table_and_the_command(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    asked = ["--config", str(path), "--topology", "h100:4", "--model", "Llama-3.1-8B", "--estimate"]
    done = CliRunner().invoke(plan.main, [*asked, "--latency", "0.5", "--price", "2"])
    assert done.exit_code == 0, done.output
    for text in (
        "assumed, since the policy draws it: 40 tokens a user's message, 32 a reply", "while replies are drawn: keys",
        "the layers' weights once more, for drawing", "its updates take at least", "drawing      at least",
        "at most 24 to users and 72 to judges a step: 9.0 s at 4 at once (rl.concurrency) of 0.5 s (--latency)",
        "a step takes at least 9,000 ms, by the calls", "20 steps, at least 3.0 minutes", "at $2 a chip-hour",
    ):  # fmt: skip
        assert text in done.output, text
    output = json.loads(CliRunner().invoke(plan.main, [*asked, "--json"]).output)
    assert output["seconds"]["drawing"] > 0 and output["remote_calls_per_step"] == {"user": 24, "judge": 72}
    assert output["seconds"]["step"] == output["seconds"]["remote_calls"] == 18.0
    assert "reference" in table(estimate_plan(subject(rl__kl=0.1)))
