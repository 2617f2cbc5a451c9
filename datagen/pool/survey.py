"""How varied a pool of profiles is: what it says of age, gender, work, pastimes, pets and diet, and where it has gaps.

Read by patterns from English prose in the third person, so the counts are a survey, not a census.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

DECADES = tuple(range(10, 90, 10))  # in which a varied pool has somebody

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {"eighteen": 18, "nineteen": 19, "sixteen": 16, "seventeen": 17}
for _ten, _word in enumerate(_TENS, 2):
    _NUMBERS |= {_word: 10 * _ten} | {f"{_word}-{unit}": 10 * _ten + one for one, unit in enumerate(_UNITS, 1)}
_PLURALS = {word.removesuffix("y") + "ies": 10 * ten for ten, word in enumerate(_TENS, 2)} | {"teens": 10}


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_PERSON = r"^(?:she|he|they)"
_NUMBER = rf"(?P<age>\d{{2,3}}|{'|'.join(sorted(_NUMBERS, key=len, reverse=True))})"
_AGES = [
    _pattern(rf"\b{_NUMBER}[- ]years?[- ](?:old|of age)\b"),
    _pattern(rf"\b(?:aged?|age of) {_NUMBER}\b"),
    _pattern(rf"\b(?:man|woman|person|girl|boy|mother|father|student) of {_NUMBER}\b"),
    _pattern(rf"{_PERSON}(?:'s| is| are) {_NUMBER}(?=[,.;]| (?:and|with)\b)"),
    _pattern(rf"\b(?:she|he|they)(?: has| have)?(?: just)? turned {_NUMBER}\b"),
    _pattern(rf"\bat {_NUMBER}, (?:she|he|they)\b"),
    _pattern(rf"^[^.]* (?:is|are|was) an? [a-z' -]+ of {_NUMBER}(?=[,.;]| (?:in|from|at|who|with|and|near|on)\b)"),
]
_IN_DECADE = _pattern(rf"\bin (?:her|his|their) (?:early |mid |late )?[- ]?(?P<decade>{'|'.join(_PLURALS)})\b")

_GENDERS = {
    "woman": "she her woman girl lady mother wife daughter grandmother widow sister",
    "man": "he his him man boy gentleman father husband son grandfather widower brother",
    "neither": "they their non-binary nonbinary",
}
_GENDER_OF = {word: name for name, words in _GENDERS.items() for word in words.split()}
_GENDERED = _pattern(rf"\b({'|'.join(_GENDER_OF)})\b")

# The work is stated up to where the sentence goes on to something else.
_WORK = (
    r"(?P<work>[a-z][\w' -]*?)(?=[.,;:]|$| (?:who|which|that|with|from|near|outside|by|on|since|until|where|when|while"
    r"|because|after|before|in(?! the (?:navy|army))|at|for|of \d|off|and|but|studying|majoring|specializing|working"
    r"|living|out)\b)"
)
_OCCUPATIONS = [
    _pattern(rf"year-old {_WORK}"),
    _pattern(rf"\b(?:works?|working|worked|living|employed)(?: [a-z]+-time)? as (?:an? |the )?{_WORK}"),
    _pattern(r"\b(?:is|was) an? (?P<work>[\w' -]+?) by (?:profession|trade)\b"),
    _pattern(rf"\bby (?:profession|trade),? (?:she|he|they) (?:is|are|was) an? {_WORK}"),
    _pattern(rf"{_PERSON} (?:is|are) [\w-]+,? (?:and )?(?:was |is )?(?:an? |the ){_WORK}"),
    _pattern(rf"{_PERSON} (?:is|are) [\w-]+ and (?!lives|has|likes|loves|enjoys)(?=[a-z]+s\b){_WORK}"),
    _pattern(rf"{_PERSON} (?:is|are) an? {_WORK}"),
    _pattern(rf"\b(?:has|have) been an? {_WORK}"),
    _pattern(rf"(?=\b(?:first|second|third|fourth|final|last) year of ){_WORK}"),
    _pattern(rf"\bruns? (?:an?|her|his|their)(?: own)? {_WORK}"),
]
_NOT_WORK = _pattern(
    r"\b(?:mother|father|parent|man|woman|person|widow(?:er)?|grandmother|grandfather|member|fan|lover|vegan|vegetarian"
    r"|single|married|divorced|engaged|widowed)\b"
)
_CAREER = _pattern(r"^(?:(?:retired|former|freelance|aspiring|professional|part-time|full-time|an?|the) )+")

_LIKED = _pattern(
    r"\b(?:enjoy(?:s|ing)?|loves?|likes?|adores?|plays?|playing|collects?|collecting|practi[sc]es|avid|fan of|fond of"
    r"|collector of|keen on|(?:passionate|enthusiastic) about|(?:passion|love) for|interest(?:ed)? in|hobby (?:is|of)"
    r"|hobbies (?:are|include)|pastime is|collection of|trains in|keeps fit with|sport is|dabbles in|listens? to"
    r"|watch(?:es)?|club for|took up|go(?:es)? for|talks? for hours (?:of|about)"
    r"|go(?:es)?(?= \w+ing\b)|spend(?:s|ing)?(?: \w+){1,4}?(?: on|(?= \w+ing\b)))\s"
)
_DOES = _pattern(
    r"\b(?:she|he|they|and|also|often|still) (?P<verb>bakes?|brews?|carves?|climbs?|cooks?|crochets?|cycles?"
    r"|dances?|draws?|ferments?|fish(?:es)?|gardens?|hikes?|jogs?|knits?|paddles?|paints?|pickles?|reads?|restores?|rides?|rows?"
    r"|runs? marathons?|sails?|sculpts?|sews?|sings?|skateboards?|skates?|skis?|surfs?|swims?|weaves?"
    r"|writes? (?:poetry|poems|stories|songs|fiction|an? blog))\b"
)
_AND = _pattern(r",\s*(?:and\s+)?", r"\s+and\s+", r"\s+as well as\s+")
_TAIL = _pattern(
    r"\s+(?:on|at|in|with|for|from|by|during|after|before|while|when|whenever|who|which|that|because|every|each|to|as|near"
    r"|since|three|four|twice|once|along|so|around|about|of)\b.*$"
)
_ANOTHER_VERB = _pattern(
    r"^(?:is|are|was|has|have|had|she|he|they|often|also|never|regularly|frequently|been|even|dislikes?|hates?"
    r"|(?:accompan|attend|belong|coach|dream|enjoy|grow|host|keep|li[kv]e|love|make|organize|own|participate|perform|plan"
    r"|play|collect|run|see|share|speak|spend|stream|take|teach|train|travel|visit|volunteer|work|write)s"
    r"|goes|teaches|coaches|studies|accompanies)\b"
)
_NO_THING = _pattern(r"^(?:in|on|at|with|for|about|of|his|her|their|it|them|both|friends|family)\b")
_LEAD = _pattern(r"^(?:(?:an?|the|his|her|their|some|playing|experimenting with|participating in|to) )+")

_ANIMALS = (
    r"dogs?|pupp(?:y|ies)|cats?|kittens?|tabby|parrots?|parakeets?|budgies?|canar(?:y|ies)|cockat\w+|rabbits?|bunn(?:y|ies)"
    r"|hamsters?|guinea pigs?|gerbils?|ferrets?|hedgehogs?|chinchillas?|rats?|mice|turtles?|tortoises?|snakes?|geckos?"
    r"|iguanas?|lizards?|axolotls?|tarantulas?|goldfish|shrimps|chickens?|hens?|bantams?|roosters?|ducks?|geese|pigeons?"
    r"|goats?|sheep|horses?|pon(?:y|ies)|mules?|donkeys?|llamas?|bees|hives|retrievers?|labradors?|poodles?|beagles?"
    r"|collies?|greyhounds?|dachshunds?|husk(?:y|ies)|bulldogs?|shepherds?|pit bulls?|terriers?|corgis?|spaniels?"
)
_HELD = (
    r"pet|has|have|having|owns?|keeps?|kept|raises?|breeds?|adopted|rescued|with|looks? after|takes? care of|and"
    r"|his|her|their|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
)
_PET = _pattern(
    rf"\b(?:{_HELD}) (?:(?!(?:and|named|called|for|of|to|at|in|like|local)\b)[\w'-]+ ){{0,3}}?(?P<pet>{_ANIMALS})\b"
    r"(?![- ](?:watch|shelter|rescue|rid|rac|food|walk|show|train|clinic|groom|park|sit|care|lover"
    r"|enthus|owner|photo|day))",
    r"\bpet (?P<other>fish|birds?|spider)\b",
    r"\bkeeps (?:\w+ )?(?P<kept>fish|birds)\b",
    r"\b(?:has|keeps|owns|maintains) (?:[\w-]+ ){1,3}?(?P<tank>fish tank|aquarium)",
)
_END = r"(?=[.,;]|$| (?:since|on|and|or)\b)"
_DIET = _pattern(
    r"\b(?:vegan|vegetarian)\b(?! (?:recipe|food|dish|bak|rest|cook|cuisine|dess|cak|caf|option|meal))",
    r"\b(?:pescatarian|flexitarian|coeliac|celiac|halal|kosher|diabetic|teetotal(?:ler)?|plant-based diet)\b",
    r"\b(?:gluten|lactose|dairy|sugar)[- ](?:intoleran\w+|free)\b|\b(?:keto(?:genic)?|paleo|raw food|low-salt) diet\b",
    rf"\ballergic to [\w ]+?{_END}|\b(?:nut|peanut|seafood|shellfish|dairy|egg) allergy\b",
    rf"\b(?:eats?|eaten|touch(?:es)?|drinks?) no [\w ]+?{_END}",
    rf"\b(?:cannot|can't|does not|doesn't|do not) (?:eat|drink) [\w ]+?{_END}",
)


def find_age(profile: str) -> re.Match[str] | None:
    """Where a profile first gives an age in years; the group `age` holds the number or its word."""
    found = [match for pattern in _AGES if (match := pattern.search(profile))]
    return min(found, key=lambda match: match.start("age"), default=None)


def age(profile: str) -> int | None:
    """The age in years, or None where it is not given as a number."""
    match = find_age(profile)
    if match is None:
        return None
    text = match["age"].lower()
    return _NUMBERS.get(text) or int(text)


def decade(profile: str) -> int | None:
    """The decade of life, 60 for "67" and for "in her sixties", or None."""
    years = age(profile)
    if years is not None:
        return years // 10 * 10
    match = _IN_DECADE.search(profile)
    return _PLURALS[match["decade"].lower()] if match else None


def gender(profile: str) -> list[str]:
    """What the first gendered word says: "woman", "man" or "neither" (they)."""
    match = _GENDERED.search(profile)
    return [_GENDER_OF[match[1].lower()]] if match else []


def occupations(profile: str) -> list[str]:
    """What the person does or did for a living, at most one phrase."""
    for pattern in _OCCUPATIONS:
        for match in pattern.finditer(profile):
            phrase = _CAREER.sub("", " ".join(match["work"].lower().split()))
            if phrase and not _NOT_WORK.search(phrase):
                return [phrase]
    return []


def hobbies(profile: str) -> list[str]:
    """Pastimes and tastes, without repetition."""
    found: list[str] = []
    for match in _LIKED.finditer(profile):
        sentence = re.split(r"[.;:!?]", profile[match.end() :].lower(), maxsplit=1)[0]
        for part in _AND.split(sentence):
            if _ANOTHER_VERB.search(part):
                break
            thing = _LEAD.sub("", part.strip())
            thing = _TAIL.sub("", thing)
            if thing and len(thing.split()) <= 6 and not _NO_THING.search(thing):
                found.append(thing)
    found += [match["verb"].lower() for match in _DOES.finditer(profile)]
    return list(dict.fromkeys(found))


def pets(profile: str) -> list[str]:
    """Animals that the person keeps, in the singular, without repetition."""
    found = [next(filter(None, match.groups())).lower() for match in _PET.finditer(profile)]
    return list(dict.fromkeys(_singular(animal) for animal in found))


def diets(profile: str) -> list[str]:
    """What the person does not eat or drink, in the profile's words."""
    return list(dict.fromkeys(match[0].lower() for match in _DIET.finditer(profile)))


