"""The pool filter: near-copies and bad formats out, everything else in, earlier before later."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.pool.embeddings import Words
from datagen.pool.similarity import LONGEST, Novelty, _RowBlocks, fault, neighbours, paired

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
        ("I cannot help with writing that.", "a refusal"),
        ("I\u2019m sorry, but that is not possible.", "a refusal"),
        ("Unfortunately there is nothing to write.", "a refusal"),
        ("As an AI, there is no home to speak of.", "a refusal"),
        ("She is 34. As a large language model there is more to say.", "a refusal"),
        ("- A woman of 34 who bakes bread.", "a list or heading"),
        ("1. A woman of 34 who bakes bread.", "a list or heading"),
        ("A woman of 34.\n* She bakes bread.", "a list or heading"),
        ("# Profile of a baker in Porto", "a list or heading"),
        ("**Baker** of 34 from Porto.", "a list or heading"),
        ("Here are three profiles of people in Porto.", "prose around the text"),
        ("Sure! A woman of 34 who bakes bread.", "prose around the text"),
        ("Profile 3: a woman of 34 who bakes bread.", "prose around the text"),
        ("She is 34 and bakes. Let me know if you want more.", "prose around the text"),
        ('{"text": "She is 34 and bakes."}', "prose around the text"),
        ("I am 34 and bake bread in Porto.", "first person"),
        ("She is 34. My cat is called Pixel.", "first person"),
        ("She bakes bread for me in Porto.", "first person"),
    ],
)
def test_formats_that_are_no_description(text, reason):
    accepted, refused = Novelty(0.6).filter([text, BAKER])
    assert accepted == [BAKER]
    assert refused == {reason: 1}


@pytest.mark.parametrize(
    "text",
    [
        "She works as an assistant, and sings in a choir.",
        "As an AI engineer she is often in Porto.",
        "He reads about World War I and likes “My Way” a lot.",
        'She is known for saying "I am late" at the bakery.',
        "He worked in a coal mine of his own.",
        "He is 34.5 kilometres from the sea and swims there.",
    ],
)
def test_what_only_looks_like_a_fault_is_kept(text):
    assert fault(text, "profiles") is None
    assert Novelty(0.6).filter([text])[0] == [text]


@pytest.mark.parametrize(
    "text", ['Says "my fault" easily. Great company. Apologies come late.', "Okay with silence. I, too, they say."]
)
def test_a_personality_may_speak_of_itself(text):
    assert fault(text, "personalities") is None


class Table:
    """Dense rows by name: a stand-in for an embedding model."""

    def __init__(self, rows):
        self.rows = rows

    def transform(self, texts):
        rows = np.array([self.rows[text] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_dense_vectors_are_compared_like_sparse_ones():
    one, two, three = "she bakes rye bread", "she bakes white bread", "he mends old clocks"
    vectors = Table({one: [1, 0.1, 0], two: [1, 0, 0.1], three: [-1, 0, 0]})
    novelty = Novelty(0.9, vectors)
    assert novelty.filter([one, two, three]) == ([one, three], {"similar to a member": 1})
    assert novelty.filter([two]) == ([], {"similar to a member": 1})
    assert Novelty(0.999, vectors).filter([one, two, three])[0] == [one, two, three]


def test_a_pool_grown_one_by_one_is_copied_a_logarithmic_number_of_times():
    rows = _RowBlocks()
    numbers = np.eye(600, dtype=np.float32)
    for number in range(600):
        rows.append(numbers[number : number + 1])
    assert len(rows._blocks) <= 10
    assert sum(len(block) for block in rows._blocks) == 600
    assert rows.nearest(numbers[[0, 299, 599]]).tolist() == [1, 1, 1]
    assert rows.nearest(-numbers[:2]).tolist() == [0, 0]


def test_more_candidates_than_are_compared_at_once():
    texts = [f"alpha{k} beta{k} gamma{k} delta{k}" for k in range(600)]
    accepted, refused = Novelty(0.6).filter([*texts, *texts])
    assert (accepted, refused) == (texts, {"similar to a member": 600})


@pytest.mark.parametrize("dense", [False, True])
def test_neighbours_are_those_of_the_whole_matrix(dense):
    texts = [NURSE, BAKER, NURSE.replace("34", "35"), BAKER.replace("Porto", "Faro"), "Nobody else is like this one."]
    rows = Words().transform(texts * 1)
    rows = rows.toarray() if dense else rows
    whole = np.asarray((rows @ rows.T) if dense else (rows @ rows.T).toarray())
    np.fill_diagonal(whole, -1)
    nearest, partner, earlier = neighbours(rows)
    np.testing.assert_allclose(nearest, whole.max(axis=1))
    assert partner[:4].tolist() == [2, 3, 0, 1]
    assert earlier[0] == -1
    np.testing.assert_allclose(earlier[1:], [whole[row, :row].max() for row in range(1, 5)])
    np.testing.assert_allclose(paired(rows[[0, 1]], rows[[2, 3]]), [whole[0, 2], whole[1, 3]])


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
