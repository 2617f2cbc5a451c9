import json

import numpy as np
import pytest

from aloe_jax.benchmark.human_ratings import (
    HumanRating,
    HumanRatings,
    item_id,
    read_people,
    read_ratings,
)
from aloe_jax.benchmark.rating.analysis import compare_with_people
from aloe_jax.benchmark.rating.key import Item, Key, ReplyPlace
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError

PERSONA = Persona(id="p", profile="a", personality="b")
PATH = [{"role": "user", "content": "hi"}]


def key_of(judged):
    """A key to replies of one model, each of a case of its own, by the judge's rating."""
    items = {
        item: Item(case=item, weight=1, places=[ReplyPlace(model="m", turn=1, rating=rating, judges={"j": rating})])
        for item, rating in judged.items()
    }
    return Key(seed=0, simulated=[], pages=[], items=items)


def saved(path, rater, ratings, **more):
    record = {"format": "aloe-human-ratings", "version": 1, "rater": rater, "ratings": ratings, **more}
    path.write_text(json.dumps(record))
    return path


def test_a_file_is_read_as_the_page_saves_it(tmp_path):
    ratings = [{"item": "x", "rating": 4, "note": "kind", "seconds": 3.5}, {"item": "y", "rating": None}]
    path = saved(tmp_path / "a.json", "anna", ratings, page="d1")
    found = read_ratings(path)
    assert found == HumanRatings(
        rater="anna",
        page="d1",
        ratings=[HumanRating(item="x", rating=4, note="kind", seconds=3.5), HumanRating(item="y", rating=None)],
    )
    assert HumanRatings.model_validate_json(found.model_dump_json()) == found
    assert read_people([path]) == {"anna": {"x": 4}}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "not valid JSON"),
        ('{"format": "aloe-human-ratings", "version": 1, "ratings": []}', "rater"),
        ('{"format": "other", "version": 1, "rater": "a", "ratings": []}', "format"),
        (
            '{"format": "aloe-human-ratings", "version": 1, "rater": "a", "ratings": [{"item": "x", "rating": 6}]}',
            "ratings.0.rating",
        ),
        (
            '{"format": "aloe-human-ratings", "version": 1, "rater": "a", "ratings": [{"item": "x", "rating": 4.5}]}',
            "ratings.0.rating",
        ),
        (
            '{"format": "aloe-human-ratings", "version": 1, "rater": "a", "ratings": '
            '[{"item": "x", "rating": 4}, {"item": "x", "rating": 4}]}',
            "rated twice",
        ),
    ],
)
def test_mistakes_name_the_file_and_the_field(tmp_path, record, message):
    path = tmp_path / "a.json"
    path.write_text(record)
    with pytest.raises(AloeError, match=message) as caught:
        read_ratings(path)
    assert str(path) in str(caught.value)
    with pytest.raises(AloeError, match="cannot be read"):
        read_ratings(tmp_path / "none.json")


def test_a_rater_may_have_several_files_that_agree(tmp_path):
    one = saved(tmp_path / "1.json", "anna", [{"item": "x", "rating": 4}])
    two = saved(tmp_path / "2.json", "anna", [{"item": "y", "rating": 2}])
    assert read_people([one, two]) == {"anna": {"x": 4, "y": 2}}
    saved(two, "anna", [{"item": "x", "rating": 3}])
    with pytest.raises(AloeError, match="anna gave item x another rating"):
        read_people([one, two])


def test_agreement_of_judges_with_people():
    items = [f"i{n}" for n in range(40)]
    random = np.random.default_rng(0)
    true = random.integers(1, 6, 40)
    people = {name: {item: int(rating) for item, rating in zip(items, true, strict=True)} for name in "ab"}
    alike = compare_with_people(people, key_of(dict(zip(items, true.astype(float), strict=True))))
    assert alike.people.alpha == alike.judge.alpha == pytest.approx(1) and alike.bias == 0
    assert (alike.items, alike.unknown, alike.raters) == (40, 0, ["a", "b"])
    kind = compare_with_people(people, key_of(dict(zip(items[:30], true[:30] + 1.0, strict=True))))
    assert kind.bias == 1 and kind.judge.spearman == pytest.approx(1) and kind.judge.alpha < 0.9
    assert (kind.items, kind.unknown) == (30, 10)
    blind = compare_with_people(people, key_of(dict(zip(items, random.permutation(true).astype(float), strict=True))))
    assert abs(blind.judge.alpha) < 0.35
    nothing = compare_with_people(people, key_of({}))
    assert nothing.items == 0 and nothing.bias is None and nothing.judge.alpha is None


def test_an_item_is_named_by_what_was_read():
    name = item_id(PERSONA, PATH, "hello")
    assert name == item_id(PERSONA, list(PATH), "hello")
    others = {
        item_id(PERSONA, PATH, "hello!"),
        item_id(PERSONA, [{"role": "user", "content": "ho"}], "hello"),
        item_id(PERSONA.model_copy(update={"profile": "c"}), PATH, "hello"),
    }
    assert len(others) == 3 and name not in others


def test_what_no_judge_of_the_run_rated_says_nothing_about_it():
    people = {"a": {"x": 1, "y": 2, "z": 5}, "b": {"x": 2, "y": 1, "z": 5}}
    found = compare_with_people(people, key_of({"x": 1.0, "y": 2.0}))
    assert (found.items, found.unknown, found.people.units) == (2, 1, 2)
    assert found.people.spearman == pytest.approx(-1)  # with z it would be high
