"""Conversion: lossless where the formats allow it, counted where they do not, and clear about bad lines."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.conversation import Conversation, Persona, Turn
from aloe_jax.data.chats import read_chat
from aloe_jax.data.messages import MessageTree
from aloe_jax.errors import AloeError
from datagen.convert import convert, read, read_pool, write_pool
from tests.conversations import conversation

# ---------------------------------------------------------------- samples

TURN = {
    "user": "I repotted the mint at five this morning.",
    "assistant": {"preferred": "Early! Did it forgive you?", "rejected": "Mint is a plant."},
    "chosen": "rejected",
    "inferred_profile": "He grows mint.",
    "inferred_personality": "",
}
PUBLISHED = {"profile": '"He grows mint."\n', "personality": "He is dry.", "conversations": [TURN, TURN]}


def write_jsonl(path: Path, *values) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def changed(value, where: str, new):
    """A deep copy of a JSON value with one place replaced, or removed when `new` is None."""
    copy = json.loads(json.dumps(value))
    *parents, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    inner = copy
    for part in parents:
        inner = inner[part]
    if new is None:
        del inner[last]
    else:
        inner[last] = new
    return copy


def lines(path: Path) -> list:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def forked() -> Conversation:
    """Both replies of the first turn are answered: 0 → 1 → 2 after the continued one, 3 → 4 after the other."""
    tree = conversation(5, continued="prprp")
    turns = list(tree.turns)
    turns[3] = turns[3].model_copy(update={"follows": 0, "after": "rejected"})
    return tree.model_copy(update={"turns": turns})


# ---------------------------------------------------------------- random trees

WORDS = st.sampled_from(["ash", "birch é", "cedar\n", '"elm"', "🌲", "yew\u2028", "oak oak"])


@st.composite
def trees(draw, one_reply: bool = True):
    """Any tree: caterpillars, forks, turns in any order that the type allows, few texts so that many are equal."""
    turns: list[Turn] = []
    places: list[tuple[int, str]] = []
    for number in range(draw(st.integers(1, 7))):
        place = places.pop(draw(st.integers(0, len(places) - 1))) if number else None
        preferred, rejected = draw(st.lists(WORDS, min_size=2, max_size=2, unique=True))
        single = one_reply and draw(st.integers(0, 4)) == 0
        turn = {"user": draw(WORDS), "preferred": preferred, "rejected": None, "continued": "preferred"}
        if not single:
            turn |= {"rejected": rejected, "continued": draw(st.sampled_from(["preferred", "rejected"]))}
        if place is not None and (place != (number - 1, turns[-1].continued) or draw(st.booleans())):
            turn |= {"follows": place[0], "after": place[1]}
        turns.append(Turn(**turn))
        places += [(number, branch) for branch in turns[-1].replies]
        # A turn without a place of its own needs the one that it implies.
    persona = Persona(id="p1-t1", profile=draw(WORDS), personality=draw(WORDS))
    return Conversation(id=f"c{draw(st.integers(0, 10**9))}", persona=persona, turns=turns)


def pairs(tree: Conversation) -> Counter:
    """Every pair of replies with the dialogue before it: what a preference row says."""
    return Counter(
        (tuple(message["content"] for message in tree.messages(number)), turn.preferred, turn.rejected)
        for number, turn in enumerate(tree.turns)
        if turn.rejected is not None
    )


def through(path: Path, format: str, tree_list: list[Conversation], shuffle: int | None = None):
    source, target = path / "source.jsonl", path / "target.jsonl"
    source.write_text("".join(tree.to_json() + "\n" for tree in tree_list))
    done = convert(source, "ours", target, format)
    if shuffle is not None:
        rows = target.read_text().split("\n")[:-1]  # U+2028 is no end of line
        random.Random(shuffle).shuffle(rows)
        target.write_text("".join(row + "\n" for row in rows))
    return done, list(read(target, format))


# ---------------------------------------------------------------- ours


@settings(max_examples=40, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=3, unique_by=lambda tree: tree.id))
def test_our_format_holds_everything(tmp_path_factory, tree_list):
    done, back = through(tmp_path_factory.mktemp("ours"), "ours", tree_list)
    assert back == tree_list
    assert (done.read, done.written, done.lost) == (len(tree_list), len(tree_list), Counter())


def test_a_tfds_directory_is_a_source(tmp_path):
    from aloe_jax.data.tfds_records import stored
    from datagen.build import write_tfds

    splits = {"train": [forked()], "validation": [conversation(2, "c9")]}
    path = write_tfds("aloe_trees", {name: [stored(t) for t in part] for name, part in splits.items()}, tmp_path, {})
    for split, name in ((None, "train"), ("validation", "validation")):
        convert(path, "ours", tmp_path / "out.jsonl", "ours", split=split)
        assert list(read(tmp_path / "out.jsonl", "ours")) == splits[name]


def test_a_file_may_be_converted_in_place_and_a_failure_leaves_it(tmp_path):
    path = write_jsonl(tmp_path / "data.jsonl", PUBLISHED)
    convert(path, "aloe", path, "ours")
    assert next(read(path, "ours")).turns[0].continued == "rejected"
    before = path.read_bytes()
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(AloeError, match=r"data\.jsonl line 2: id: field required"):
        convert(path, "ours", path, "trl")
    assert path.read_bytes() == before + b"{}\n"
    assert os.listdir(tmp_path) == ["data.jsonl"]


# ---------------------------------------------------------------- the published format


def test_published_data_comes_back_field_by_field(tmp_path):
    other = changed(PUBLISHED, "conversations.1.chosen", "preferred") | {"personality": "She is loud."}
    path = write_jsonl(tmp_path / "published.jsonl", PUBLISHED, other, PUBLISHED)
    for source, target, formats in ((path, "a", ("aloe", "ours")), (tmp_path / "a", "b", ("ours", "aloe"))):
        assert not convert(source, formats[0], tmp_path / target, formats[1]).lost
    assert lines(tmp_path / "b") == [PUBLISHED, other, PUBLISHED]

    first, second, third = read(path, "aloe")
    assert [turn.continued for turn in second.turns] == ["rejected", "preferred"]
    assert len({first.id, second.id, third.id}) == 3
    assert first.id.startswith("aloe-000001-") and first.id[12:] == third.id[12:]
    assert first.persona == third.persona
    profile, other_profile = (tree.persona.id.partition("-") for tree in (first, second))
    assert profile[0] == other_profile[0] and profile[2] != other_profile[2]  # same profile, other personality
    assert [tree.id for tree in read(path, "aloe")] == [first.id, second.id, third.id]


@settings(max_examples=40, deadline=None)
@given(st.lists(trees(one_reply=False), min_size=1, max_size=3, unique_by=lambda tree: tree.id))
def test_published_records_are_the_dialogues_of_a_tree(tmp_path_factory, tree_list):
    done, back = through(tmp_path_factory.mktemp("aloe"), "aloe", tree_list)
    assert done.lost["ids of a conversation and its persona"] == len(tree_list)
    wanted = Counter(pair for tree in tree_list for pair in set(pairs(tree)))
    assert set().union(*map(pairs, back)) == set(wanted)
    repeated = sum(len(tree.turns) for tree in back) - sum(len(tree.turns) for tree in tree_list)
    assert done.lost["turns repeated because dialogues of a forked tree share them"] == repeated
    assert all(turn.follows is None for tree in back for turn in tree.turns)


def test_a_fork_is_written_as_its_dialogues(tmp_path):
    done, back = through(tmp_path, "aloe", [forked()])
    assert [[turn.user[-1] for turn in tree.turns] for tree in back] == [list("012"), list("034")]
    assert [tree.turns[0].continued for tree in back] == ["preferred", "rejected"]
    assert done.lost["forked trees, written as one record for each of their dialogues"] == 1
    assert done.lost["turns that say which reply was written with the hint"] == 5


@pytest.mark.parametrize(
    ("where", "new", "told"),
    [
        ("profile", None, "profile: is missing"),
        ("profile", "  ", "profile: is empty"),
        ("conversations", [], "conversations: is empty"),
        ("source", "web", "source: is unknown and would be lost"),
        ("conversations.1.score", 3, r"conversations\.1\.score: is unknown"),
        ("conversations.1.user", " ", r"conversations\.1\.user: is empty"),
        ("conversations.1.chosen", "first", r"conversations\.1\.chosen: is 'first'; it must be 'preferred'"),
        ("conversations.1.chosen", "Preferred", r"conversations\.1\.chosen: is 'Preferred'"),
        ("conversations.1.chosen", ["preferred"], r"conversations\.1\.chosen: is \['preferred'\]"),
        ("conversations.0.assistant.rejected", ["a", "b"], r"assistant\.rejected: expected text, found a list"),
        ("conversations.0.assistant", "hi", r"conversations\.0\.assistant: expected a JSON object, found text"),
        ("conversations.0.inferred_profile", 1, "inferred_profile: expected text"),
    ],
)
def test_bad_published_records_are_named(tmp_path, where, new, told):
    path = write_jsonl(tmp_path / "bad.jsonl", PUBLISHED, changed(PUBLISHED, where, new))
    with pytest.raises(AloeError, match=r"bad\.jsonl line 2: .*" + told):
        convert(path, "aloe", tmp_path / "out.jsonl", "ours")
    assert not (tmp_path / "out.jsonl").exists()


def test_one_reply_does_not_fit_the_published_format(tmp_path):
    write_jsonl(tmp_path / "chat.jsonl", CHAT)
    with pytest.raises(AloeError, match=r"conversation chat-000001-\w+ turns\.0: has one reply.*write trl or chat"):
        convert(tmp_path / "chat.jsonl", "chat", tmp_path / "out.jsonl", "aloe")


# ---------------------------------------------------------------- TRL


@settings(max_examples=150, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4, unique_by=lambda tree: tree.id), st.none() | st.integers(0, 9))
def test_rows_grow_into_their_trees_in_any_order(tmp_path_factory, tree_list, shuffle):
    if not any(pairs(tree) for tree in tree_list):
        return
    done, back = through(tmp_path_factory.mktemp("trl"), "trl", tree_list, shuffle)
    assert done.written == sum(pairs(tree).total() for tree in tree_list)
    by_id = {tree.id: tree for tree in back}
    assert len(by_id) == len(back)
    for tree in tree_list:
        if not pairs(tree):
            continue
        grown = by_id.pop(tree.id)
        assert pairs(grown) == pairs(tree)
        assert grown.persona == tree.persona
        lost = len(tree.turns) - len(grown.turns)
        assert 0 <= lost <= done.lost["turns with one reply that are in no row's prompt"]
        for number, turn in enumerate(grown.turns):
            answered = {grown.parent(n) for n in range(len(grown.turns))} & {(number, b) for b in turn.replies}
            assert turn.continued == "preferred" if not answered else (number, turn.continued) in answered
    assert not by_id


def test_ordinary_and_forked_trees_come_back_equal_but_for_what_rows_cannot_hold(tmp_path):
    def kept(tree):
        answered = {tree.parent(number) for number in range(len(tree.turns))}
        turns = [turn.model_copy(update={"hinted": None}) for turn in tree.turns]
        ends = {n for n in range(len(turns)) if not answered & {(n, branch) for branch in turns[n].replies}}
        turns = [t.model_copy(update={"continued": "preferred"}) if n in ends else t for n, t in enumerate(turns)]
        return tree.model_copy(update={"turns": turns})

    same_words = conversation(4, continued="rprp").model_copy(update={"id": "other"})
    tree_list = [conversation(4), forked(), conversation(1, "c7"), same_words]
    tree_list[0] = tree_list[0].model_copy(update={"id": "first"})
    done, back = through(tmp_path, "trl", tree_list)
    assert back == [kept(tree) for tree in tree_list]
    assert done.lost == {"turns that say which reply was written with the hint": 14}


def message(role, content):
    return {"role": role, "content": content}


def row(*prompt, chosen="yes", rejected="no", **columns):
    speakers = [message("assistant" if number % 2 else "user", words) for number, words in enumerate(prompt)]
    replies = {"chosen": [message("assistant", chosen)], "rejected": [message("assistant", rejected)]}
    return {"prompt": speakers, **replies, **columns}


def read_rows(tmp_path, *rows):
    return list(read(write_jsonl(tmp_path / "rows.jsonl", *rows), "trl"))


def test_rows_of_others_are_joined_by_their_texts(tmp_path):
    (tree,) = read_rows(tmp_path, row("a", "no", "b"), row("a"), row("a", "no", "b", "yes", "c"))
    assert [turn.user for turn in tree.turns] == ["a", "b", "c"]
    assert [turn.continued for turn in tree.turns] == ["rejected", "preferred", "preferred"]
    assert tree.persona.profile == "not recorded"
    assert tree.id.startswith("trl-000002-")


def test_history_without_rows_is_kept_as_turns_with_one_reply(tmp_path):
    first, second = read_rows(tmp_path, row("a", "x", "b", "y", "c"), row("a", "x", "b", "y", "d"))
    for tree, last in ((first, "c"), (second, "d")):
        assert [(turn.user, turn.preferred, turn.rejected) for turn in tree.turns] == [
            ("a", "x", None),
            ("b", "y", None),
            (last, "yes", "no"),
        ]
    (tree,) = read_rows(tmp_path, row("a"), row("a", "yes", "gap", "unseen", "c"))
    assert [(turn.user, turn.rejected) for turn in tree.turns] == [("a", "no"), ("gap", None), ("c", "no")]


def test_a_pair_for_a_prompt_that_has_one_is_a_tree_of_its_own(tmp_path):
    rows = [row("a"), row("a", "yes", "b"), row("a", rejected="never"), row("a", "yes", "c"), row("a", "yes", "c")]
    back = read_rows(tmp_path, *rows)
    assert [[turn.user for turn in tree.turns] for tree in back] == [["a", "b"], ["a", "c"], ["a", "c"]]
    assert [tree.turns[0].rejected for tree in back] == ["no", "never", None]


def test_rows_join_within_their_conversation_persona_and_system_message(tmp_path):
    def system(words, value):
        return value | {"prompt": [message("system", words), *value["prompt"]]}

    one, two = ({"id": f"p{n}", "profile": f"profile {n}", "personality": "calm"} for n in (1, 2))
    for first, second in (
        (row("a", conversation_id="x"), row("a", "yes", "b", conversation_id="y")),
        (row("a", persona=one), row("a", "yes", "b", persona=two)),
        (system("be kind", row("a")), system("be brief", row("a", "yes", "b"))),
        (row("a"), system("be brief", row("a", "yes", "b"))),
    ):
        assert [len(tree.turns) for tree in read_rows(tmp_path, first, second)] == [1, 2]
    path = write_jsonl(tmp_path / "rows.jsonl", system("be kind", row("a", score=1, margin=2)), row("z", score=0))
    done = convert(path, "trl", tmp_path / "out.jsonl", "ours")
    assert done.lost == {"values of the column score": 2, "values of the column margin": 1}
    assert [tree.system for tree in read(tmp_path / "out.jsonl", "ours")] == ["be kind", None]
    again = convert(tmp_path / "out.jsonl", "ours", tmp_path / "again.jsonl", "trl")
    assert not again.lost and lines(tmp_path / "again.jsonl")[0]["prompt"][0] == message("system", "be kind")


def test_rows_of_one_id_that_are_no_one_tree_get_ids_of_their_own(tmp_path):
    back = read_rows(tmp_path, row("a", conversation_id="x"), row("b", conversation_id="x"))
    assert [tree.id for tree in back] == ["x", "x.2"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({}, "prompt: is missing"),
        (row("a") | {"prompt": "a"}, "prompt: expected a list, found text"),
        (row("a", "b"), "prompt: must end with a message of the user"),
        (row("a") | {"prompt": [message("assistant", "b")]}, r"prompt\.0\.role: is 'assistant' where 'user' is due"),
        (row("a") | {"prompt": [message("user", "a"), message("user", "b")]}, r"prompt\.1\.role: is 'user' where"),
        (row("a") | {"prompt": [message("system", "a")]}, "prompt: must end with a message of the user"),
        (
            row("a") | {"prompt": [message("user", [{"type": "image"}])]},
            r"prompt\.0\.content: expected text, found list with a part",
        ),
        (row("a") | {"prompt": [message("user", "a") | {"name": "Ann"}]}, r"prompt\.0\.name: is unknown"),
        (row("a") | {"chosen": "yes"}, "chosen: expected a list of one message"),
        (row("a") | {"rejected": [message("user", "no")]}, r"rejected\.0\.role: is 'user' where 'assistant' is due"),
        (row("a", rejected=" "), r"rejected\.0\.content: is empty"),
        (row("a", persona={"id": "p"}), r"persona\.profile: is missing"),
        (row("a", conversation_id=7), "conversation_id: expected text, found a number"),
    ],
)
def test_bad_rows_are_named(tmp_path, value, told):
    with pytest.raises(AloeError, match=r"rows\.jsonl line 2: " + told):
        read_rows(tmp_path, row("fine"), value)


# ---------------------------------------------------------------- chat lines

CHAT = {"messages": [message("user", "a"), message("assistant", "b"), message("user", "c"), message("assistant", "d")]}


def test_chat_lines_become_conversations_with_one_reply(tmp_path):
    path = write_jsonl(tmp_path / "chat.jsonl", CHAT, CHAT | {"source": "web"})
    done = convert(path, "chat", tmp_path / "ours.jsonl", "ours")
    assert done.lost == {"values of the column source": 1}
    for tree in read(tmp_path / "ours.jsonl", "ours"):
        assert [(turn.user, turn.preferred, turn.rejected) for turn in tree.turns] == [
            ("a", "b", None),
            ("c", "d", None),
        ]
    for choice in ("conversation", "turn"):
        assert not convert(tmp_path / "ours.jsonl", "ours", tmp_path / "again.jsonl", "chat", lines=choice).lost
    assert lines(tmp_path / "again.jsonl") == 2 * [{"messages": CHAT["messages"][:2]}, CHAT]


@pytest.mark.parametrize("column", ["system", "system_prompt", "developer", None])
def test_a_system_message_is_kept_and_trained_on_as_that_of_a_chat(tmp_path, column):
    whole = {"messages": [message("system", "be kind"), *CHAT["messages"]]}
    given = whole if column is None else CHAT | {column: "be kind"}
    path = write_jsonl(tmp_path / "chat.jsonl", given, given | {"messages": whole["messages"]})
    assert not convert(path, "chat", tmp_path / "ours.jsonl", "ours").lost
    for tree in read(tmp_path / "ours.jsonl", "ours"):
        assert MessageTree.of(tree).system == read_chat(given, "w").system == "be kind"
    assert not convert(tmp_path / "ours.jsonl", "ours", tmp_path / "again.jsonl", "chat", lines="conversation").lost
    assert lines(tmp_path / "again.jsonl") == [whole, whole]
    with pytest.raises(AloeError, match="give different system messages"):
        convert(write_jsonl(path, whole | {"system": "be brief"}), "chat", tmp_path / "ours.jsonl", "ours")


def test_a_turn_a_line_ends_with_its_preferred_reply(tmp_path):
    tree = forked()
    path = write_jsonl(tmp_path / "ours.jsonl", json.loads(tree.to_json()))
    done = convert(path, "ours", tmp_path / "chat.jsonl", "chat", lines="turn")
    assert lines(tmp_path / "chat.jsonl") == [{"messages": tree.messages(n, "preferred")} for n in range(5)]
    assert done.lost == {"personas": 1, "rejected replies": 5}


def test_a_conversation_a_line_follows_the_main_line(tmp_path):
    tree = forked()
    path = write_jsonl(tmp_path / "ours.jsonl", json.loads(tree.to_json()))
    done = convert(path, "ours", tmp_path / "chat.jsonl", "chat", lines="conversation")
    (line,) = lines(tmp_path / "chat.jsonl")
    replies = [message["content"] for message in line["messages"] if message["role"] == "assistant"]
    assert replies == [turn.reply(turn.continued) for turn in tree.turns[:3]]
    assert done.lost["turns off the main line of a forked tree"] == 2


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([("user", "a")], "messages: must end with a message of the assistant"),
        ([("assistant", "a")], r"messages\.0\.role: is 'assistant' where 'user' is due"),
        ([("user", "a"), ("assistant", "b"), ("assistant", "c")], r"messages\.2\.role: is 'assistant' where 'user'"),
        ([("user", "a"), ("system", "b")], r"messages\.1\.role: is 'system' where 'assistant' is due"),
        ([("user", "a"), ("tool", "b")], r"messages\.1\.role: is 'tool'"),
        ([], "messages: is empty"),
    ],
)
def test_malformed_dialogues_are_named(tmp_path, texts, told):
    path = write_jsonl(tmp_path / "chat.jsonl", CHAT, {"messages": [message(*pair) for pair in texts]})
    with pytest.raises(AloeError, match=r"chat\.jsonl line 2: " + told):
        convert(path, "chat", tmp_path / "out.jsonl", "ours")


@pytest.mark.parametrize(
    "said",
    [
        {"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        {"content": "Hello", "weight": 1},
        {"content": "Hello", "train": True, "name": None, "tool_calls": []},
    ],
)
def test_what_carries_no_doubt_is_read(tmp_path, said):
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}, {"role": "assistant"} | said]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"messages": messages}]))  # one JSON array
    convert(path, "chat", tmp_path / "out.jsonl", "ours")
    (conversation,) = (tmp_path / "out.jsonl").read_text().splitlines()
    (turn,) = json.loads(conversation)["turns"]
    assert (turn["user"], turn["preferred"]) == ("Hi", "Hello")


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"reasoning_content": "hm"}, {"name": "Ann"}])
def test_marks_that_would_be_lost_are_refused_by_name(tmp_path, mark):
    messages = [message("user", "Hi"), message("assistant", "Hello") | mark]
    path = write_jsonl(tmp_path / "chat.jsonl", {"messages": messages})
    with pytest.raises(AloeError, match=rf"line 1: messages\.1\.{next(iter(mark))}: is unknown and would be lost"):
        convert(path, "chat", tmp_path / "out.jsonl", "ours")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no records"),
        (b"\n\n", "holds no records"),
        (b"{}\n{oops\n", "line 1: id: field required"),
        (b"{oops\n", "line 1: not valid JSON"),
        (b"[" * 10**5, r"not valid JSON \(nested too deeply\)"),
        (b"7\n", "line 1: expected a JSON object, found int"),
        (b"\xff\n", "not UTF-8 text"),
        (rb'{"a": "\ud83d"}', "line 1: has half a character"),
    ],
)
def test_unreadable_files_are_told_in_one_line(tmp_path, content, told):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(AloeError, match=told) as caught:
        convert(path, "ours", tmp_path / "out.jsonl", "ours")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_other_mistakes(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", json.loads(conversation().to_json()))
    out = tmp_path / "out.jsonl"
    for arguments, options, told in (
        ((tmp_path / "none.jsonl", "ours", out, "trl"), {}, r"none\.jsonl: no such file"),
        ((path, "ours", tmp_path, "trl"), {}, "is a directory; give the name of the file"),
        ((tmp_path, "trl", out, "ours"), {}, "is a directory; give a JSONL file"),
        ((path, "csv", out, "trl"), {}, "format 'csv': choose from ours, aloe, trl, chat"),
        ((path, "ours", out, "trl"), {"lines": "turn"}, "only the target format chat"),
        ((path, "ours", out, "trl"), {"split": "train"}, "only a TFDS directory has splits"),
        ((path, "aloe", out, "trl"), {"split": "train"}, "only a TFDS directory"),
        ((path, "ours", out, "pool"), {}, "from pool to pool"),
    ):
        with pytest.raises(AloeError, match=told):
            convert(*arguments, **options)
    write_jsonl(path, *2 * [json.loads(conversation().to_json())])
    with pytest.raises(AloeError, match=r"a\.jsonl line 2: id: c0 is also the id of line 1"):
        convert(path, "ours", out, "trl")
    write_jsonl(path, CHAT)
    with pytest.raises(AloeError, match=r"out\.jsonl: not written: nothing in the source fits"):
        convert(path, "chat", out, "trl")
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + conversation().to_json().encode() + b"\n\n")
    assert list(read(path, "ours")) == [conversation()]


# ---------------------------------------------------------------- pools


def test_a_published_pool_with_its_quirks(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text('"She keeps \\"bees\\"."\n\n"He rows."  "She sings.\\nLoudly."\n"é"\n')
    assert read_pool(path) == ['She keeps "bees".', "He rows.", "She sings.\nLoudly.", "é"]
    assert write_pool(tmp_path / "clean.jsonl", read_pool(path)) == 4
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 4
    assert read_pool(tmp_path / "clean.jsonl") == read_pool(path)
    done = convert(path, "pool", tmp_path / "profiles.txt", "pool")
    assert (done.read, done.written) == (4, 4)
    assert (tmp_path / "profiles.txt").read_text().splitlines()[2] == "She sings. Loudly."
    assert read_pool(tmp_path / "profiles.txt")[:2] == read_pool(path)[:2]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('"a"\n"b', "line 2: not a JSON string"),
        ('"a"\nb', "line 2: not a JSON string"),
        ('"a"\n"b" 7', "line 2: expected a JSON string with a description, found 7"),
        ('"a"\n" "', "line 2: expected a JSON string"),
        ("\n", "holds no texts"),
    ],
)
def test_bad_pools_are_named(tmp_path, content, told):
    path = tmp_path / "pool.jsonl"
    path.write_text(content)
    with pytest.raises(AloeError, match=r"pool\.jsonl:? ?" + told):
        read_pool(path)


@pytest.mark.skipif("ALOE_PUBLISHED" not in os.environ, reason="ALOE_PUBLISHED names no directory of published pools")
def test_the_published_pools_themselves():
    published = Path(os.environ["ALOE_PUBLISHED"])
    assert len(read_pool(published / "profile.jsonl")) == 331
    assert len(read_pool(published / "personality.jsonl")) == 71
