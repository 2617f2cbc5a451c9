"""Validation meets people whom training has not: whole profiles are held out, and what both have is said."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.conversation import NOT_RECORDED
from aloe_jax.data.holding_out import held_out, held_out_by_profile
from aloe_jax.data.people import People, last_held_out, shared_people
from aloe_jax.data.selection import PAIRS
from aloe_jax.data.settings import DataSettings, SourceSettings
from aloe_jax.data.sources import open_source
from aloe_jax.errors import AloeError
from tests.conversations import another, conversation
from tests.data.families import loaded
from tests.data.jsonl import write_jsonl
from tests.data.prepared import gather
from tests.players import some_personas

TEMPLATE = loaded("llama3")[2]
GRID = [conversation(1, f"c{p}-{t}", profile=p, personality=t) for p in range(40) for t in range(5)]


def opened(path, split, **changes):
    data = DataSettings(path=str(path), validation_fraction=0.1, **changes)
    return open_source(SourceSettings(path=str(path)), split, data)


def lines(tmp_path, talks, name="d.jsonl"):
    return write_jsonl(tmp_path / name, [talk.record() for talk in talks])


def test_no_profile_is_on_both_sides(tmp_path):
    path = lines(tmp_path, GRID)
    train, validation = opened(path, "train"), opened(path, "validation")
    assert not train.people.profiles & validation.people.profiles
    assert train.count + validation.count == 200 and validation.count == 5 * len(validation.people.profiles) > 0
    assert train.people.personalities == validation.people.personalities  # which the log says
    assert (
        shared_people(train.people, validation.people)
        == f"people: 0 of {len(validation.people.profiles)} profiles are in training too; "
        "5 of 5 personalities are in training too"
    )


def test_conversations_one_by_one_where_that_is_asked_for(tmp_path):
    path = lines(tmp_path, GRID)
    train, validation = (opened(path, split, validation_by="conversation") for split in ("train", "validation"))
    assert validation.people.profiles < train.people.profiles  # as all of them would be in a large data set
    assert "are held out one by one, their personas are in training too" in validation.remarks[0]
    said = shared_people(train.people, validation.people)
    assert f"{len(validation.people.profiles)} of " in said and "its loss says little of people" in said


def test_the_side_is_the_profiles_alone(tmp_path):
    """Neither the order, nor other records, nor another file of the same people moves anybody."""
    shuffled = random.Random(0).sample(GRID, 130)
    later = [conversation(2, f"d{p}", profile=p) for p in range(40)]
    sides = [
        opened(lines(tmp_path, talks, name), "validation").people.profiles
        for name, talks in (("a.jsonl", GRID), ("b.jsonl", shuffled), ("c.jsonl", later))
    ]
    assert sides[0] == sides[1] == sides[2]


def test_the_log_says_what_is_held_out(tmp_path):
    (said,) = opened(lines(tmp_path, GRID), "validation").remarks
    count = 5 * len(opened(tmp_path / "d.jsonl", "validation").people.profiles)
    assert f"{count} of 200 conversations are held out, those of {count // 5} of 40 profiles (data.val" in said
    nobody = [talk.model_copy(update={"persona": NOT_RECORDED}) for talk in GRID]
    path = lines(tmp_path, nobody, "nobody.jsonl")
    train, validation = opened(path, "train"), opened(path, "validation")
    assert "conversations are held out one by one, as the records have no personas" in validation.remarks[0]
    said = shared_people(train.people, validation.people)
    assert said.endswith("so who is in both is not known of them") and "profile" not in said
    # They are divided as before: by the content of each.
    by_content = opened(path, "validation", validation_by="conversation")
    assert validation.count == by_content.count


def test_a_profile_of_most_conversations_stays_in_training(tmp_path):
    giant = [conversation(1, f"g{k}", profile=999) for k in range(90)]
    path = lines(tmp_path, giant + [conversation(1, f"c{k}", profile=k) for k in range(10)])
    for fraction in (0.05, 0.5, 0.9):
        data = DataSettings(path=str(path), validation_fraction=fraction)
        held = open_source(SourceSettings(path=str(path)), "validation", data)
        assert 1 <= held.count <= 10
        (said,) = held.remarks
        assert (
            f"that is {held.count / 100:.1%} where {fraction:.1%} is asked for, since profiles stay whole and the "
            "largest has 90 of the conversations" in said
        )


def test_one_profile_cannot_be_divided(tmp_path):
    path = lines(tmp_path, [conversation(1, f"c{k}", profile=1) for k in range(20)])
    told = r"d\.jsonl: nothing can be held out by profile: its 20 conversation\(s\) are all of one profile; give a"
    with pytest.raises(AloeError, match=told):
        opened(path, "train")
    assert opened(path, "train", validation_by="conversation").count < 20


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60).filter(lambda p: len(set(p)) > 1), st.floats(0.001, 0.999))
def test_both_sides_have_somebody_and_nobody_is_on_both(profiles, fraction):
    digests = [another(number).profile.encode()[10:].ljust(8)[:8] for number in profiles]
    held = held_out_by_profile(digests, fraction, "p")
    assert 0 < held.sum() < len(profiles)
    assert not {d for d, h in zip(digests, held, strict=True) if h} & {
        d for d, h in zip(digests, held, strict=True) if not h
    }
    largest = max(digests.count(digest) for digest in digests)
    if largest > len(digests) / 2:
        assert not held[[digest for digest in digests].index(max(digests, key=digests.count))]


def test_the_fraction_is_met_where_there_are_many_profiles():
    digests = [np.random.default_rng(k // 10).bytes(8) for k in range(10_000)]
    # 1,000 profiles of 10: the standard deviation of the share is 0.007.
    assert abs(held_out_by_profile(digests, 0.05, "p").mean() - 0.05) < 0.03
    assert (held_out_by_profile(digests[::10], 0.05, "p") == held_out(digests[::10], 0.05, "p")).all()


def test_a_validation_split_of_its_own_is_compared_with_training(tmp_path):
    lines(tmp_path, GRID)
    lines(tmp_path, [conversation(1, "v", profile=3), conversation(1, "w", profile=77)], "d.validation.jsonl")
    data = DataSettings(path=str(tmp_path / "d.jsonl"), row_length=256)
    train, validation = (gather(data, TEMPLATE, PAIRS, split) for split in ("train", "validation"))
    said = shared_people(train.people, validation.people)
    assert "1 of 2 profiles is in training too (its loss says little" in said
    assert "1 of 1 personality is in training too" in said


def test_people_of_several_sources_are_compared_together(tmp_path):
    """A person in the training of one source and the validation of another is in both."""
    one = lines(tmp_path, [conversation(1, f"a{p}", profile=p) for p in range(4)], "a.jsonl")
    lines(tmp_path, [conversation(1, "av", profile=50)], "a.validation.jsonl")
    two = lines(tmp_path, [conversation(1, f"b{p}", profile=p) for p in range(50, 54)], "b.jsonl")
    lines(tmp_path, [conversation(1, "bv", profile=60)], "b.validation.jsonl")
    data = DataSettings(mixture=(SourceSettings(path=str(one)), SourceSettings(path=str(two))), row_length=256)
    train, validation = (gather(data, TEMPLATE, PAIRS, split) for split in ("train", "validation"))
    assert "1 of 2 profiles is in training too" in shared_people(train.people, validation.people)


def test_personas_that_rl_validates_with_share_no_profile_with_those_it_learns_from():
    personas = some_personas(4, 5)  # profile by profile
    rest, held = last_held_out(personas, 7, by_profile=True)
    assert held == personas[-7:]
    assert not People.of(rest).profiles & People.of(held).profiles and len(rest) == 10
    assert last_held_out(personas, 7, by_profile=False) == (personas[:-7], personas[-7:])
