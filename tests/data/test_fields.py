"""Fields beside the text of a chat or a preference: honoured, passed over and reported, or refused by name."""

import json

import numpy as np
import pytest

from aloe_jax.data.chats import read_chat
from aloe_jax.data.fields import SYSTEM
from aloe_jax.data.preferences import Forest, read_comparison
from aloe_jax.data.selection import PREFERRED
from aloe_jax.data.settings import DataSettings, SourceSettings
from aloe_jax.errors import AloeError
from tests.data.families import loaded
from tests.data.families.checks import decode
from tests.data.jsonl import chat, preference, write_jsonl
from tests.data.prepared import gather, path_messages, prepare, trees_of

_, TOKENIZER, TEMPLATE = loaded("llama3")
KIND = "Speak kindly."


def shares(record):
    """The same chat as ShareGPT writes it."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in record["messages"]]}


def marked(record, number, **fields):
    messages = [dict(message) for message in record["messages"]]
    messages[number] |= fields
    return {"messages": messages}


def texts_learned(records):
    """The texts that carry a loss, as the rows' reply mask has them."""
    talks = [read_chat(record, f"w {k}") for k, record in enumerate(records)]
    rows = prepare(talks, TEMPLATE, 512, PREFERRED, "w").rows
    found = []
    for row in range(len(rows)):
        for number in range(1, len(rows.reply_ids[row]) + 1):
            found.append(decode(TOKENIZER, rows.tokens[row][rows.reply[row] == number]).removesuffix("<|eot_id|>"))
    assert (rows.reply > 0).sum() == rows.reply_length.sum()
    return found


# ---------------------------------------------------------------- system messages


@pytest.mark.parametrize("column", SYSTEM)
def test_a_system_column_is_a_system_message(column):
    plain, said = chat("Ada", 2), chat("Ada", 2, KIND)
    expected = read_chat(said, "w")
    assert read_chat(plain | {column: KIND}, "w") == expected
    assert read_chat(shares(plain) | {column: KIND}, "w") == expected
    assert read_chat(said | {column: KIND}, "w") == expected  # twice the same
    assert read_chat(plain | {column: " "}, "w") == read_chat(plain | {column: None}, "w") == read_chat(plain, "w")
    with pytest.raises(AloeError, match=rf"w: the first message and {column}: give different system messages"):
        read_chat(said | {column: "Be curt."}, "w")
    with pytest.raises(AloeError, match=rf"w: {column}: expected text, found int"):
        read_chat(plain | {column: 3}, "w")


def test_a_system_column_beside_preferences_and_completions():
    pair = preference(["why"], "so", "well")
    kind = preference(["why"], "so", "well", KIND)
    assert read_comparison(pair | {"system": KIND}, "w") == read_comparison(kind, "w")
    assert (
        read_comparison({"prompt": "why", "chosen": "so", "rejected": "well", "system_prompt": KIND}, "w").system
        == KIND
    )
    whole = {name: [*pair["prompt"], *pair[name]] for name in ("chosen", "rejected")}
    assert read_comparison(whole | {"system": KIND}, "w") == read_comparison(kind, "w")
    completed = read_chat({"prompt": "why", "completion": "so", "system": KIND}, "w")
    assert path_messages(completed, 0, 0)[0] == {"role": "system", "content": KIND}
    assert read_chat({"instruction": "why", "output": "so", "system": KIND}, "w").exchanges == completed.exchanges


def test_a_system_message_is_in_the_tokens():
    with_column = prepare([read_chat(chat("Ada", 1) | {"system": KIND}, "w")], TEMPLATE, 512, PREFERRED, "w")
    as_message = prepare([read_chat(chat("Ada", 1, KIND), "w")], TEMPLATE, 512, PREFERRED, "w")
    np.testing.assert_array_equal(with_column.rows.tokens, as_message.rows.tokens)


