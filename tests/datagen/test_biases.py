"""What preferences go with besides the persona, and intervals for conversations that share people."""

import math
from collections import Counter

import numpy as np
import pytest

import datagen.look.shares as shares_module
from aloe_jax.benchmark.automatic import words_of
from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.intervals import interval
from aloe_jax.conversation import Conversation, Persona, Turn
from aloe_jax.llm.ledger import Ledger
from datagen.journal import CONVERSATION, SKIP, lost_pairs, open_skips
from datagen.look.biases import is_clear, length_bias, position_bias
from datagen.look.quality import intervals, measure
from datagen.look.shares import Share, shares
from datagen.look.stats import bias_table, turn_stats
from datagen.look.verifier_text import verifier_text
from tests.conversations import another, conversation


def grid(profiles, each, pool, seed=0):
    """Profile and personality of conversations: every profile has `each` different ones of `pool` personalities."""
    random = np.random.default_rng(seed)
    chosen = [random.choice(pool, each, replace=False) for _ in range(profiles)]
    return np.repeat(np.arange(profiles), each), np.concatenate(chosen)


def people(profiles, personalities):
    """Personas with these profiles and personalities."""
    return [
        Persona(id=f"{one}/{other}", profile=f"Profile {one}.", personality=f"Personality {other}.")
        for one, other in zip(profiles, personalities, strict=True)
    ]


def share(parts, wholes, personas):
    """Of one column."""
    return shares(np.array([parts]).T, np.array([wholes]).T, personas)[0]


def covered(profiles, each, pool, of_profile, of_personality, runs, seed=0):
    """How often the interval has the truth, 0.58, and how often one that takes conversations for independent has it."""
    random = np.random.default_rng(seed)
    pairs, right, naive = 10, 0, 0
    for run in range(runs):
        profile, personality = grid(profiles, each, pool, run)
        effects = random.normal(0, of_profile, profiles)[profile]
        effects = effects + random.normal(0, of_personality, pool)[personality]
        longer = random.binomial(pairs, np.clip(0.58 + effects, 0, 1))
        found = share(longer, np.full(len(longer), pairs), people(profile, personality))
        right += found.low <= 0.58 <= found.high
        part = longer / pairs
        naive += abs(part.mean() - 0.58) <= 1.96 * part.std(ddof=1) / np.sqrt(len(part))
    return right / runs, naive / runs


def test_intervals_know_that_people_are_shared():
    """150 runs: a coverage of 95% has a standard deviation of 1.8%, so 88% is four of them below."""
    right, naive = covered(20, 10, 30, 0.15, 0.1, 150)
    assert right >= 0.88 and naive <= 0.75


@pytest.mark.soak
@pytest.mark.parametrize(
    ("profiles", "effects"),
    [(20, (0, 0)), (20, (0.1, 0.1)), (20, (0.15, 0.05)), (20, (0.15, 0.15)), (40, (0.15, 0.15))],
)
def test_intervals_cover_what_they_say(profiles, effects):
    """1,000 runs: the standard deviation of a coverage of 95% is 0.7%; the method itself is within 2% of it."""
    right, _ = covered(profiles, 10, 30, *effects, runs=1000)
    assert 0.92 <= right <= 0.985


def test_intervals_are_those_of_the_benchmark():
    """Conversations with one pair each: the share is a mean of 0 and 1, and its interval that of any mean."""
    profile, personality = grid(12, 5, 8)
    personas = people(profile, personality)
    values = np.random.default_rng(0).integers(0, 2, 60).astype(float)

    def mean(weights):
        return weights @ values[:, None] / weights.sum(axis=1, keepdims=True)

    _, ends = interval(mean, CaseDesign.of(personas), 2000, 0, 0.0, 1.0)
    found = share(values, np.ones(60), personas)
    np.testing.assert_allclose([found.low, found.high], ends[:, 0], rtol=1e-9)
    assert found.count == 60 and found.value == values.mean()


def test_a_person_is_one_observation():
    """Each conversation ten times over says no more than once."""
    values = np.random.default_rng(1).integers(0, 2, 30).astype(float)
    once = share(values, np.ones(30), people(range(30), range(30)))
    often = share(np.repeat(values, 10), np.ones(300), people(np.repeat(range(30), 10), np.repeat(range(30), 10)))
    np.testing.assert_allclose([often.low, often.high], [once.low, once.high])


def test_columns_count_those_who_have_something():
    """A share of ten people's pairs has the interval of these ten, whatever people are in another column."""
    values = np.random.default_rng(2).integers(0, 2, 30).astype(float)
    personas, few = people(range(30), range(30)), np.arange(30) < 10
    both = shares(np.stack([values, values * few], 1), np.stack([np.ones(30), few], 1), personas)
    assert both[1] == share(values[:10], np.ones(10), personas[:10])
    assert both[0] == share(values, np.ones(30), personas)


