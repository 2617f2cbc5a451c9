"""The benchmark's own logic: the same pairs for everybody, fair samples, turns by round, honest environments."""

import json
import statistics
import subprocess
import sys
import threading

import click
import numpy as np
import pytest

from aloe_jax.data.packing import pack
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.llm.protocol import Request
from aloe_jax.models.opening import load_pretrained
from tests.benchmarks.peers import contest, environments
from tests.benchmarks.peers.contest import Ratio
from tests.benchmarks.peers.environments import TRL, TUNIX, find_python
from tests.benchmarks.peers.models import write_policy
from tests.benchmarks.peers.our_pairs import bucket, chain
from tests.benchmarks.peers.our_players import Players
from tests.benchmarks.peers.our_rl import row_length
from tests.benchmarks.peers.our_trees import tree_of
from tests.benchmarks.peers.rl_task import RLTask, rating
from tests.benchmarks.peers.task import (
    END,
    FIRST,
    Task,
    batches_by_length,
    batches_shuffled,
    padded_tokens,
    samples,
    word,
    worth,
)
from tests.benchmarks.peers.words import text
from tests.benchmarks.peers.worker import Gate

TASK = Task("nowhere", vocab=500, turns=5, conversations=12)


def test_draws_are_the_same_for_everybody_and_of_the_asked_shape():
    drawn = TASK.draw()
    assert drawn == Task("elsewhere", vocab=500, turns=5, conversations=12).draw()
    assert drawn != Task("nowhere", vocab=500, turns=5, conversations=12, seed=1).draw()
    replies = [reply for talk in drawn for turn in talk.turns for reply in (turn.preferred, turn.rejected)]
    assert {reply[-1] for reply in replies} == {END} and not any(END in reply[:-1] for reply in replies)
    assert min(min(reply[:-1]) for reply in replies) >= FIRST
    assert 57 < statistics.mean(map(len, replies)) < 63


def test_trees_and_pairs_hold_the_same_sequences():
    pairs = {pair.id: pair for pair in TASK.pairs()}
    for talk in TASK.draw():
        tree = tree_of(talk)
        rows, report = pack([tree], tree.length)
        assert report.pairs == TASK.turns and not report.skipped
        tokens, parent = rows.tokens[0], rows.parent[0]
        for number, id in enumerate(rows.reply_ids[0], start=1):
            name, side = id.rsplit("/", 1)
            at = int((rows.reply[0] == number).nonzero()[0][-1])
            path = [int(tokens[at])]
            while parent[at] != at:
                at = parent[at]
                path.append(int(tokens[at]))
            pair = pairs[name]
            assert tuple(path[::-1]) == pair.prompt + getattr(pair, side)
            assert tuple(t for node in chain(pair, side).nodes for t in node.tokens) == tuple(path[::-1])


def test_samples_cost_what_all_batches_cost():
    task = Task("nowhere", vocab=500, turns=10, conversations=32)
    for batches in (batches_by_length(task.pairs(), 2), batches_shuffled(task.pairs(), 8, seed=0)):
        mean = statistics.mean(map(padded_tokens, batches))
        rounds = samples(batches, padded_tokens, rounds=3, count=6, seed=0)
        for each in rounds:
            assert len(each) == 6
            assert statistics.mean(map(padded_tokens, each)) == pytest.approx(mean, rel=0.08)
        assert statistics.mean(padded_tokens(batch) for each in rounds for batch in each) == pytest.approx(
            mean, rel=0.02
        )
        assert rounds == samples(batches, padded_tokens, rounds=3, count=6, seed=0)
        assert worth(batches, batches, padded_tokens) == sum(map(len, batches))
        assert worth(rounds[0], batches, padded_tokens) == pytest.approx(6 * len(batches[0]), rel=0.08)
    grouped = batches_by_length(task.pairs(), 2)  # control: what comes first in them is not a fair sample
    assert statistics.mean(map(padded_tokens, grouped[:6])) > 1.5 * statistics.mean(map(padded_tokens, grouped))


def test_grouping_by_length_wastes_little_and_covers_all():
    pairs = TASK.pairs()
    batches = batches_by_length(pairs, 4)
    assert sorted(pair.id for batch in batches for pair in batch) == sorted(pair.id for pair in pairs)
    padded = sum(map(padded_tokens, batches))
    assert padded < 1.1 * sum(pair.tokens for pair in pairs) < sum(map(padded_tokens, batches_shuffled(pairs, 4, 0)))
    assert all(bucket(batch) % 128 == 0 and bucket(batch) >= batch[0].length for batch in batches)


def test_the_gate_holds_a_run_between_rounds():
    taken: list[int] = []
    gate = Gate()

    def train():
        for number in range(5):
            gate.step()
            taken.append(number)
        raise ValueError("no more data")

    gate.start(train)
    assert taken == [] and gate.closed
    gate.run(2)
    assert taken == [0, 1]
    gate.run(1)
    assert taken == [0, 1, 2]
    with pytest.raises(ValueError, match="no more data"):
        gate.run(5)
    assert threading.active_count() < 50


