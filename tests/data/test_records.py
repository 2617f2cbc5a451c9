"""Files of records: what is a record, and what is said of files that are none."""

import bz2
import gzip
import json
import os
import zipfile

import pytest

from aloe_jax.conversation import shown
from aloe_jax.data.dataset import read_conversations, read_records
from aloe_jax.data.settings import SourceSettings
from aloe_jax.data.sources import kind_of
from aloe_jax.errors import AloeError
from tests.conversations import conversation
from tests.data.jsonl import chat

RECORDS = [conversation(k + 1, f"c{k}").record() for k in range(3)]
LINES = [json.dumps(record) for record in RECORDS]


def read(path, data, limit=None):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [record for _, record in read_records(path, "train", limit)]


@pytest.mark.parametrize(
    "data",
    [
        "\n".join(LINES),
        "\r\n".join(LINES) + "\r\n",
        "\r".join(LINES),
        "\n\n  \n" + "\n\t\n".join(LINES) + "\n\n",
        "\ufeff" + "\n".join(LINES),
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\ufeff \n" + json.dumps(RECORDS, indent=1),
        json.dumps({"data": RECORDS}),
        json.dumps({"version": "1.0", "train": RECORDS}, indent=2),
    ],
)
def test_all_ways_to_write_records(tmp_path, data):
    assert read(tmp_path / "x.jsonl", data) == RECORDS
    assert read(tmp_path / "x.jsonl", data, 2) == RECORDS[:2]
    assert [talk.id for talk in read_conversations(tmp_path / "x.jsonl")] == ["c0", "c1", "c2"]
    assert kind_of(SourceSettings(path=str(tmp_path / "x.jsonl"))) == "trees"


def test_one_record_over_several_lines_is_a_record(tmp_path):
    assert read(tmp_path / "x.json", json.dumps(RECORDS[0], indent=2)) == RECORDS[:1]
    talk = chat("Ada", 1)
    assert read(tmp_path / "x.json", json.dumps(talk, indent=2)) == [talk]
    listed = {"messages": talk["messages"], "data": [1]}  # a field of that name is no wrapper where there are others
    assert read(tmp_path / "x.json", json.dumps(listed)) == [listed]


def test_line_separators_that_are_text_separate_nothing(tmp_path):
    record = {"id": "a\u2028b\u0085c\x0bd"}
    assert read(tmp_path / "x.jsonl", json.dumps(record, ensure_ascii=False)) == [record]


GOOD = LINES[0].encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(GOOD, mtime=0), "is compressed with gzip; unpack it"),
        (bz2.compress(GOOD), "is compressed with bzip2; unpack it"),
        (b"PAR1" + GOOD, "is a Parquet file"),
        (LINES[0].encode("utf-16"), "not UTF-8 text but UTF-16; save it as UTF-8"),
        (LINES[0].encode("utf-32"), "not UTF-8 text but UTF-32; save it as UTF-8"),
        (LINES[0].encode("utf-16-le"), " line 1: not valid JSON"),
        (GOOD + b'\n{"id": "\xe9"}', r" line 2: not UTF-8 text \(invalid continuation byte at byte 8\)"),
        (GOOD + b"\n" + b"[" * 100_000, r" line 2: not valid JSON \(nested too deeply\)"),
        (GOOD + b"\n" + b'{"a":' * 100_000, r" line 2: not valid JSON \(nested too deeply\)"),
        (GOOD + b'\n{"n": ' + b"9" * 100_000 + b"}", " line 2: has a number of 100,000 digits"),
        (GOOD + b'\n{"id": 1, "x": {"a\\ud83d\\n": 1, "a\\ud83d\\n": 2}}', r" line 2: has the field a\\ud83d twice"),
        (GOOD + b"\n\0\0", r" line 2: not valid JSON \(Expecting value at column 1\)"),
        (GOOD + b"\n" + GOOD[:-9], " line 2: not valid JSON"),
        (GOOD + b"\n[1]", " line 2: expected a JSON object, found list"),
        (b"\xef\xbb\xbf" + GOOD + b"\n3", " line 2: expected a JSON object, found int"),
        (b"[1]", " record 1: expected a JSON object, found int"),
        (b"[" + GOOD + b", null]", " record 2: expected a JSON object, found NoneType"),
        (b"[" + GOOD + b",\n" + GOOD + b"\n" + GOOD + b"]", r": not valid JSON \(.* at line 3 column 1\)"),
        (b"[]", "holds no records"),
        (b'{"data": []}', "holds no records"),
        (b'{"data": [{}]}\n{"data": [{}]}', " line 1: holds a list of records, and more lines follow"),
        (b"{\n", r" line 1: not valid JSON"),
        (b" \n\r\n", "holds no records"),
        (b"", "holds no records"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_records_is_told_in_one_line(tmp_path, data, message):
    with pytest.raises(AloeError, match=rf"x\.jsonl.*{message}") as caught:
        read(tmp_path / "x.jsonl", data)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_files_that_cannot_be_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x", "x")
    with pytest.raises(AloeError, match=r"x\.zip: is a zip file"):
        list(read_records(tmp_path / "x.zip", "train"))
    for path in (tmp_path, tmp_path / "no" / "thing.jsonl", tmp_path / "a\0b"):
        with pytest.raises(AloeError, match=r"without dataset_info|no such data set"):
            list(read_records(path, "train"))
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "x.jsonl")
    with pytest.raises(AloeError, match="no such data set"):
        list(read_records(tmp_path / "x.jsonl", "train"))
    if os.getuid():  # root may read anything
        (tmp_path / "y.jsonl").write_text(LINES[0])
        (tmp_path / "y.jsonl").chmod(0)
        with pytest.raises(AloeError, match=r"y\.jsonl: cannot be read \(Permission denied\)"):
            list(read_records(tmp_path / "y.jsonl", "train"))


@pytest.mark.parametrize("place", ["id", "user", "preferred", "profile", "key"])
def test_half_a_character_is_told_by_field(tmp_path, place):
    record = conversation(1).record()
    half = "half \ud83d"
    if place == "id":
        record["id"] = half
    elif place == "profile":
        record["persona"]["profile"] = half
    elif place == "key":
        record[half] = 1
    else:
        record["turns"][0][place] = half
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    with pytest.raises(AloeError, match=r"x\.jsonl line 1: .*") as caught:
        read_conversations(tmp_path / "x.jsonl")
    text = str(caught.value)
    text.encode()
    assert "\n" not in text
    assert "half a character" in text and (place in text or place == "key")


def test_a_key_of_any_length_is_shown_short():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert shown("a" * 10**6) == "a" * 60 + "…"
    assert shown("a\nb\x00\u202e\ud83d") == "a b\\x00\\u202e\\ud83d"
    assert shown(nested) == "list" and shown(10**5000) == "int"