def test_of_many_people_the_interval_is_that_of_the_first(monkeypatch):
    """Around the share of all, and no narrower than that of all."""
    values = np.random.default_rng(3).integers(0, 2, 60).astype(float)
    personas = people(range(60), range(60))
    exact = share(values, np.ones(60), personas)
    first = share(values[:15], np.ones(15), personas[:15])
    monkeypatch.setattr(shares_module, "MOST", 15)
    found = share(values, np.ones(60), personas)
    assert found.value == exact.value and found.high - found.low > exact.high - exact.low
    np.testing.assert_allclose(found.low - found.value, first.low - first.value)


def test_nothing_to_count_and_nobody_to_compare():
    alone = share([2], [3], people([0], [0]))
    assert alone.value == 2 / 3 and math.isnan(alone.low) and alone.written() == "66.7%"
    assert share([0, 0], [0, 0], people([0, 1], [0, 1])).written() == "\u2013"


# ---------------------------------------------------------------- length


def tree(number, *turns):
    return Conversation(id=f"c{number}", persona=another(number, number % 3), turns=[Turn(**turn) for turn in turns])


def turn(preferred, rejected, **more):
    return {"user": "u", "preferred": preferred, "rejected": rejected, "continued": "preferred", **more}


def test_the_share_of_pairs_whose_preferred_reply_is_longer():
    trees = [
        tree(0, turn("a b c", "a"), turn("a", "a b"), turn("a b", "b c")),
        tree(1, turn("a b", "a"), turn("a b", "a")),
        tree(2, turn("a", "a b c"), turn("a", None)),
    ]
    found = length_bias(trees)
    assert (found.pairs, found.unequal) == (6, 5)  # equal lengths and single replies say nothing of it
    assert (found.longer.value, found.longer.count) == (3 / 5, 5)
    assert [(share.value, share.count) for share in found.by_turn[:2]] == [(2 / 3, 3), (0.5, 2)]
    assert math.isnan(found.by_turn[2].value)
    assert (found.preferred_words, found.rejected_words) == (11 / 6, 10 / 6)
    assert found.longer.low < 3 / 5 < found.longer.high


def test_words_are_counted_as_in_the_report():
    """A dash between spaces is no word, and a hyphen parts two: the second reply is the longer one, by words."""
    preferred, rejected = "well - yes - no", "a well-known old one"
    trees = [tree(number, turn(preferred, rejected)) for number in range(3)]
    found = length_bias(trees)
    assert (found.preferred_words, found.rejected_words) == (3, 5)
    assert (len(words_of(preferred)), len(words_of(rejected))) == (3, 5)
    assert turn_stats(trees)[0].preferred_words == 3
    assert measure(trees).overall.reply_words == 4


def longer_later(count=60):
    """The longer reply is preferred in half of the first turns, and in all of the second."""
    trees = []
    for number in range(count):
        first = turn("a b", "a") if number % 2 else turn("a", "a b")
        trees.append(tree(number, first, turn("a b c", "a")))
    return trees


def test_the_card_says_what_length_gives_away():
    said = verifier_text(longer_later())
    assert "in 75.0% (" in said and "of the 120 pairs of unequal length (of 120)" in said
    assert "preferred replies have 2.2 words on average, rejected ones 1.2" in said
    assert "| 1 | 60 | 50.0% |" in said and "| 2 | 60 | 100.0% |" in said
    assert "always taking the longer reply agrees with 75% of these preferences (50% at the first turn, 100%" in said
    shorter = [
        tree.model_copy(
            update={
                "turns": [t.model_copy(update={"preferred": t.rejected, "rejected": t.preferred}) for t in tree.turns]
            }
        )
        for tree in longer_later()
    ]
    assert "always taking the shorter reply agrees with 75% of these preferences (50% at" in verifier_text(shorter)
    even = [tree(number, turn("a b", "a") if number % 2 else turn("a", "a b")) for number in range(60)]
    assert "length alone hardly says which reply is preferred" in verifier_text(even)
    assert "no pairs of unequal length" in verifier_text([tree(0, turn("a", "b"))])


# ---------------------------------------------------------------- position


def test_position_bias_is_of_those_that_record_it():
    trees = [tree(0, turn("a", "b")), *(tree(k, turn("a", "b", shown_first="preferred")) for k in range(1, 5))]
    trees.append(tree(5, turn("a", "b", shown_first="rejected")))
    found = position_bias(trees)
    assert (found.pairs, found.recorded, found.first.value, found.first.count) == (6, 5, 4 / 5, 5)
    assert (found.asked_twice, found.redrawn) == (0, 0)
    assert "(5 of 6 pairs record it)" in verifier_text(trees)
    assert "is not recorded in this data" in verifier_text(trees[:1])


