"""Near-copies by rule, and the threshold that tells them from real texts."""

import io
import json
import random

import numpy as np
import pytest
from rich.console import Console

from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.world import seed_profiles
from datagen.pool.calibrate import CHANGES, SimilarityCalibration, calibrate, read_texts, recommend, tables, texts_for
from datagen.pool.embeddings import Words
from datagen.pool.growth import grow
from datagen.pool.seeds import seed_texts
from datagen.pool.similarity import Novelty
from datagen.pool.survey import age
from datagen.settings import DatagenSettings
from tests.players import small_settings

PROFILES, PERSONALITIES = seed_texts(DatagenSettings(output="unused"))
NURSE = "She is a 34-year-old nurse. She lives with her mother, who paints. Her brother saw her at sea."


def change(kind, text=NURSE, other=PROFILES[0], seed=0):
    return CHANGES[kind](text, other, random.Random(seed))


def test_age_changed_by_a_few_years_and_nothing_else():
    for seed in range(20):
        copy = change("age changed", seed=seed)
        assert 1 <= abs(age(copy) - 34) <= 3
        assert copy.replace(str(age(copy)), "34") == NURSE
    assert change("age changed", "A forty-two-year-old baker of bread.").partition("-")[0].removeprefix("A ").isdigit()
    assert change("age changed", PERSONALITIES[0]) is None


def test_gender_swapped_with_the_grammar_kept():
    assert change("gender swapped") == (
        "He is a 34-year-old nurse. He lives with his father, who paints. His sister saw him at sea."
    )
    assert change("gender swapped", "A man of 36. His wife sees him.") == "A woman of 36. Her husband sees her."


def test_sentences_replaced_reordered_and_clauses_dropped():
    parts = NURSE.split(". ")
    replaced = change("one sentence replaced")
    assert sum(part.rstrip(".") in replaced for part in parts) == 2
    assert any(part in replaced for part in PROFILES[0].split(". "))
    reordered = change("sentences reordered")
    assert reordered != NURSE
    assert sorted(reordered.rstrip(".").split(". ")) == sorted(NURSE.rstrip(".").split(". "))
    assert change("one clause dropped") == NURSE.replace(", who paints", "")
    shorter = change("one clause dropped", "Warm. Quick to laugh. Hates noise.")
    assert shorter.count(".") == 2
    assert change("sentences reordered", "One sentence alone.") is None


def test_the_seeds_are_told_from_their_copies_with_room_on_both_sides():
    for texts, kinds in ((PROFILES, 5), (PERSONALITIES, 3)):
        found = calibrate(texts, Words())
        assert len(found.copies) == kinds
        assert found.nearest.shape == (20,)
        assert found.nearest.max() + 0.2 < found.threshold < min(map(np.min, found.copies.values())) - 0.2
        assert found.wrongly_refused(found.threshold) == found.wrongly_kept(found.threshold) == 0
        assert found.wrongly_refused(0.01) > 0.8
        assert found.wrongly_kept(0.99) > 0.5
        again = calibrate(texts, Words())
        assert all((again.copies[kind] == found.copies[kind]).all() for kind in found.copies)


def test_what_is_measured_is_what_the_filter_does():
    found = calibrate(seed_profiles(), Words())
    for threshold in (0.05, 0.1, 0.15, 0.2, 0.3):
        refused = Novelty(threshold).filter(seed_profiles())[1]["similar to a member"]
        # A refused text refuses nothing itself, so the filter refuses at most as many.
        assert refused <= round(found.wrongly_refused(threshold) * len(seed_profiles()))
    members = Novelty(found.threshold)
    members.add(PROFILES)
    copies = [CHANGES["one sentence replaced"](text, PROFILES[0], random.Random(1)) for text in PROFILES[1:]]
    assert members.filter(copies)[0] == []


def of(real, copies):
    return SimilarityCalibration(np.array(real), np.array(real), {"copies": np.array(copies)}, [])


def test_the_recommended_threshold_lies_in_the_middle_of_the_gap():
    assert recommend([of([0.1, 0.2, 0.4], [0.6, 0.9])]) == pytest.approx(0.5, abs=0.011)
    both = [of([0.1, 0.2, 0.4], [0.7, 0.9]), of([0.1, 0.5], [0.9])]
    assert recommend(both) == pytest.approx(0.6, abs=0.011)


def test_a_few_copies_among_the_real_texts_do_not_raise_the_threshold():
    real = [*np.linspace(0.1, 0.3, 97), 0.92, 0.93, 0.94]
    found = of(real, [0.7, 0.8, 0.9])
    assert found.threshold == pytest.approx(0.5, abs=0.02)
    assert found.wrongly_refused(found.threshold) == pytest.approx(0.03)


def test_vectors_that_cannot_tell_copies_from_texts_still_get_a_threshold_that_fills_a_pool():
    found = of(np.linspace(0.5, 0.9, 100), np.linspace(0.5, 0.9, 100))
    assert found.wrongly_refused(found.threshold) <= 0.05
    assert found.wrongly_kept(found.threshold) > 0.9


def test_too_few_and_repeated_texts_are_refused():
    with pytest.raises(AloeError, match="2 texts are too few; give at least 5"):
        calibrate(PROFILES[:2], Words())
    with pytest.raises(AloeError, match="given twice; remove one of them: 'She is 19"):
        calibrate([*PROFILES, PROFILES[0]], Words())


def test_tables_show_every_threshold_and_the_most_similar_texts():
    console = Console(width=200, record=True, file=io.StringIO())
    found = calibrate(PROFILES, Words())
    for table in tables(found, "profiles"):
        console.print(table)
    shown = console.export_text()
    for said in ("20 profiles", "0.50", "0.80", f"best {found.threshold:.2f}", "age changed", "are they copies?"):
        assert said in shown


def test_texts_one_a_line_or_as_json_strings(tmp_path):
    plain = tmp_path / "texts.txt"
    plain.write_text(f"{PROFILES[0]}\n\n {PROFILES[1]} \n{PROFILES[0]}\n")
    assert read_texts(plain) == PROFILES[:2]
    strings = tmp_path / "texts.jsonl"
    # Two strings may share a line.
    strings.write_text("\n".join(map(json.dumps, PROFILES[:2])) + json.dumps(PROFILES[2]) + "\n\n")
    assert read_texts(strings) == PROFILES[:3]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'"fine text here"\n{"text": 1}\n', r"a\.jsonl line 2: expected a JSON string"),
        ("a.jsonl", b'"fine"\n\n"broken\n', r"a\.jsonl line 3: not a JSON string"),
        ("a.txt", b"\xff\xfe", r"a\.txt: not UTF-8"),
        ("a.txt", None, r"a\.txt: no such file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AloeError, match=told):
        read_texts(tmp_path / name)


def test_the_pool_of_the_journal_is_calibrated_or_else_the_seeds(tmp_path):
    settings = small_settings(tmp_path)
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        before = texts_for(settings, ledger)
        assert before["profiles"] == seed_profiles()
        assert len(before["personalities"]) == 10

        def write(examples, count, seed):
            return [f"Somebody new {seed} sails alone around islands {seed}."]

        pool = grow(ledger, "profiles", seed_profiles(), 12, settings, write=write)
        assert texts_for(settings, ledger)["profiles"] == pool.members
        (tmp_path / "mine.txt").write_text("\n".join(PROFILES))
        assert texts_for(settings, ledger, tmp_path / "mine.txt") == {"texts of mine.txt": PROFILES}
