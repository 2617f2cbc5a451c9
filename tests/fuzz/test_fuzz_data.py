"""The door "data": whatever bytes a data file has, it is read, or refused in one line that names the file."""

import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from aloe_jax.data.selection import BOTH, PAIRS, PREFERRED
from aloe_jax.data.settings import DataSettings
from aloe_jax.errors import AloeError
from tests.conversations import conversation, forked, single_replies
from tests.data.families import loaded
from tests.data.jsonl import chat, preference
from tests.data.prepared import gather
from tests.fuzz.harness import fuzz, one_line

_, TOKENIZER, TEMPLATE = loaded("llama3")
RECORDS = [
    *(conversation(k + 1, f"c{k}").record() for k in range(3)),
    forked().record(),
    single_replies().record(),
    chat("Ada", 2, "Speak kindly."),
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}], "system": "Be dry."},
    preference(["hi", "a", "so"], "c", "d"),
    {"prompt": "hi", "chosen": "good", "rejected": "bad"},
    {"prompt": "hi", "completion": "good"},
    {"instruction": "Say", "input": "this", "output": "this"},
]
NAMES = sorted(
    {key for record in RECORDS for key in record} | {"role", "content", "from", "value", "user", "preferred"}
)
NAMES += ["weight", "train", "reasoning_content", "tool_calls", "name", "images", "label", "id", "\ud83d", "a\nb", ""]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "\ud83d", "a\x00b", "<|eot_id|>", "\ufdd0", "\u202e", "word " * 300, "user", "assistant"]
    ),
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([10**3000, -1, 0, 1, 0.5])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=5)), inner, max_size=4),
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": inner}),
        st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": inner}),
    ),
    max_leaves=12,
)


@st.composite
def changed_records(draw):
    """A valid record with something in it replaced, added or left out."""
    record = json.loads(json.dumps(draw(st.sampled_from(RECORDS))))
    for _ in range(draw(st.integers(0, 3))):
        inner = record
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            key = draw(st.sampled_from([*keys, *(NAMES if isinstance(inner, dict) else [])])) if keys else None
            if key is None:
                break
            below = inner[key] if key in keys else None
            if isinstance(below, (dict, list)) and below and draw(st.booleans()):
                inner = below
                continue
            if key in keys and draw(st.integers(0, 4)) == 0:
                del inner[key]
            else:
                inner[key] = draw(VALUES)
            break
    return record


@st.composite
def files(draw):
    """The bytes of a data file."""
    kind = draw(st.sampled_from(["records", "records", "records", "array", "data", "values", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    records = [draw(VALUES if kind == "values" else changed_records()) for _ in range(draw(st.integers(1, 4)))]
    first = records[0]
    if kind == "records" and isinstance(first, dict) and draw(st.booleans()):
        records += [json.loads(json.dumps(draw(st.sampled_from(RECORDS)))) for _ in range(3)]
    lines = [json.dumps(record, ensure_ascii=draw(st.booleans())) for record in records]
    text = "\n".join(lines)
    if kind == "array":
        text = f"[{', '.join(lines)}]"
    elif kind == "data":
        text = json.dumps({"data": records}, indent=draw(st.sampled_from([None, 1])))
    data = text.encode("utf-8", "surrogatepass")
    data = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\n\n", b"\x1f\x8b"])) + data
    if draw(st.integers(0, 3)) == 0:
        data = data.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n", b"\x00"])))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        put = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"[" * 5000, b"1" * 5000, b"\\ud83d", b'"id":1,']))
        )
        data = data[:place] + put + data[place + draw(st.integers(0, 3)) :]
    return data


def texts_of(messages):
    """(text, whether it is learned from) of plain messages, None where they are not plain."""
    found = []
    for message in messages:
        role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
        marks = [message[key] for key in ("weight", "train", "trainable") if message.get(key) is not None]
        if not isinstance(text, str):
            return None
        found.append((text, role in ("assistant", "gpt") and not any(mark in (0, False) for mark in marks)))
    return found


def check_one_chat(record, made):
    """An accepted chat has every text that it says in its row, and learns from the replies that it says."""
    said = texts_of(record["messages"])
    if said is None or made.report.skipped or made.report.turns_lost:
        return
    if not said[-1][1] and record["messages"][-1]["role"] == "user":
        said.pop()
    assert made.report.replies == sum(learned for _, learned in said)
    whole = TOKENIZER.decode(made.rows.tokens[0, : made.rows.length[0]].tolist())
    while not said[-1][1]:  # nothing that comes after the last reply to learn from is needed
        said.pop()
    for text, _ in said:
        assert " ".join(text.split()) in " ".join(whole.split())
    for message in record["messages"]:
        known = {"role", "from", "content", "value", "weight", "train", "trainable", "id", "timestamp"}
        assert all(value in (None, "", [], {}) for key, value in message.items() if key not in known), message


@pytest.mark.soak
def test_any_file_is_read_or_refused_in_one_line():
    read = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.with_name("x.validation.jsonl").write_text(conversation(1).to_json())
        selections = itertools.cycle([PAIRS, PREFERRED, BOTH])

        def check(data):
            nonlocal read, refused
            path.write_bytes(data)
            settings = DataSettings(path=str(path), row_length=256, rows=1)
            selection = next(selections)
            try:
                made = gather(settings, TEMPLATE, selection, "train", longest=1024, show=lambda line: None)
            except AloeError as error:
                refused += 1
                text = one_line(error)
                assert str(path) in text or "conversation" in text or "chat template" in text, text
                text.encode()
                return
            read += 1
            rows = made.rows
            assert made.report.replies > 0 and len(rows) > 0
            assert (rows.tokens >= 0).all() and (rows.tokens < len(TOKENIZER)).all()
            assert (rows.reply_length.sum(axis=1) == (rows.reply > 0).sum(axis=1)).all()

        fuzz(files(), check)
    print(f"{read} read, {refused} refused")
    assert read > refused / 100


@pytest.mark.soak
def test_a_chat_that_is_read_is_read_as_it_was_meant():
    names = [*NAMES, *("reasoning", "thinking", "timestamp", "trainable")]
    message = st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant"]),
            "content": st.sampled_from(["hi", "so it is", "ho ho", "a\nb"]),
        }
    )
    extra = st.dictionaries(
        st.sampled_from(["weight", "train", *names]),
        st.sampled_from([None, True, False, 0, 1, 2, "x", "", []]),
        max_size=1,
    )

    def alternate(pairs):
        return {
            "messages": [
                {**made, "role": ("user", "assistant")[number % 2], **{k: v for k, v in more.items() if k != "role"}}
                for number, (made, more) in enumerate(pairs)
            ]
        }

    accepted = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.with_name("x.validation.jsonl").write_text(json.dumps(chat("v", 1)))

        def check(record):
            nonlocal accepted
            path.write_text(json.dumps(record))
            try:
                settings = DataSettings(path=str(path), row_length=1024, rows=1)
                made = gather(settings, TEMPLATE, PREFERRED, "train", show=lambda line: None)
            except AloeError as error:
                one_line(error)
                return
            accepted += 1
            check_one_chat(record, made)

        fuzz(st.lists(st.tuples(message, st.one_of(st.just({}), extra)), min_size=1, max_size=6).map(alternate), check)
    assert accepted > 10
