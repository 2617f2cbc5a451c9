"""Stage directions, sentences, and what counts as quoted from a description."""

import pytest

from aloe_jax.speech import first_sentences, keep_quoted, quoted_from, sentences, without_stage_directions

PROFILE = "She lives in Porto with two cats. She is 41. She bakes rye bread on Sundays."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("No stars at all.", "No stars at all."),
        ("*smiles warmly* Hello there.", "Hello there."),
        ("Hi! *laughs and sits down* How are you?", "Hi! How are you?"),
        ("See you. *waves*", "See you."),
        ("I *really* love it.", "I really love it."),
        ("**Never** do that.", "Never do that."),
        ("*nods slowly*", ""),
        ("2 * 3 * 4 is 24", "2 * 3 * 4 is 24"),
    ],
)
def test_what_is_acted_goes_and_what_is_stressed_stays(text, said):
    assert without_stage_directions(text) == said


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Dr. Lima comes at 5 p.m. today. J. R. left.", 2),
        ('"Really?" I asked. He nodded...', 3),
        ("one line\nanother line", 2),
        ("3.5 cups of flour, e.g. rye, will do", 1),
        ("", 0),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, count):
    assert len(sentences(text)) == count


def test_the_first_sentences_keep_their_spacing():
    text = "One.  Two!\nThree? Four. Five."
    assert first_sentences(text, 3) == "One.  Two!\nThree?"
    assert first_sentences(text, 9) == text


@pytest.mark.parametrize(
    ("piece", "is_quoted"),
    [
        ("She lives in Porto with two cats.", True),
        ("has two cats", True),
        ("BAKES RYE BREAD", True),
        ("She has two dogs.", False),
        ("She flies planes over Porto for work.", False),
        ("She is", True),
        ("He does it with them.", False),
    ],
)
def test_a_clause_is_quoted_and_an_invention_is_not(piece, is_quoted):
    assert quoted_from(PROFILE)(piece) is is_quoted


def test_only_what_the_description_holds_is_kept():
    text = "She is 41. She collects stamps. She bakes rye bread."
    assert keep_quoted(text, PROFILE) == ("She is 41. She bakes rye bread.", ["She collects stamps."])
    assert keep_quoted("", PROFILE) == ("", [])
    assert keep_quoted(PROFILE, PROFILE) == (PROFILE, [])