def test_a_worker_answers_in_json_whatever_is_printed_and_tells_errors():
    code = """
import os
from tests.benchmarks.peers.worker import serve

def double(request):
    print("noise")
    os.system("echo more noise")
    return {"twice": 2 * request["x"]}

serve({"double": double})
"""
    requests = [{"do": "double", "x": 4}, {"do": "double", "x": "a"}, {"do": "double"}, {"do": "double", "x": 1}]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="".join(json.dumps(each) + "\n" for each in requests),
        capture_output=True,
        text=True,
        check=True,
        cwd=environments.ROOT,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [{"twice": 8}, {"twice": "aa"}, {"error": "KeyError: 'x'"}]
    assert "more noise" in done.stderr


def test_ratios_are_taken_within_rounds():
    def side(rates):
        made = object.__new__(contest.Side)
        made.records = [{"round": number, "done": rate, "wall": 1.0} for number, rate in rates.items()]
        return made

    # The machine was twice as slow in round 1: the medians over rounds would say 5, 7.5 or 10.
    ratio = contest.speed_ratio(side({0: 10.0, 1: 5.0, 2: 10.0}), side({0: 1.0, 1: 0.5}))
    assert ratio.values == (10.0, 10.0) and ratio.median == 10.0
    assert str(Ratio((3.0, 1.0, 2.0))) == "2.00 (1.00 to 3.00)"


def test_a_busy_machine_is_refused(monkeypatch):
    monkeypatch.setattr(contest.time, "sleep", lambda seconds: None)
    for used, refused in ((0.0, False), (0.5 * 5 * (contest.os.cpu_count() or 1), True)):
        clock = iter((100.0, 100.0 + used) * 2)
        monkeypatch.setattr(contest, "machine_seconds", lambda clock=clock: next(clock))
        if refused:
            with pytest.raises(click.ClickException, match="not quiet: 50%"):
                contest.check_quiet(allow_busy=False)
            contest.check_quiet(allow_busy=True)
        else:
            contest.check_quiet(allow_busy=False)


def test_requirements_are_pinned_and_name_no_place():
    for environment in (TRL, TUNIX):
        lines = [line for line in environment.requirements.read_text().splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines) and not any("://" in line or "@" in line for line in lines)
    assert 'torch==2.13.0+cpu ; sys_platform == "linux"' in TRL.requirements.read_text()


def test_a_missing_python_is_told(monkeypatch, tmp_path):
    assert find_python(f"{sys.version_info[0]}.{sys.version_info[1]}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(click.ClickException, match=r"Python 3\.99 is needed as python3\.99"):
        find_python("3.99")


def test_rl_prompts_are_those_of_the_chat_template_and_end_as_the_policy_does(tmp_path):
    task = RLTask(str(tmp_path), vocab=200, conversations=12, turns=4)
    assert [talk.id for talk in task.talks()] == [f"c{number}" for number in range(12)]
    assert task.prompts() == RLTask("elsewhere", vocab=200, conversations=12, turns=4).prompts()
    write_policy(task)
    words = load_tokenizer(task.policy)
    template = ChatTemplate(words)
    assert template.stop == (END,)
    for talk in task.talks()[:3]:
        history, path = [], []
        for (message, reply), prompt in zip(talk.turns, talk.prompts(), strict=True):
            history.append({"role": "user", "content": " ".join(map(word, message))})
            path += template.continuation(history)
            assert tuple(path) == prompt.tokens == tuple(words(text(prompt.tokens))["input_ids"])
            path += [*reply, END]
            history.append({"role": "assistant", "content": " ".join(map(word, reply))})
    lengths = [len(reply) for talk in RLTask("", conversations=100).talks() for _, reply in talk.turns]
    assert statistics.mean(lengths) == pytest.approx(sum((17 / 18) ** n for n in range(1, 41)), abs=1.0)
    logits = np.asarray(load_pretrained(task.policy)(np.array([prompt.tokens[-12:] for prompt in task.prompts()])))
    ends = np.exp(logits[:, :, END]) / np.exp(logits).sum(axis=-1)
    assert np.median(ends) == pytest.approx(1 / 18, rel=0.15)


def test_a_rating_depends_on_the_words_alone():
    assert [rating(words) for words in ("", "w4 w5 w7", "w4 w5 w6", "w6 w9 </s>", "w6 w4")] == [1, 1, 3, 5, 4]


def test_rows_of_rl_have_room_for_every_conversation():
    assert row_length(RLTask("")) == 1280
    assert row_length(RLTask("", mean_reply=0)) >= 10 * (18 + 3 + 4 * 41)


def test_the_players_speak_by_turn_and_rate_by_the_rule():
    def ask(role, **inputs):
        return json.loads(Players().complete(Request(role, inputs, "", "", {}, 0.0, 0)).text)

    history = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
    assert ask("user", profile="w5\nw7 w8", history=[]) == {"message": "w5"}
    assert ask("user", profile="w5\nw7 w8", history=history) == {"message": "w7 w8"}
    assert ask("judge", profile="w5", history=history[:1], reply="w6 w4") == {"rating": 4}


def test_sizes_divide_a_step_whatever_its_size():
    assert RLTask("").sizes(128, 64) == (128, 64)
    for conversations in (1, 2, 3, 5):
        task = RLTask("", conversations=conversations)
        together, batch = task.sizes(128, 64)
        assert task.replies % together == together % batch == batch % task.group == 0
