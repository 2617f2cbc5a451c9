"""Which people share what, and which of them are taken where not all are."""

from collections import Counter

import numpy as np
import pytest

from aloe_jax.benchmark.alignment import alignment_metrics
from aloe_jax.benchmark.case_design import CaseDesign, spread_cases
from aloe_jax.benchmark.comparison import compare
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.benchmark.stages import read_cases
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from tests.data.jsonl import write_jsonl


def people(*pairs):
    return [
        Persona(id=f"id{number}", profile=f"profile {one}", personality=f"personality {two}")
        for number, (one, two) in enumerate(pairs)
    ]


def product(profiles, personalities):
    return people(*[(one, two) for one in range(profiles) for two in range(personalities)])


@pytest.mark.parametrize(
    ("personas", "kind", "words"),
    [
        (people(*[(i, i) for i in range(9)]), "distinct", "9 people, each with a profile and a personality"),
        (product(20, 5), "crossed", "100 people, every combination of 20 profiles and 5 personalities"),
        (product(6, 5)[1:], "crossed", "29 people with 6 profiles and 5 personalities among them"),
        (people(*[(i // 3, i) for i in range(12)]), "shared profiles", "12 people with 4 profiles and 12 pers"),
        (people(*[(i, i % 4) for i in range(12)]), "shared personalities", "12 people with 12 profiles and 4 personal"),
        (product(6, 2), "shared profiles", "12 people, every combination of 6 profiles and 2 personalities"),
        (product(7, 1), "distinct", "7 people with 7 profiles and 1 personality among them"),
        (people((0, 0), (0, 0)), "distinct", "one person"),
        (people((0, 0)), "one person", "one person"),
        ([None, None, *people((0, 0))], "distinct", "3 people, each with a profile"),
    ],
)  # fmt: skip
def test_a_design_is_found_in_the_personas(personas, kind, words):
    design = CaseDesign.of(personas)
    assert design.kind == kind
    assert design.described().startswith(words)
    assert CaseDesign.of(personas[::-1]).kind == kind


def test_parts_with_one_or_two_levels_are_given():
    assert CaseDesign.of(product(20, 5)).fixed_parts() == []
    assert CaseDesign.of(product(7, 1)).fixed_parts() == ["the one personality"]
    assert CaseDesign.of(people((0, 0), (0, 0))).fixed_parts() == ["the one profile", "the one personality"]
    assert CaseDesign.of(product(2, 5)).fixed_parts() == ["the 2 profiles"]


def test_three_or_four_levels_are_given_where_the_other_part_is_shared():
    for some, kind in ((product(20, 4), "shared profiles"), (product(3, 20), "shared personalities")):
        assert CaseDesign.of(some).kind == kind
    assert CaseDesign.of(product(20, 4)).fixed_parts() == ["the 4 personalities"]
    both = CaseDesign.of(product(4, 3))
    assert (both.kind, both.fixed_parts()) == ("distinct", ["the 4 profiles", "the 3 personalities"])
    alone = CaseDesign.of(people(*[(i, i % 4) for i in range(12)]))
    assert (alone.kind, alone.fixed_parts()) == ("shared personalities", [])


def test_few_people_are_given_and_their_cases_independent():
    design = CaseDesign.of(people((0, 0), (1, 1), (0, 0), (1, 1)))
    assert (design.people, design.kind, design.fixed_parts()) == (
        4,
        "distinct",
        ["the 2 profiles", "the 2 personalities"],
    )


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((0, 2), (0, 1), (0, 1)), r"person has to be numbered from 0 without gaps, found \[0, 2\]"),
        (((0, 1), (0, 3), (0, 1)), r"profile has to be numbered"),
        (((0, 1), (0, 1), (-1, 0)), r"personality has to be numbered"),
        (((0, 1, 0), (0, 1, 2), (0, 1)), "cases of 2 people, profiles of 3 and personalities of 2"),
    ],
)  # fmt: skip
def test_numbers_that_are_no_design_are_refused(numbers, message):
    with pytest.raises(AloeError, match=message):
        CaseDesign(*numbers)


def test_ratings_of_other_cases_are_refused():
    ratings, design = np.full((5, 3), 3.0), CaseDesign.of(product(2, 3))
    for call in (alignment_metrics, lambda ratings, design: compare(ratings, ratings, 2, 2, design=design)):
        with pytest.raises(AloeError, match="design: is of 6 cases, the ratings are of 5; give that of the same cases"):
            call(ratings, design=design)


def test_cases_of_one_person_are_weighted_together():
    design = CaseDesign.of(people((0, 0), (1, 1), (0, 0), (2, 1)))
    assert (design.people, design.profiles, design.personalities) == (3, 3, 2)
    assert design.by_case(np.array([[1.0, 2.0, 3.0]])).tolist() == [[1, 2, 1, 3]]
    assert design.subset([2, 3]).profile == (0, 1)


@pytest.mark.parametrize("count", [1, 5, 20, 37, 50, 99, 100])
def test_some_of_the_cases_are_spread_over_profiles_and_personalities(count):
    design = CaseDesign.of(product(20, 5))
    cases = spread_cases(design, count)
    assert cases == sorted(set(cases)) and len(cases) == count
    for part, levels in ((design.profile, 20), (design.personality, 5)):
        counts = Counter(part[case] for case in cases)
        assert max(counts.values()) - (min(counts.values()) if len(counts) == levels else 0) <= 1


def test_twenty_cases_of_the_benchmark_have_twenty_profiles(tmp_path):
    path = write_jsonl(tmp_path / "people.jsonl", [one.model_dump() for one in product(20, 5)])
    settings = {"output": "o", "personas": str(path), "models": {"m": {"scripted": "generic"}}, "cases": 20}
    found = read_cases(EvaluateSettings.model_validate(settings | {"roles": {"provider": "scripted"}}))
    assert len({one.profile for one in found}) == 20
    assert Counter(one.personality for one in found).most_common(1)[0][1] == 4