@pytest.mark.parametrize("empty", ["", " \n", None, [], [{"type": "text", "text": ""}]])
def test_an_empty_system_message_is_none(empty):
    record = chat("Ada", 1, KIND)
    record["messages"][0]["content"] = empty
    assert read_chat(record, "w") == read_chat(chat("Ada", 1), "w")


# ---------------------------------------------------------------- what is learned from


@pytest.mark.parametrize(
    "mark", [{"train": False}, {"trainable": False}, {"training": False}, {"weight": 0}, {"weight": 0.0}]
)
def test_a_marked_reply_is_context_and_carries_no_loss(mark):
    record = chat("Ada", 3)
    said = [message["content"] for message in record["messages"] if message["role"] == "assistant"]
    assert texts_learned([record]) == said
    assert texts_learned([marked(record, 1, **mark)]) == said[1:]
    assert texts_learned([marked(record, 3, **mark)]) == [said[0], said[2]]
    assert texts_learned([marked(record, 5, **mark)]) == said[:2]
    trees = trees_of(TEMPLATE, read_chat(marked(record, 1, **mark), "w"))
    assert said[0] in decode(TOKENIZER, [token for node in trees[0].nodes for token in node.tokens])


def test_a_marked_reply_has_no_gradient():
    """The loss of rows in which a reply is marked is the loss of the others alone."""
    import jax

    from aloe_jax.data.loader import FIELDS
    from aloe_jax.models.native.decoder import DecoderSpec
    from aloe_jax.training.logprobs import reply_logps
    from tests.random_models import random_decoder

    spec = DecoderSpec(
        vocab=len(TOKENIZER),
        layers=1,
        width=16,
        query_heads=2,
        kv_heads=1,
        head_size=8,
        feed_forward=16,
        max_length=512,
    )
    model, record = random_decoder(spec), chat("Ada", 2)

    def logps(record):
        rows = prepare([read_chat(record, "w")], TEMPLATE, 128, PREFERRED, "w").rows
        return np.asarray(jax.jit(reply_logps)(model, {name: getattr(rows, name) for name in FIELDS}))[0, 1:]

    both, second = logps(record), logps(marked(record, 1, train=False))
    assert both.shape == (2,) and second.shape == (1,)
    np.testing.assert_allclose(second[0], both[1], rtol=1e-5)


@pytest.mark.parametrize(
    "mark", [{"train": True}, {"weight": 1}, {"weight": 1.0}, {"trainable": True}, {"weight": None}]
)
def test_the_default_mark_changes_nothing(mark):
    record = chat("Ada", 2)
    assert read_chat(marked(record, 1, **mark), "w") == read_chat(record, "w")
    assert read_chat(record | mark, "w") == read_chat(record, "w")


