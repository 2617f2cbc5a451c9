"""From the journal to TFDS and back."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.conversation import Conversation
from aloe_jax.data.dataset import fingerprint, read_conversations, read_personas
from aloe_jax.data.tfds_records import stored
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.world import seed_personalities, seed_profiles
from aloe_jax.roles import Cast
from datagen.build import build, refuse_duplicates, split_by_profile, write_tfds
from datagen.conversations import recorded_conversations, write_conversations
from datagen.look.stats import turn_stats
from datagen.personas import Personas, write_personas
from tests.conversations import conversation
from tests.players import small_settings, some_personas


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its settings, its open journal, its personas."""
    settings = small_settings(tmp_path_factory.mktemp("run"), validation_fraction=0.3)
    with Ledger(f"{settings.output}/journal.sqlite") as ledger:
        seeds = (seed_profiles(), seed_personalities())
        personas, _ = write_personas(ledger, Cast(settings.roles, ledger), settings, seeds)
        write_conversations(ledger, Cast(settings.roles, ledger), personas.training, settings)
        yield settings, ledger, personas


def test_round_trip_without_tensorflow(run):
    settings, ledger, personas = run
    (people, people_counts), (trees, tree_counts) = build(ledger, settings).items()
    assert people.parts[-3:] == ("tfds", "aloe_personas", "1.0.0")
    assert people_counts == {"train": 12, "benchmark": 4}
    assert read_personas(people) == personas.benchmark
    assert read_personas(people, "train") == personas.training

    train, validation = read_conversations(trees), read_conversations(trees, "validation")
    assert tree_counts == {"train": len(train), "validation": len(validation)}
    written = recorded_conversations(ledger, personas.training, settings)
    assert [tree for tree in written if tree in train] == train
    assert [tree for tree in written if tree in validation] == validation
    assert len(train) + len(validation) == len(written) == 12
    profiles = [{Personas.profile_id(tree.persona) for tree in split} for split in (train, validation)]
    assert profiles[0].isdisjoint(profiles[1])
    assert len(profiles[1]) == 2  # 0.3 of six profiles

    before = fingerprint(trees), fingerprint(people)
    build(ledger, settings)
    assert (fingerprint(trees), fingerprint(people)) == before
    assert "tensorflow" not in sys.modules


def test_provenance_is_stored_and_says_that_the_data_is_simulated(run):
    import tensorflow_datasets as tfds

    settings, ledger, _ = run
    for path in build(ledger, settings):
        info = tfds.builder_from_directory(path).info
        assert info.metadata["simulated"] is True
        assert info.metadata["roles"]["user"] == {"model": "scripted", "temperature": 0.8}
        assert "simulated" in info.description
        assert "Wu, Shujin" in info.citation


def test_a_build_that_fails_leaves_the_old_data_set(run, monkeypatch):
    from datagen.records_builder import RecordsBuilder

    settings, ledger, _ = run
    paths = list(build(ledger, settings))
    before = [fingerprint(path) for path in paths]

    def disk_full(self, split):
        yield 0, self._records[split][0]
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as patch:
        patch.setattr(RecordsBuilder, "_generate_examples", disk_full)
        with pytest.raises(OSError, match="No space left"):
            build(ledger, settings)
    assert [fingerprint(path) for path in paths] == before
    build(ledger, settings)
    assert not [path for path in paths[0].parents[1].iterdir() if path.name.startswith(".")]


def test_hinted_may_be_unknown(tmp_path):
    turns = [turn.model_copy(update={"hinted": None}) for turn in conversation(2).turns]
    unknown = conversation(2).model_copy(update={"turns": turns})
    path = write_tfds("aloe_trees", {"train": [stored(unknown)]}, tmp_path, {})
    assert read_conversations(path) == [unknown]


def test_empty_splits_and_duplicate_ids_are_refused(tmp_path):
    record = stored(conversation())
    with pytest.raises(AloeError, match="split validation would be empty"):
        write_tfds("aloe_trees", {"train": [record], "validation": []}, tmp_path, {})
    with pytest.raises(AloeError, match="split train: the id c0 occurs twice"):
        write_tfds("aloe_trees", {"train": [record, record]}, tmp_path, {})
    refuse_duplicates("abc", "letters")


def trees_of(counts: list[int]) -> list[Conversation]:
    """So many conversations for each profile."""
    personas = some_personas(len(counts), 1)
    return [
        conversation(1, f"{persona.id}-{k}").model_copy(update={"persona": persona})
        for persona, count in zip(personas, counts, strict=True)
        for k in range(count)
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=9), st.floats(0, 1), st.integers(0, 9))
def test_validation_is_some_profiles_never_none_and_never_all(counts, fraction, seed):
    trees = trees_of(counts)
    train, validation = split_by_profile(trees, fraction, seed)
    assert train and validation
    assert sorted(tree.id for tree in train + validation) == sorted(tree.id for tree in trees)
    names = [{tree.persona.id for tree in split} for split in (train, validation)]
    assert names[0].isdisjoint(names[1])
    assert abs(len(names[1]) - fraction * len(counts)) <= 1
    assert (train, validation) == split_by_profile(trees, fraction, seed)


def test_one_profile_cannot_be_split():
    with pytest.raises(AloeError, match=r"5 conversations of 1 profile.*conversations\.count"):
        split_by_profile(trees_of([5]), 0.5, 0)


def test_conversations_come_before_a_build(tmp_path):
    run = small_settings(tmp_path)
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        write_personas(ledger, Cast(run.roles, ledger), run, (seed_profiles(), seed_personalities()))
        with pytest.raises(AloeError, match="python -m datagen conversations"):
            build(ledger, run)


def test_turn_stats():
    trees = [conversation(3, continued="prr"), conversation(1, "c1", continued="r")]
    rows = turn_stats(trees)
    assert [row.turn for row in rows] == [1, 2, 3]
    assert [row.user_words for row in rows] == [4, 4, 4]
    assert [row.preferred_words for row in rows] == [4, 5, 6]
    assert [row.preferred_continued for row in rows] == [0.5, 0, 0]
    assert [row.hint_preferred for row in rows] == [0, 1, 0]


def test_both_data_sets_are_read_by_tfds_without_tensorflow(run):
    """In a process of its own: whether a package is imported is a matter of the whole process."""
    settings, ledger, personas = run
    build(ledger, settings)
    root = Path(settings.output) / "tfds"
    code = f"""
import sys
import tensorflow_datasets as tfds
import datagen.aloe_personas.aloe_personas, datagen.aloe_trees.aloe_trees
for name, split in (("aloe_personas", "benchmark"), ("aloe_trees", "train")):
    by_directory = tfds.builder_from_directory({str(root)!r} + "/" + name + "/1.0.0").as_data_source(split)
    by_name = tfds.data_source(name, split=split, data_dir={str(root)!r})
    assert len(by_directory) == len(by_name) > 0
    assert by_directory[0]["id"] == by_name[0]["id"]
    print(name, len(by_name), by_name[0]["id"].decode())
assert len(by_name[0]["turns"]["user"]) == {settings.conversations.turns}
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"aloe_personas {len(personas.benchmark)} {personas.benchmark[0].id}" in done.stdout
