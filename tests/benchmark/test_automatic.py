import pytest

from aloe_jax.benchmark.automatic import automatic, facts_of, measure
from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.conversation import Persona

ANNA = Persona(
    id="anna",
    profile="A retired tram driver of 68. She grows dahlias on an allotment. She bakes for the Thursday choir.",
    personality="Warm.",
)
WORLD = Persona(
    id="world",
    profile="A man of 42. His favourite dish is ramen. He listens to jazz. He keeps a parrot.",
    personality="Serious and rarely amused. Likes a fixed schedule.",
)
DAHLIAS, CHOIR = "She grows dahlias on an allotment.", "She bakes for the Thursday choir."


def test_facts_of_people_by_overlap():
    told = ["My dahlias on the allotment are growing wild!"]
    found = facts_of("overlap", ANNA, told, "Dahlias! Bake a cake for the choir on Thursday to celebrate them.")
    assert found.revealed == found.mentioned == (DAHLIAS,)
    assert found.leaked == (CHOIR,)
    assert facts_of("overlap", ANNA, told, "How lovely.").mentioned == ()


def test_what_the_user_said_is_not_let_out():
    told = ["I sing in a choir."]
    found = facts_of("overlap", ANNA, told, "What does your choir sing?")
    assert found.revealed == found.mentioned == found.leaked == ()  # one of three telling words is a coincidence
    assert facts_of("overlap", ANNA, [*told, "We met on Thursday."], "And the choir?").mentioned == (CHOIR,)
    assert facts_of("overlap", ANNA, [], "Nice.").revealed == ()


def test_facts_of_the_simulated_world_are_exact():
    told = ["My favourite dish is ramen. My neighbour keeps a ferret. I keep a calendar. What should I cook?"]
    found = facts_of("exact", WORLD, told, "Okay. Try a bowl of ramen with jazz and techno.")
    assert found.revealed == ("His favourite dish is ramen.", "Likes a fixed schedule.")
    assert found.mentioned == ("His favourite dish is ramen.",)
    assert found.leaked == ("He listens to jazz.",)
    assert found.untrue == ("techno",)


def dialogue(*turns):
    return Dialogue(WORLD, [DialogueTurn(user, CandidateReply(reply)) for user, reply in turns])


def test_measures_of_a_model():
    one = dialogue(
        ("What should I cook?", "Try a bowl of ramen."),
        ("My favourite dish is ramen. And now?", "Try ramen, try ramen!"),
        ("What should I play now?", "Try a techno song."),
    )
    two = dialogue(("What should I play now?", ""))
    measured = [measure(one, "exact"), measure(two, "exact")]
    found = automatic([one, two], measured, "exact", 3)
    assert found.words == (5 + 4 + 4 + 0) / 4
    assert found.distinct_1 == 7 / 13  # try a bowl of ramen techno song
    assert found.distinct_2 == found.distinct_2_within == 8 / 10  # "try a" and "try ramen" twice
    assert (found.mentioned, found.leaked, found.untrue) == (1 / 2, 1 / 4, 1 / 4)
    assert found.words_by_turn == [2.5, 4, 4]
    assert found.mentioned_by_turn == [None, 1, 0]
    assert found.leaked_by_turn == [0.5, 0, 0]


@pytest.mark.parametrize("way", ["exact", "overlap"])
def test_nothing_said_is_nothing_measured(way):
    found = automatic([dialogue()], [[]], way, 2)
    assert [found.words, found.distinct_1, found.mentioned, found.leaked] == [None] * 4
    assert len(found.words_by_turn) == 2


def test_untrue_cannot_be_told_of_people():
    one = dialogue(("hello", "techno"))
    assert automatic([one], [measure(one, "overlap")], "overlap", 1).untrue is None
