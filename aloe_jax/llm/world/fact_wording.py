"""The ten kinds of fact in the simulated world, and every wording in which one is stated, asked about or used.

Users ask for advice on five of them (ASKED), each a matter of one taste or the other; the other five are
stated all the same, so a responder has to distinguish what matters from what does not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FactKind:
    """One kind of fact. `{}` stands for the value, `{She}`, `{she}`, `{Her}`, `{her}` for the person.

    A value is one word that occurs nowhere else in the world's texts, so wherever it stands it is recognised.
    `offers` are pairs (with the value, without); the topics are the words by which an offer is recognised.
    """

    name: str
    values: tuple[str, ...]
    profile: tuple[str, ...]  # third person, in a profile
    reveal: tuple[str, ...]  # first person, in a user message
    other: str  # said of somebody else
    inquiries: tuple[str, ...]  # by which a reply asks the user for the fact
    questions: tuple[str, ...] = ()  # none: a fact that is stated and never asked about
    topics: tuple[str, ...] = ()
    offers: tuple[tuple[str, str], ...] = ()


def _values(line: str) -> tuple[str, ...]:
    return tuple(line.split())


FACT_KINDS = (
    FactKind(
        "job",
        _values("nurse teacher baker pilot lawyer plumber"),
        ("{She} works as a {}.", "{She} is a {} by profession.", "{She} earns a living as a {}."),
        ("I work as a {}.", "I am a {}.", "My job is {}."),
        "works as a {}",
        ("What do you do for work?", "What is your job?"),
    ),
    FactKind(
        "hobby",
        _values("pottery chess knitting origami juggling painting"),
        ("{She} spends free time on {}.", "{Her} hobby is {}.", "At weekends {she} enjoys {}."),
        ("I spend weekends on {}.", "My hobby is {}.", "I am fond of {}."),
        "is fond of {}",
        ("What is your hobby?", "What are you fond of?"),
    ),
    FactKind(
        "food",
        _values("ramen tacos"),
        ("{Her} favourite dish is {}.", "{She} cooks {} most often.", "{She} could eat {} every day."),
        ("I mostly cook {}.", "My favourite dish is {}.", "I could eat {} daily."),
        "cooks {}",
        ("What do you cook?", "What is your favourite dish?"),
        ("What should I cook?", "What is good for dinner?", "Which meal do you suggest?"),
        ("plate", "bowl"),
        (("a plate of {}", "a plate of leftovers"), ("a bowl of {}", "a bowl of leftovers")),
    ),
    FactKind(
        "pet",
        _values("parrot rabbit hamster tortoise ferret gecko"),
        ("{She} keeps a {}.", "{She} has a {} at home.", "A {} shares {her} home."),
        ("I keep a {}.", "I have a {} at home.", "My pet is a {}."),
        "keeps a {}",
        ("Do you keep a pet?", "Do you have a pet?"),
    ),
    FactKind(
        "place",
        _values("harbour canal vineyard meadow lighthouse orchard"),
        ("{She} lives near the {}.", "{Her} home is close to the {}.", "{Her} window faces the {}."),
        ("I live near the {}.", "My window faces the {}.", "I see the {} from home."),
        "lives near the {}",
        ("Where do you live?", "What do you see from home?"),
    ),
    FactKind(
        "music",
        _values("jazz techno"),
        ("{She} listens to {}.", "{Her} favourite music is {}.", "{She} collects {} albums."),
        ("I listen to {}.", "My favourite music is {}.", "I collect {} albums."),
        "listens to {}",
        ("What do you listen to?", "What is your favourite music?"),
        ("What should I listen to?", "What should I play now?", "Any idea for music?"),
        ("record", "song"),
        (("a {} record", "a new record"), ("a {} song", "a new song")),
    ),
    FactKind(
        "relative",
        _values("sister brother cousin niece nephew stepmother"),
        ("{She} is closest to {her} {}.", "{She} sees {her} {} every week.", "{She} has a beloved {}."),
        ("I am closest to my {}.", "I often see my {}.", "I miss my {}."),
        "often sees a {}",
        ("Who is closest to you?", "Who do you often see?"),
    ),
    FactKind(
        "drink",
        _values("cocoa cider"),
        ("{She} drinks {}.", "{Her} favourite drink is {}.", "{She} orders {} in every cafe."),
        ("I drink {}.", "My favourite drink is {}.", "I always order {}."),
        "drinks {}",
        ("What do you drink?", "What is your favourite drink?"),
        ("What should I drink now?", "What can I sip?", "Which drink fits today?"),
        ("cup", "glass"),
        (("a cup of {}", "a cup of water"), ("a glass of {}", "a glass of water")),
    ),
    FactKind(
        "sport",
        _values("tennis rowing"),
        ("{She} trains in {}.", "{Her} sport is {}.", "{She} keeps fit with {}."),
        ("My sport is {}.", "I stay fit with {}.", "I train in {}."),
        "trains in {}",
        ("What is your sport?", "How do you stay fit?"),
        ("How can I stay fit?", "How should I exercise?", "What is good for my body?"),
        ("hour", "round"),
        (("an hour of {}", "an hour of exercise"), ("a round of {}", "a round of exercise")),
    ),
    FactKind(
        "film",
        _values("western horror"),
        ("{She} watches {} films.", "{Her} favourite films are {} films.", "{She} never misses a {} film."),
        ("I watch {} films.", "I adore {} films.", "My shelf holds {} films."),
        "watches {} films",
        ("What do you watch?", "Which films do you adore?"),
        ("What should I watch?", "Which film is on?", "What would you stream?"),
        ("film", "movie"),
        (("a {} film", "a short film"), ("a {} movie", "a short movie")),
    ),
)

ASKED = tuple(kind for kind in FACT_KINDS if kind.questions)
FACT_KIND = {kind.name: kind for kind in FACT_KINDS}
KIND_OF_VALUE = {value: kind.name for kind in FACT_KINDS for value in kind.values}
OTHERS = ("My neighbour", "My boss", "My friend")