@pytest.mark.parametrize(
    ("number", "fields", "wording"),
    [
        (1, {"weight": 0.5}, r"w: messages\.1\.weight: is 0\.5, expected 0 or 1; .* data\.mixture"),
        (1, {"weight": 2}, r"w: messages\.1\.weight: is 2, expected 0 or 1"),
        (1, {"weight": "1"}, r"w: messages\.1\.weight: is 1, expected 0 or 1"),
        (1, {"weight": float("nan")}, r"w: messages\.1\.weight: is nan, expected 0 or 1"),
        (1, {"train": "false"}, r"w: messages\.1\.train: is false, expected true or false"),
        (1, {"train": False, "weight": 1}, r"w: messages\.1: train and weight contradict each other"),
        (0, {"train": True}, r"w: messages\.0\.train: only replies of the assistant are learned from"),
        (1, {"reasoning_content": "hm"}, r"w: messages\.1\.reasoning_content: would be lost; write it into the text"),
        (1, {"thinking": "hm"}, r"w: messages\.1\.thinking: would be lost"),
        (1, {"reasoning": ["hm"]}, r"w: messages\.1\.reasoning: would be lost"),
        (0, {"name": "Ada"}, r"w: messages\.0\.name: would be lost"),
        (1, {"tools": [{}]}, r"w: messages\.1\.tools: would be lost"),
        (1, {"images": ["x.png"]}, r"w: messages\.1\.images: would be lost"),
        (1, {"citations\ud83d\n": 3}, r"w: messages\.1\.citations\\ud83d: would be lost"),
        (1, {"content": [{"type": "image_url", "image_url": "x"}]}, r"with a part of type image_url; only text"),
        (1, {"content": [{"type": "thinking", "thinking": "hm"}]}, r"with a part of type thinking"),
        (1, {"content": [{"type": "text", "text": "a", "citations": [1]}]}, r"has a part with citations, which would"),
        (1, {"from": "human"}, r"w: messages\.1: role and from differ"),
        (1, {"value": "other"}, r"w: messages\.1: content and value differ"),
    ],
)  # fmt: skip
def test_a_field_that_would_change_what_is_learned_is_refused_by_name(number, fields, wording):
    with pytest.raises(AloeError, match=wording) as caught:
        read_chat(marked(chat("Ada", 1), number, **fields), "w")
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"name": "search"}]), ("functions", [{}]), ("images", ["a.png"]), ("audio", "a.wav"),
        ("documents", ["d"]), ("chat_template_kwargs", {"enable_thinking": True}), ("history", [["a", "b"]]),
        ("label", True), ("kto_tag", False), ("weight", 0.5), ("train", False), ("loss_mask", [1]),
        ("reasoning_content", "hm"),
    ],
)  # fmt: skip
def test_a_field_beside_the_messages_that_would_change_it_is_refused_too(field, value):
    for record in (chat("Ada", 1), {"prompt": "hi", "completion": "ho"}, {"instruction": "hi", "output": "ho"}):
        with pytest.raises(AloeError, match=rf"w: {field}: "):
            read_chat(record | {field: value}, "w")
        assert read_chat(record | {field: None}, "w") == read_chat(record, "w")
    with pytest.raises(AloeError, match=rf"w: {field}: "):
        read_comparison(preference(["hi"], "a", "b") | {field: value}, "w")


@pytest.mark.parametrize("fields", [{"tool_calls": []}, {"name": ""}, {"id": 3}, {"timestamp": 1.5}, {"model": "m"}])
def test_what_says_nothing_or_changes_nothing_is_passed_over(fields):
    record = chat("Ada", 2)
    assert read_chat(marked(record, 1, **fields), "w") == read_chat(record, "w")


def test_judged_replies_are_not_marked_as_context():
    pair = preference(["hi", "so", "why"], "a", "b")
    pair["prompt"][1]["train"] = False  # context it is
    assert read_comparison(pair, "w") == read_comparison(preference(["hi", "so", "why"], "a", "b"), "w")
    pair["chosen"][0]["weight"] = 0
    with pytest.raises(AloeError, match=r"w: chosen\.0: is judged and marked as not to be learned from"):
        read_comparison(pair, "w")


# ---------------------------------------------------------------- text in parts, other forms


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "text", "text": "answer 0 to Ada"}],
        ["answer 0", " to Ada"],
        [{"type": "text", "text": "answer"}, {"type": "output_text", "text": " 0 to Ada", "annotations": []}],
        [{"text": "answer 0 to Ada", "type": "text", "cache_control": {"type": "ephemeral"}}],
    ],
)
def test_parts_that_are_text_are_joined(parts):
    record = chat("Ada", 1)
    assert record["messages"][1]["content"] == "answer 0 to Ada"
    assert read_chat(marked(record, 1, content=parts), "w") == read_chat(record, "w")


