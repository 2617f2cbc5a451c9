"""The pool filter: near-copies and bad formats out, everything else in, earlier before later."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.similarity import LONGEST, Novelty

NURSE = (
    "A woman of 34. She works night shifts as a nurse in Bergen. She keeps two tortoises. "
    "She cycles to work in every weather. She studies Portuguese on Sundays. She bakes rye bread."
)
BAKER = (
    "A man of 58. He owns a bakery near the harbour of Porto. His twin brother lives upstairs. "
    "He plays the accordion. He has never flown. He repairs old radios in winter."
)


def test_near_copies_of_a_member_are_refused_and_counted():
    novelty = Novelty(0.6)
    assert novelty.filter([NURSE, BAKER])[0] == [NURSE, BAKER]
    swapped = NURSE.replace("woman of 34", "man of 35").replace("She", "He")
    one_sentence = NURSE.replace("She bakes rye bread.", "She mends clocks.")
    reordered = " ".join(reversed(NURSE.split(". ")))
    accepted, refused = novelty.filter([NURSE, swapped, one_sentence, reordered])
    assert accepted == []
    assert refused == {"similar to a member": 4}


def test_the_earlier_of_two_alike_in_a_batch_wins():
    other = NURSE.replace("34", "35")
    assert Novelty(0.6).filter([NURSE, BAKER, other])[0] == [NURSE, BAKER]
    assert Novelty(0.6).filter([other, BAKER, NURSE])[0] == [other, BAKER]


def test_a_refused_candidate_refuses_nothing_itself():
    chain = ["red blue green yellow", "red blue green white", "black pink green white"]
    threshold = 0.4  # neighbours in the chain are closer than that, its ends are not
    assert Novelty(threshold).filter(chain)[0] == [chain[0], chain[2]]


def test_the_threshold_decides():
    pair = ["She keeps bees and reads novels", "She keeps bees and mends clocks"]
    assert len(Novelty(0.9).filter(pair)[0]) == 2
    assert len(Novelty(0.1).filter(pair)[0]) == 1


def test_members_added_unseen_count_as_members():
    novelty = Novelty(0.6)
    novelty.add([NURSE])
    novelty.add([])
    assert novelty.filter([NURSE, BAKER])[0] == [BAKER]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  \n ", "empty"),
        ("A nurse.", "shorter than 4 words"),
        ("word " * (LONGEST + 1), f"longer than {LONGEST} words"),
        ("it is what it is", "nothing but stop words"),
    ],
)
def test_formats_that_are_no_description(text, reason):
    accepted, refused = Novelty(0.6).filter([text, BAKER])
    assert accepted == [BAKER]
    assert refused == {reason: 1}


def test_white_space_is_normalised():
    assert Novelty(0.6).filter(["  She keeps\n bees  and mends clocks "])[0] == ["She keeps bees and mends clocks"]


TREES = st.sampled_from(["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "yew"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(TREES, min_size=4, max_size=8)), st.integers(1, 6))
def test_no_two_members_are_alike_however_candidates_are_batched(candidates, size):
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = [" ".join(words) for words in candidates]
    novelty = Novelty(0.7)
    members = []
    for start in range(0, len(texts), size):
        members += novelty.filter(texts[start : start + size])[0]
    assert members == Novelty(0.7).filter(texts)[0]
    if members:
        vectors = HashingVectorizer(stop_words="english", ngram_range=(1, 2), n_features=2**18).transform(members)
        alike = (vectors @ vectors.T).toarray()
        for row in range(len(members)):
            assert all(alike[row, :row] <= 0.7 + 1e-9)
