"""What is missing, by reason, in one line; and the exit status."""

from collections import Counter

import pytest

from aloe_jax.coverage import Coverage, last_line, percent, who_and_why, why


def test_the_last_line():
    reasons = Counter({"truncated (raise roles.judge.max_output_tokens)": 9, "blocked by a safety filter": 4})
    assert last_line([Coverage("ratings", 200, reasons), Coverage("comparisons", 40)]) == (
        "coverage 93.5%: 13 of 200 ratings are missing: 9 truncated (raise roles.judge.max_output_tokens), 4 blocked "
        "by a safety filter; the same command asks for them again",
        4,
    )
    assert last_line([Coverage("ratings", 200), Coverage("comparisons", 0)]) == ("", 0)
    both = [Coverage("ratings", 2, Counter(empty=1)), Coverage("comparisons", 4, Counter(unreadable=4))]
    assert last_line(both) == (
        "coverage 50.0%: 1 of 2 ratings is missing: 1 empty; coverage 0%: 4 of 4 comparisons are missing: 4 "
        "unreadable; the same command asks for them again",
        1,
    )


def test_what_another_run_does_not_mend_is_not_promised():
    assert last_line([Coverage("pairs", 9, Counter({"too long": 2}), for_good=2)])[0].endswith("2 too long")
    assert last_line([Coverage("ratings", 9, Counter({"too long": 2, "empty": 1}), for_good=2)])[0].endswith(
        "1 empty; the same command asks for 1 of them again"
    )


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 7, "0%"),
        (7, 7, "100%"),
        (9999, 10_000, "99.9%"),
        (99_999, 100_000, "99.9%"),
        (1, 100_000, "0.1%"),
        (1, 3, "33.3%"),
    ],
)
def test_a_share_is_nothing_or_all_only_where_it_is(part, whole, shown):
    assert percent(part, whole) == shown


@pytest.mark.parametrize(
    ("message", "short", "long"),
    [
        ("no rating: judge (m): blocked reply, SAFETY, twice", "blocked by a safety filter", "judge "),
        ("turn 3: user (a/b:1): empty reply, OTHER", "empty", "user "),
        (
            "turn 1: no reply: responder (m): truncated reply, 5 tokens did not suffice; "
            "raise models.far.remote.max_output_tokens",
            "truncated (raise models.far.remote.max_output_tokens)",
            "responder ",
        ),
        ("inducer (m): unusable answer twice, there is no JSON: 'so, so'", "unreadable", "inducer "),
        ("the two replies are equal", "because the two replies are equal", ""),
        ("user (m): out of words, today", "because user (m): out of words, today", "user "),
    ],
)
def test_reasons(message, short, long):
    assert why(message) == short
    assert who_and_why(message) == long + short
