"""What the page's script shows, as JSON: the models, the curves under the pointer, and every case.

Each case stands in an element of its own and is parsed when it is opened, so that a report on many models opens at
once. Whatever the texts hold, they cannot end their element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aloe_jax.benchmark.defects import CUT
from aloe_jax.benchmark.results import Case, StoredTurn
from aloe_jax.conversation import Persona
from aloe_jax.llm.registry import simulates
from aloe_jax.report.gathering import Report
from aloe_jax.report.pictures import Chart
from aloe_jax.speech import sentences


def overview(report: Report, charts: Mapping[str, Chart]) -> dict[str, object]:
    """All but the texts: the models, the curves of `charts`, and a line about every case."""
    roles = {run.name: run.results for run in report.judged if run.results is not None}
    return {
        "entries": [
            {
                "label": entry.label,
                "style": entry.look.style,
                "reference": not entry.numbers.under_test,
                "judges": roles[entry.run].judges,
                "votes": roles[entry.run].votes,
                "scripted": [role for role in ("user", *roles[entry.run].judges) if _scripted(report, entry.run, role)],
            }
            for entry in report.entries
        ],
        "charts": {
            name: {"unit": one.unit, "lines": [[line.entry, line.values, line.low, line.high] for line in one.lines]}
            | ({"names": [[line.label, line.look.style] for line in one.lines]} if name.startswith("learning-") else {})
            | ({"steps": one.steps} if one.steps else {})
            for name, one in charts.items()
        },
        "cases": [
            {
                "id": persona.id,
                "about": _about(persona),
                "profile": persona.profile,
                "means": [_mean(entry.cases.get(key)) for entry in report.entries],
            }
            for key, persona in report.personas.items()
        ],
    }


def cases(report: Report) -> list[dict[str, object]]:
    """Every person with the dialogues that models had with them, in the order of `overview`.

    A fact is the number of a sentence, counted through profile and personality, or its own text where it is none.
    """
    found: list[dict[str, object]] = []
    for key, persona in report.personas.items():
        profile, personality = sentences(persona.profile), sentences(persona.personality)
        numbers: dict[str, int] = {}
        for number, sentence in enumerate([*profile, *personality]):
            numbers.setdefault(sentence, number)
        columns = {
            number: _column(report, entry.cases[key], numbers)
            for number, entry in enumerate(report.entries)
            if key in entry.cases
        }
        found.append({"profile": profile, "personality": personality, "columns": columns})
    return found


def _column(report: Report, case: Case, numbers: Mapping[str, int]) -> dict[str, object]:
    known: set[str] = set()
    turns = []
    for turn in case.turns:
        turns.append(_turn(report, turn, known, numbers))
        known.update(turn.revealed)
    return {"stopped": case.stopped, "turns": turns}


def _turn(report: Report, turn: StoredTurn, known: set[str], numbers: Mapping[str, int]) -> dict[str, object]:
    """One exchange; what is empty is left out, since there are thousands of them."""
    names = list(dict.fromkeys(vote.judge for vote in turn.votes))
    people = {rater: by[turn.item] for rater, by in (report.ratings or {}).items() if turn.item in by}

    def facts(found: Sequence[str]) -> list[int | str]:
        return [numbers.get(fact, fact) for fact in found]

    record = {
        "user": turn.user,
        "reply": turn.reply,
        "rating": None if turn.rating is None else round(turn.rating, 3),
        "votes": [[names.index(vote.judge), vote.rating, vote.reason] for vote in turn.votes],
        "judges": names if len(names) > 1 else [],
        "words": turn.words,
        "new": facts([fact for fact in turn.revealed if fact not in known]),
        "used": facts(turn.mentioned),
        "leaked": facts(turn.leaked),
        "untrue": turn.untrue,
        "people": people,
        "ended": turn.ended if turn.ended in (*CUT, "shortened") else [],
    }
    return {name: value for name, value in record.items() if value not in ([], {}) or name == "rating"}


def _scripted(report: Report, run: str, role: str) -> bool:
    results = next(one.results for one in report.judged if one.name == run)
    return results is not None and simulates(results.providers.get(role, "").partition("/")[0])


def _mean(case: Case | None) -> float | None:
    given = [turn.rating for turn in case.turns if turn.rating is not None] if case else []
    return round(sum(given) / len(given), 4) if given else None


def _about(persona: Persona) -> str:
    """The first sentences of a profile, as many as fit a line."""
    text = ""
    for sentence in sentences(persona.profile):
        if text and len(text) + len(sentence) > 88:
            break
        text = f"{text} {sentence}".strip()
    return text if len(text) <= 100 else text[:99] + "…"
