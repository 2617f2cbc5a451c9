"""Reading stored conversations and personas: JSONL and TFDS, whole and damaged."""

import json
import shutil
import sys

import pytest

from aloe_jax.data.dataset import fingerprint, read_conversations, read_personas
from aloe_jax.errors import AloeError
from tests.conversations import PERSONA, conversation, forked, single_replies

TREES = [conversation(2, f"c{k}") for k in range(298)] + [forked("f"), single_replies("s")]
SHARD = "aloe_trees-train.array_record-00000-of-00001"


def write_jsonl(path, trees):
    path.write_text("".join(tree.to_json() + "\n" for tree in trees), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tfds_trees(tmp_path_factory):
    """A TFDS directory with TREES as its train split."""
    from aloe_jax.data.tfds_records import stored
    from datagen.build import write_tfds

    records = [stored(tree) for tree in TREES]
    return write_tfds("aloe_trees", {"train": records, "validation": records[:3]}, tmp_path_factory.mktemp("d"), {})


def test_jsonl_needs_no_tfds(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # an import would fail
    path = write_jsonl(tmp_path / "trees.jsonl", TREES[:5])
    assert read_conversations(path) == TREES[:5]
    assert read_conversations(str(path), limit=2) == TREES[:2]
    assert read_conversations(path, "validation") == TREES[:5]
    write_jsonl(tmp_path / "trees.validation.jsonl", TREES[7:9])
    assert read_conversations(path, "validation") == TREES[7:9]
    assert read_conversations(path) == TREES[:5]


def test_personas_from_jsonl(tmp_path):
    path = tmp_path / "personas.jsonl"
    path.write_text(PERSONA.model_dump_json() + "\n\n")
    assert read_personas(path) == [PERSONA]


def test_tfds_in_order_and_up_to_the_limit(tfds_trees):
    assert read_conversations(tfds_trees) == TREES
    assert read_conversations(tfds_trees, limit=1) == TREES[:1]
    assert read_conversations(tfds_trees, limit=257) == TREES[:257]
    assert read_conversations(tfds_trees, limit=1000) == TREES
    assert read_conversations(tfds_trees, "validation") == TREES[:3]


def test_several_shards(tmp_path, tfds_trees):
    """A data set may lie in several files; records keep their order and errors name the right file."""
    from aloe_jax.data.tfds_records import stored
    from datagen.build import write_tfds

    first = write_tfds("aloe_trees", {"train": [stored(t) for t in TREES[:4]]}, tmp_path / "a", {})
    second = write_tfds("aloe_trees", {"train": [stored(t) for t in TREES[4:7]]}, tmp_path / "b", {})
    shutil.move(first / SHARD, first / SHARD.replace("of-00001", "of-00002"))
    shutil.copy(second / SHARD, first / SHARD.replace("00000-of-00001", "00001-of-00002"))
    info = json.loads((first / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["4", "3"]
    (first / "dataset_info.json").write_text(json.dumps(info))
    assert read_conversations(first) == TREES[:7]
    (first / SHARD.replace("00000-of-00001", "00001-of-00002")).write_bytes(b"")
    with pytest.raises(AloeError, match=r"train.array_record-00001-of-00002 record 0: damaged"):
        read_conversations(first)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed"])
def test_damaged_tfds_names_file_record_and_remedy(tfds_trees, tmp_path, damage):
    path = tmp_path / "1.0.0"
    shutil.copytree(tfds_trees, path)
    content = bytearray((path / SHARD).read_bytes())
    if damage == "flipped":
        for at in range(20_000, 20_064):
            content[at] ^= 0xFF
    content = content[: {"cut": len(content) // 2, "emptied": 0}.get(damage, len(content))]
    (path / SHARD).write_bytes(content)
    if damage == "removed":
        (path / SHARD).unlink()
    with pytest.raises(AloeError, match=rf"{SHARD} record \d+: damaged .*python -m datagen build") as caught:
        read_conversations(path)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_no_conversation_is_named(tmp_path):
    from aloe_jax.data.tfds_records import stored
    from datagen.build import write_tfds

    records = [stored(tree) for tree in TREES[:3]]
    records[1]["turns"][0]["continued"] = "both"
    path = write_tfds("aloe_trees", {"train": records}, tmp_path, {})
    with pytest.raises(AloeError, match=rf"{SHARD} record 1: turns\.0\.continued"):
        read_conversations(path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: expected a JSON object, found list"),
        ('{"id": "x"}', "line 2: persona: field required"),
    ],
)
def test_damaged_jsonl_names_the_line(tmp_path, line, fault):
    path = write_jsonl(tmp_path / "trees.jsonl", TREES[:1])
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(AloeError, match=rf"trees\.jsonl {fault}"):
        read_conversations(path)
    assert read_conversations(path, limit=1) == TREES[:1]


def test_other_bytes_than_text(tmp_path):
    (tmp_path / "trees.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AloeError, match=r"trees\.jsonl: not UTF-8 text"):
        read_conversations(tmp_path / "trees.jsonl")


def test_missing_empty_and_unknown(tmp_path, tfds_trees):
    with pytest.raises(AloeError, match=r"no such data set.*aloe_trees/1\.0\.0.*python -m datagen build --config"):
        read_conversations(tmp_path / "nothing")
    with pytest.raises(AloeError, match=r"aloe_personas/1\.0\.0"):
        read_personas(tmp_path / "personas" / "1.0.0")
    with pytest.raises(AloeError, match=r"without dataset_info\.json"):
        read_conversations(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(AloeError, match=r"empty\.jsonl: holds no records"):
        read_conversations(tmp_path / "empty.jsonl")
    with pytest.raises(AloeError, match="has no split 'test', only train, validation"):
        read_conversations(tfds_trees, "test")
    with pytest.raises(AloeError, match="no such data set"):
        fingerprint(tmp_path / "nothing")


def test_tfds_not_installed_is_told(tfds_trees, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(AloeError, match=r"needs tensorflow-datasets .*JSONL"):
        read_conversations(tfds_trees)


def test_fingerprint_changes_with_any_content(tmp_path, tfds_trees):
    copy = tmp_path / "elsewhere" / "1.0.0"
    shutil.copytree(tfds_trees, copy)
    assert fingerprint(copy) == fingerprint(tfds_trees)
    content = bytearray((copy / SHARD).read_bytes())
    content[-1] ^= 1
    (copy / SHARD).write_bytes(content)
    assert fingerprint(copy) != fingerprint(tfds_trees)

    path = write_jsonl(tmp_path / "trees.jsonl", TREES[:2])
    before = fingerprint(path)
    write_jsonl(tmp_path / "trees.validation.jsonl", TREES[2:4])
    both = fingerprint(path)
    write_jsonl(path, TREES[1:3])
    assert len({before, both, fingerprint(path)}) == 3
