"""Conversations longer than a row: what fits is what it is without a limit, and the rest costs next to nothing."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.conversation import Conversation, Turn
from aloe_jax.data.chats import read_chat
from aloe_jax.data.loader import FIELDS
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.packing import pack_sources
from aloe_jax.data.preferences import Forest, read_comparison
from aloe_jax.data.prepare import token_trees
from aloe_jax.data.selection import BOTH, PAIRS, PLAIN, PREFERRED
from aloe_jax.data.template import ChatTemplate
from aloe_jax.errors import AloeError
from tests.conversations import PERSONA, conversation
from tests.data.families import FAMILIES, loaded
from tests.data.jsonl import chat, preference
from tests.data.prepared import message_tree
from tests.data.whole_paths import WholePaths

BRANCHES = ("preferred", "rejected")
# One of every kind of template: rewritten earlier turns, ends at the last turn only, open ends, what trims, plain ones.
OFTEN = ("llama3", "mistral", "qwen3", "olmo2", "open-end", "end-if-last", "gemma")


def random_talk(random, name, turns):
    """A tree in which any reply may be answered, with messages of any length, some of them longer than any row."""
    made, free = [], [(None, None)]
    for number in range(turns):
        # Mostly the newest reply is answered: long paths.
        which = len(free) - 1 if random.random() < 0.7 else int(random.integers(len(free)))
        follows, after = free.pop(which)

        def text(word, number=number):
            size = 2000 if random.random() < 0.05 else int(random.integers(1, 12))
            return " ".join(f"{word}{k}" for k in range(size)) + f" {name} {number}"

        rejected = None if random.random() < 0.2 else text("bad")
        turn = {"user": text("ask"), "preferred": text("good"), "rejected": rejected, "continued": "preferred"}
        made.append(Turn(**turn, hinted="preferred", follows=follows, after=after))
        free += [(number, branch) for branch in BRANCHES if branch == "preferred" or rejected is not None]
    return Conversation(id=name, persona=PERSONA, turns=made)


def rows_of(template, talks, row_length, selection, packing):
    try:
        trees = token_trees(map(message_tree, talks), template, row_length, selection, "w")
        rows, (report,) = pack_sources({"w": trees}, row_length, packing)
    except AloeError as error:
        return type(error), str(error).partition(" tokens (the longest")[0].partition(": the chat")[0]
    return rows, report


def check_same(name, talks, row_length, selection, packing):
    tokenizer, template = loaded(name)[1:]
    expected = rows_of(WholePaths(tokenizer), talks, row_length, selection, packing)
    found = rows_of(template, talks, row_length, selection, packing)
    if not isinstance(found[0], type(expected[0])) or isinstance(found[0], type):
        assert found == expected
        return
    assert found[0].reply_ids == expected[0].reply_ids and found[0].tree_ids == expected[0].tree_ids
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(found[0], field), getattr(expected[0], field))
    assert str(found[1]) == str(expected[1])


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.soak) for name in FAMILIES]
)
@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    row_length=st.sampled_from([24, 48, 64, 96, 150, 300, 700]),
    selection=st.sampled_from([PAIRS, PREFERRED, PLAIN, BOTH]),
    packing=st.sampled_from(["trees", "paths"]),
)
def test_what_fits_is_the_same_as_with_every_path_rendered(name, seed, row_length, selection, packing):
    random = np.random.default_rng(seed)
    talks = [random_talk(random, f"c{k}", int(random.integers(1, 40))) for k in range(2)]
    check_same(name, talks, row_length, selection, packing)


@pytest.mark.parametrize("name", ["llama3", "qwen3", "mistral", "gemma"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), row_length=st.sampled_from([64, 150, 300]))
def test_chats_and_joined_preferences_too(name, seed, row_length):
    random = np.random.default_rng(seed)
    chats = [read_chat(chat(f"Ada {k}", int(random.integers(1, 40)), "Speak kindly."), f"w {k}") for k in range(3)]
    check_same(name, chats, row_length, PREFERRED, "trees")
    said = [f"so {k}" for k in range(61)]
    records = [preference(said[: 2 * int(random.integers(0, 30)) + 1], f"a {k}", f"b {k}") for k in range(12)]
    for selection in (PAIRS, PREFERRED):
        joined = list(Forest(read_comparison(record, f"p {n}") for n, record in enumerate(records)).trees())
        check_same(name, joined, row_length, selection, "trees")


LONG_MESSAGES = {
    (name, field, selection): pytest.mark.soak if (number + row + column) % 3 else ()
    for number, name in enumerate(("llama3", "qwen3", "end-if-last"))
    for row, field in enumerate(("user", "preferred", "rejected"))
    for column, selection in enumerate((PAIRS, PREFERRED, BOTH))
}  # every two of the three meet without the soak tests, too


@pytest.mark.parametrize(
    ("name", "field", "selection"), [pytest.param(*each, marks=marks) for each, marks in LONG_MESSAGES.items()]
)
def test_what_stands_behind_a_message_longer_than_any_row_is_in_none(name, field, selection):
    """The beginning of such a message, which is all that is rendered of it, would fit."""
    turns = [turn.model_copy() for turn in conversation(6).turns]
    turns[2] = turns[2].model_copy(update={field: "word " * 12_000, "continued": "preferred"})
    talks = [Conversation(id="c", persona=PERSONA, turns=turns), conversation(2, "d")]
    check_same(name, talks, 1500, selection, "trees")
    check_same(name, talks, 1500, selection, "paths")


# Forgets all but the last messages, from which on a path is not the beginning of a longer one.
FORGETS = (
    "{% for m in messages[-9:] %}{{ '<|start_header_id|>' + m.role + m.content + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant' }}{% endif %}"
)


@pytest.mark.parametrize("row_length", [20, 80, 150, 2000])
def test_a_template_that_forgets_is_followed_to_its_end(row_length):
    tokenizer = copy.deepcopy(loaded("llama3")[1])
    tokenizer.chat_template = FORGETS
    talks = [conversation(40), conversation(3, "c1")]
    expected, found = (
        rows_of(kind(tokenizer), talks, row_length, PAIRS, "trees") for kind in (WholePaths, ChatTemplate)
    )
    if row_length == 20:
        assert found == expected and found[0] is AloeError
        return
    np.testing.assert_array_equal(found[0].tokens, expected[0].tokens)
    assert str(found[1]) == str(expected[1])


def test_the_length_that_is_told_is_near_the_true_one():
    template = loaded("llama3")[2]
    talk = conversation(400)
    (whole,) = token_trees([MessageTree.of(talk)], template, 10**6, PAIRS, "w")
    (cut,) = token_trees([MessageTree.of(talk)], template, 500, PAIRS, "w")
    assert len(cut.nodes) < len(whole.nodes) / 5 and cut.turns == whole.turns == 400
    assert abs(cut.whole - whole.length) < 0.1 * whole.length
    with pytest.raises(AloeError, match=r"none of 1 trees of w fits a row of 20 tokens \(the longest has ") as caught:
        pack_sources({"w": token_trees([MessageTree.of(talk)], template, 20, PAIRS, "w")}, 20)
    assert abs(int(str(caught.value).split("has ")[1].split(")")[0]) - whole.length) < 0.2 * whole.length


CHILD = """
import json, os, sys, time
from aloe_jax.data.selection import PAIRS
from aloe_jax.data.settings import DataSettings
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from tests.data.prepared import gather
template = ChatTemplate(load_tokenizer(sys.argv[2]))
start = time.monotonic()
settings = DataSettings(path=sys.argv[1], row_length=int(sys.argv[3]))
made = gather(settings, template, PAIRS, "train", show=lambda s: None)
seconds = time.monotonic() - start
children = open(f"/proc/self/task/{os.getpid()}/children").read().split()  # what renders, too
peak = sum(int(open(f"/proc/{pid}/status").read().split("VmHWM:")[1].split()[0]) for pid in ["self", *children])
print(json.dumps([seconds, peak / 1024, str(made.report)]))
"""


@pytest.mark.parametrize(
    ("what", "wording"),
    [("turns", "1 trees lost "), ("line", "1 trees skipped: not even their first reply fits a row")],
)
def test_ten_thousand_turns_and_fifty_megabytes(tmp_path, what, wording):
    if what == "turns":
        long = [
            {"user": f"u{k}", "preferred": f"p{k}", "rejected": f"r{k}", "continued": "preferred"}
            for k in range(10_000)
        ]
    else:
        long = [{"user": "word " * 10_000_000, "preferred": "p", "rejected": "r", "continued": "preferred"}]
    record = conversation(1, "long").record() | {"turns": long}
    path = tmp_path / "long.jsonl"
    lines = [json.dumps(record), *(conversation(2, f"c{k}").to_json() for k in range(6))]
    path.write_text("\n".join(lines), encoding="utf-8")
    path.with_name("long.validation.jsonl").write_text(conversation(2, "v").to_json())
    loaded("llama3")[1].save_pretrained(tmp_path / "tokenizer")
    command = [sys.executable, "-c", CHILD, str(path), str(tmp_path / "tokenizer"), "1024"]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, mebibytes, report = json.loads(child.stdout)
    print(f"{what}: {seconds:.1f} s, {mebibytes:.0f} MiB: {report}")
    assert wording in report
    assert seconds < 20 and mebibytes < 1024