def test_completions_and_instructions_are_chats():
    said = read_chat({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}, "w")
    assert read_chat({"prompt": "hi", "completion": "ho"}, "w") == said
    messages = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "ho"}]}
    assert read_chat(messages, "w") == said
    assert read_chat({"instruction": "hi", "input": "", "output": "ho"}, "w") == said
    (exchange,) = read_chat({"instruction": "hi", "input": "there", "output": "ho"}, "w").exchanges
    assert exchange.user == "hi\nthere"
    longer = chat("Ada", 3)["messages"]
    assert texts_learned([{"prompt": longer[:5], "completion": longer[5:]}]) == [longer[5]["content"]]
    for record, wording in (
        ({"prompt": "hi", "completion": " "}, "w: completion: is empty"),
        ({"prompt": longer[:2], "completion": "ho"}, "w: prompt: must end with a user message"),
        ({"instruction": "hi"}, "w: output: is missing"),
    ):
        with pytest.raises(AloeError, match=wording):
            read_chat(record, "w")


def test_preferences_beside_conversations_and_instructions():
    expected = read_comparison(preference(["hi"], "a", "b"), "w")
    ends = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    assert read_comparison({"conversations": [{"from": "human", "value": "hi"}]} | ends, "w") == expected
    assert read_comparison({"instruction": "hi", "input": "", "chosen": "a", "rejected": "b"}, "w") == expected
    assert len(Forest([expected])) == 1


# ---------------------------------------------------------------- what is said of it


def gathered(path, split="train", **changes):
    return gather(DataSettings(path=str(path), row_length=256, **changes), TEMPLATE, PREFERRED, split)


def test_fields_that_are_passed_over_are_reported_once(tmp_path, capsys):
    records = [chat(f"Ada {k}", 1) | {"source": "x", "id": k, "prompt": "hi"} for k in range(20)]
    path = write_jsonl(tmp_path / "c.jsonl", records)
    gathered(path, validation_fraction=0.3)
    assert capsys.readouterr().err == f"{path}: fields not used: source, id, prompt\n"
    gathered(path, "validation", validation_fraction=0.3)
    assert "not used" not in capsys.readouterr().err
    write_jsonl(tmp_path / "c.validation.jsonl", [chat("v", 1) | {"note\n": "x"}])
    gathered(path, "validation")
    assert capsys.readouterr().err == f"the validation split of {path}: fields not used: note\n"


def test_chats_with_nothing_to_learn_are_reported_or_refused(tmp_path, capsys):
    none = marked(chat("Eve", 1), 1, weight=0)
    path = write_jsonl(tmp_path / "c.jsonl", [none, *(chat(f"Ada {k}", 1) for k in range(4))])
    write_jsonl(tmp_path / "c.validation.jsonl", [chat("v", 1)])
    assert gathered(path).report.trees == 4
    assert "1 chats have no reply that is to be learned from, and are left out" in capsys.readouterr().out
    write_jsonl(path, [none])
    with pytest.raises(AloeError, match=r"c\.jsonl: no reply is to be learned from: all are marked"):
        gathered(path)


def test_mixtures_and_validation_files_read_the_same_fields(tmp_path):
    plain = write_jsonl(tmp_path / "a.jsonl", [chat(f"Ada {k}", 1) | {"system": KIND} for k in range(4)])
    said = write_jsonl(tmp_path / "b.jsonl", [chat(f"Ada {k}", 1, KIND) for k in range(4)])
    for path in (plain, said):
        content = json.loads(path.read_text().splitlines()[0])
        write_jsonl(path.with_name(f"{path.stem}.validation.jsonl"), [content])
    mixture = tuple(SourceSettings(path=str(path)) for path in (plain, said))
    for split in ("train", "validation"):
        made = gather(DataSettings(mixture=mixture, row_length=256), TEMPLATE, PREFERRED, split)
        one, other = (slice(part.start, part.stop) for part in made.parts)
        np.testing.assert_array_equal(made.rows.tokens[one], made.rows.tokens[other])
    write_jsonl(tmp_path / "b.validation.jsonl", [marked(chat("v", 1), 1, name="Bob")])
    with pytest.raises(AloeError, match=r"b\.validation\.jsonl line 1: messages\.1\.name: would be lost"):
        gather(DataSettings(mixture=mixture, row_length=256), TEMPLATE, PREFERRED, "validation")