def test_asked_in_both_orders_the_bias_shows_in_what_was_given_up():
    """Of four answers for a pair that took one redraw, three went to the reply read first."""
    one = {"shown_first": "rejected", "favoured_first": 1, "favoured_second": 0}
    none = {"shown_first": "preferred", "favoured_first": 0, "favoured_second": 0}
    found = position_bias([tree(0, turn("a", "b", **one)), tree(1, turn("a", "b", **none))])
    assert found.first.value == (3 + 1) / (4 + 2)
    assert (found.asked_twice, found.redrawn, found.favoured_first) == (2, 1, 1)
    said = verifier_text([tree(0, turn("a", "b", **one)), tree(1, turn("a", "b", **none))])
    assert "2 pairs were asked about in both orders; before them 1 pairs were given up" in said


def test_a_biased_verifier_is_called_that():
    biased = [tree(k, turn("a", "b", shown_first="preferred" if k % 5 else "rejected")) for k in range(100)]
    assert "This one has such a bias" in verifier_text(biased)
    fair = [tree(k, turn("a", "b", shown_first="preferred" if k % 2 else "rejected")) for k in range(100)]
    assert "This one has such a bias" not in verifier_text(fair)
    assert is_clear(Share(0.6, 0.55, 0.65, 100)) and not is_clear(Share(0.52, 0.51, 0.53, 100))
    assert "the reply read first is preferred" in [*bias_table(fair).columns[0].cells]


def test_what_was_given_up_is_on_the_card(tmp_path):
    from aloe_jax.llm.ledger import Ledger

    with Ledger(tmp_path / "journal.sqlite") as ledger:
        for name, number, reason in (("a", 0, "old"), ("a", 1, "user (m): blocked reply"), ("b", 0, "mended since")):
            ledger.put(SKIP, f"{name}/{number}", {"conversation": name, "reason": reason})
        ledger.put(CONVERSATION, "b", conversation(1, "b").record())
        found = open_skips(ledger)
    assert found == Counter({"user (m): blocked reply": 1})
    said = verifier_text(longer_later(), planned=61, skipped=found)
    assert "60 conversations of the 61 planned are in the data; 1 were given up" in said
    assert "| user (m): blocked reply | 1 |" in said
    assert "given up" not in verifier_text(longer_later())


# ---------------------------------------------------------------- quality


def test_intervals_of_the_measures_are_over_people():
    """Ten conversations of each of four people: the interval is far wider than that of forty independent ones."""
    talks = []
    for number in range(4):
        person = another(number, number)
        for k in range(10):
            words = "word " * (3 + 4 * number + k % 2)
            turns = [Turn(user=words, preferred="a", rejected="b", continued="preferred")]
            talks.append(Conversation(id=f"{number}-{k}", persona=person, turns=turns))
    quality = measure(talks)
    low, high = intervals(quality, [talk.persona for talk in talks])["user_words"]
    lengths = np.array([one.user_words for one in quality.conversations])
    assert (high - low) / 2 > 3 * 1.96 * lengths.std(ddof=1) / np.sqrt(40)
    assert low < lengths.mean() < high
    assert all(map(math.isnan, intervals(quality, [talk.persona for talk in talks])["drift"]))


def asked_twice(number, first=0, second=0):
    shown = "preferred" if number % 2 else "rejected"
    return tree(number, turn("a b", "b a", shown_first=shown, favoured_first=first, favoured_second=second))


def test_what_asking_in_both_orders_has_taken_out_is_no_noise_of_the_data():
    """One pair redrawn for each, all for the reply read first: 75% of the answers are for it, none is noise."""
    twice = [asked_twice(number, first=1) for number in range(60)]
    said = verifier_text(twice)
    assert "75.0%" in said and "pairs that it decided were given up" in said and "is noise" not in said
    once = [tree(number, turn("a b", "b a", shown_first="preferred")) for number in range(60, 120)]
    assert "a part of the preferences is noise, which asking in both orders takes out" in verifier_text(once)
    assert "of the 60 pairs that were asked about in one order a part is noise" in verifier_text(twice + once)


def test_pairs_that_were_redrawn_in_vain_are_counted(tmp_path):
    twice = [asked_twice(number, first=1) for number in range(6)]
    lost = {"first": 9, "second": 3}
    said = verifier_text(twice, planned=7, skipped={"the verifier contradicts itself": 1}, lost=lost)
    assert "6 pairs were given up and drawn again" in said
    assert ", and 12 more in conversations that were given up (9 times for it)." in said
    with Ledger(tmp_path / "j.sqlite") as ledger:
        ledger.put(SKIP, "a/0", {"conversation": "a", "reason": "r"})  # of an earlier version
        ledger.put(SKIP, "b/0", {"conversation": "b", "reason": "r", "favoured_first": 4})
        ledger.put(SKIP, "b/1", {"conversation": "b", "reason": "r", "favoured_first": 9, "favoured_second": 3})
        ledger.put(SKIP, "c/0", {"conversation": "c", "reason": "r", "favoured_first": 5})
        ledger.put(CONVERSATION, "c", tree(0, turn("a", "b")).record())  # whose turns count their own
        assert lost_pairs(ledger) == lost