def _singular(animal: str) -> str:
    if animal.endswith("ies"):
        return {"collies": "collie", "budgies": "budgie"}.get(animal, animal.removesuffix("ies") + "y")
    return {"geese": "goose", "mice": "mouse", "hives": "bee", "fish tank": "fish", "aquarium": "fish"}.get(
        animal, animal.removesuffix("s")
    )


ATTRIBUTES: dict[str, Callable[[str], list[str]]] = {
    "gender": gender,
    "occupation": occupations,
    "pastimes and tastes": hobbies,
    "pets": pets,
    "diet": diets,
}


@dataclass(frozen=True)
class PoolSurvey:
    """What was found in how many profiles."""

    profiles: int
    decades: Counter[int]  # 10, 20, ... -> profiles
    values: dict[str, Counter[str]]  # attribute -> value -> profiles
    found: dict[str, int]  # attribute -> profiles with at least one value


def survey(profiles: Sequence[str]) -> PoolSurvey:
    """Survey a pool of profiles."""
    values: dict[str, Counter[str]] = {}
    found: dict[str, int] = {}
    for name, read in ATTRIBUTES.items():
        read_from = [read(profile) for profile in profiles]
        values[name] = Counter(value for one in read_from for value in one)
        found[name] = sum(bool(one) for one in read_from)
    return PoolSurvey(
        profiles=len(profiles),
        decades=Counter(ten for profile in profiles if (ten := decade(profile)) is not None),
        values=values,
        found=found,
    )


def tables(found: PoolSurvey, most: int = 8) -> list[Table]:
    """The decades of life with bars, and the attributes with their `most` frequent values."""
    total = max(1, found.profiles)
    ages = Table(title=f"Age in {found.profiles:,} profiles", title_justify="left")
    ages.add_column("decade")
    ages.add_column("profiles", justify="right")
    ages.add_column("")
    top = max(found.decades.values(), default=1)
    for ten in sorted({*DECADES, *found.decades}):
        count = found.decades[ten]
        ages.add_row(f"{ten}s", f"{count:,}", "█" * round(count / top * 30) if count else "nobody")
    ages.add_row("not found", f"{found.profiles - found.decades.total():,}", "")

    others = Table(title="What the profiles say", title_justify="left")
    others.add_column("attribute")
    for head in ("found in", "not found", "distinct values"):
        others.add_column(head, justify="right")
    others.add_column("most frequent")
    for name, values in found.values.items():
        often = ", ".join(f"{value} {count:,}" for value, count in values.most_common(most))
        missing = 1 - found.found[name] / total
        others.add_row(name, f"{found.found[name]:,}", f"{missing:.0%}", f"{len(values):,}", often)
    return [ages, others]
