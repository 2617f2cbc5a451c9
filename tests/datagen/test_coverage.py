"""The survey of profiles: what it reads from plain English, and what it leaves alone."""

import io
from pathlib import Path

import pytest
from rich.console import Console

import datagen.pool.seeds
from aloe_jax.llm.world import seed_profiles
from datagen.pool.seeds import read_seeds
from datagen.pool.survey import DECADES, age, decade, diets, gender, hobbies, occupations, pets, survey, tables

SEEDS = read_seeds(Path(datagen.pool.seeds.__file__).parent / "profiles.txt", "profiles")


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("She is a 34-year-old nurse. Her 12-year-old son skates.", 34),
        ("A man of 58. He owns a bakery.", 58),
        ("He is 26 and repairs lifts.", 26),
        ("She is 29, a nurse on the night shift.", 29),
        ("She is a retired seamstress of 78 in Izmir.", 78),
        ("He is a forty-two-year-old plumber.", 42),
        ("They are aged 61 and live in Leeds.", 61),
        ("She lives in Dakar. She turned 80 last spring.", 80),
        ("He bakes. At 55, he feels settled.", 55),
        ("She is 52. Her 16-year-old daughter skates.", 52),
        ("She has been married for 35 years and lives at number 40.", None),
        ("He owns 50 bee hives.", None),
    ],
)
def test_age(text, years):
    assert age(text) == years


@pytest.mark.parametrize(
    ("text", "ten"),
    [
        ("She is in her sixties and keeps bees.", 60),
        ("A baker in his late twenties.", 20),
        ("He is 37.", 30),
        ("A widow with grown children.", None),
    ],
)
def test_decade(text, ten):
    assert decade(text) == ten


def test_gender_is_the_first_gendered_word():
    assert gender("A man of 58. His wife sings.") == ["man"]
    assert gender("She lives with her husband.") == ["woman"]
    assert gender("They are a 36-year-old tattoo artist. Her sister visits.") == ["neither"]
    assert gender("A 36-year-old baker.") == []


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("He is a 22-year-old college student studying anthropology.", ["college student"]),
        ("She is a 60-year-old retired architect who paints.", ["architect"]),
        ("She is a 45-year-old single mother of two, working as a school librarian.", ["school librarian"]),
        ("A woman of 23. She is a teacher by profession.", ["teacher"]),
        ("A man of 36. He works as a lawyer.", ["lawyer"]),
        ("He is 26 and repairs lifts in Osaka.", ["repairs lifts"]),
        ("He is 70, a retired miner from a valley in South Wales.", ["miner"]),
        ("She is 80 and was a switchboard operator in Dakar.", ["switchboard operator"]),
        ("He is 64. By trade he is a court interpreter in Perth.", ["court interpreter"]),
        ("She has been a barber for years.", ["barber"]),
        ("She has been a widow for years.", []),
        ("She is 31. She likes tea.", []),
    ],
)
def test_occupation(text, work):
    assert occupations(text) == work


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("She enjoys hiking, yoga, and painting.", ["hiking", "yoga", "painting"]),
        ("He plays the guitar, loves indie films, and is a member of a club.", ["guitar", "indie films"]),
        ("He loves mountain biking and brewing his own beer.", ["mountain biking", "brewing his own beer"]),
        ("She collects enamel pins from film festivals.", ["enamel pins"]),
        ("He spends his weekends fishing at a river.", ["fishing"]),
        ("He also likes to build model ships.", ["build model ships"]),
        ("She took up judo at school and belongs to a club for quilting.", ["judo", "quilting"]),
        ("She swims three mornings a week.", ["swims"]),
        ("He plays in a league with friends. He is an avid reader of novels.", ["reader"]),
        ("She likes mango and dislikes figs.", ["mango"]),
        ("She has a degree in law and works for a firm.", []),
    ],
)
def test_hobbies(text, things):
    assert hobbies(text) == things


@pytest.mark.parametrize(
    ("text", "animals"),
    [
        ("She lives with two cats named Pixel and Scribble.", ["cat"]),
        ("He has a pet fish named Goldie.", ["fish"]),
        ("She keeps a mule, four goats and a blind dog.", ["mule", "goat", "dog"]),
        ("He has a golden retriever and three budgies.", ["retriever", "budgie"]),
        ("She has a saltwater aquarium.", ["fish"]),
        ("He enjoys bird watching and volunteers at a dog shelter.", []),
        ("She loves horse riding and cooks fish and rice.", []),
    ],
)
def test_pets(text, animals):
    assert pets(text) == animals


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("She is vegan, and loves spicy food.", ["vegan"]),
        ("He is allergic to nuts and eats no pork.", ["allergic to nuts", "eats no pork"]),
        ("She cannot eat shellfish.", ["cannot eat shellfish"]),
        ("They drink no alcohol.", ["drink no alcohol"]),
        ("She bakes vegan cakes for a café.", []),
    ],
)
def test_diets(text, kept):
    assert diets(text) == kept


def test_our_own_seeds_are_read_and_varied():
    found = survey(SEEDS)
    assert found.decades.total() == found.found["occupation"] == len(SEEDS) == 20
    assert all(found.decades[ten] for ten in DECADES)
    assert set(found.values["gender"]) == {"woman", "man", "neither"}
    assert len(found.values["occupation"]) == 20
    assert found.found["pastimes and tastes"] >= 15
    assert found.found["pets"] >= 10


def test_gaps_and_shares_are_counted_over_all_profiles():
    found = survey([*seed_profiles()[:2], "Nobody knows a thing about this person."])
    assert found.profiles == 3
    assert found.decades.total() == 2
    assert sum(not found.decades[ten] for ten in DECADES) == 6
    assert found.found["occupation"] == 2


def test_tables_name_the_gaps_and_survive_an_empty_pool():
    console = Console(width=160, record=True, file=io.StringIO())
    for table in tables(survey(seed_profiles())):
        console.print(table)
    shown = console.export_text()
    assert "10s" in shown and "nobody" in shown and "baker 3" in shown
    assert len(tables(survey([]))) == 2
