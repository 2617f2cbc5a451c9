"""The section of a model card on the benchmark: its numbers, and what stands against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aloe_jax.json_value import JSON

TOLERATED = 0.02  # share of replies with a defect that needs no warning
_DEFECTS = {
    "cut": "replies were cut",
    "shortened": "replies had too many sentences and were shortened",
    "empty": "replies are empty",
    "repeated": "replies repeat themselves or an earlier one",
}
_VARYING = {  # by the design of the people: whose variance the intervals know
    "crossed": ("profiles", "personalities"),
    "shared profiles": ("profiles",),
    "shared personalities": ("personalities",),
}


def results_section(scores: dict[str, JSON] | None) -> Iterator[str]:
    """The section on one model of a benchmark's metrics.json (`model_card.benchmark_scores`); nothing without one.

    Whatever the file says against the numbers stands above them. Files of earlier versions lack some of it.
    """
    if scores is None:
        return
    yield "## ALOE benchmark"
    yield ""
    yield f"{scores['cases']} held-out personas, {scores['turns']} turns, ratings from 1 to 5, 95% intervals."
    yield "Values are comparable with those of models that the same judge rated, and with no others."
    yield ""
    for sentence in (*_incomplete(scores), *_people(scores.get("design")), *_training_runs(scores)):
        yield sentence
        yield ""
    warnings = scores.get("same_family")
    for sentence in (*(warnings if isinstance(warnings, list) else ()), *_defects(scores.get("replies"))):
        yield f"Warning: {sentence}."
        yield ""
    yield "| metric | value | from | to |"
    yield "| --- | --- | --- | --- |"
    for name, value in scores.items():
        if isinstance(value, dict) and value.keys() >= {"value", "low", "high"}:
            yield f"| {name} | " + " | ".join(_number(value[key]) for key in ("value", "low", "high")) + " |"
    yield ""
    levels = scores["al"]
    assert isinstance(levels, list)
    yield from _beside(scores)
    yield "Mean rating by turn: " + ", ".join(map(_number, levels)) + "."
    yield ""


def _incomplete(scores: Mapping[str, JSON]) -> Iterator[str]:
    if scores.get("complete") is not False:
        return
    stopped, covered = scores.get("stopped"), scores.get("votes_coverage")
    early = f", {len(stopped)} dialogues ended early" if isinstance(stopped, dict) and stopped else ""
    votes = f": {_percent(covered)} of the votes are there" if isinstance(covered, float) else ""
    yield f"**Incomplete**{votes}{early}."


def _people(design: object) -> Iterator[str]:
    """For whom the numbers hold, as far as the file says who the cases are of."""
    if not isinstance(design, dict):
        yield (
            "Intervals take every case for another person; whether cases share profiles or personalities was not "
            "stored by the version that wrote the results."
        )
        return
    kind, people = design.get("kind"), design.get("people")
    parts = {part: count for part in ("profiles", "personalities") if isinstance(count := design.get(part), int)}
    said = " and ".join(f"{count} {part}" for part, count in parts.items())
    yield f"{people} people, {said} (design: {kind}), which the intervals take into account."
    varying = _VARYING.get(str(kind), ())
    fixed = [
        part for part, count in parts.items() if isinstance(people, int) and count < people and part not in varying
    ]
    if fixed:
        yield f"The numbers hold for these {' and '.join(fixed)} alone: there are too few to know how others differ."


def _training_runs(scores: Mapping[str, JSON]) -> Iterator[str]:
    if scores.get("kind") != "remote":
        yield (
            "Intervals are conditional on these weights: another training seed would give other weights, and how much "
            "they differ is not known from one run."
        )


def _defects(replies: object) -> Iterator[str]:
    if not isinstance(replies, dict):
        return
    for name, what in _DEFECTS.items():
        share = replies.get(name)
        if isinstance(share, float) and share > TOLERATED:
            yield f"{_percent(share)} of its {what}"


def _beside(scores: Mapping[str, JSON]) -> Iterator[str]:
    """Shares that stand beside AL wherever it goes."""
    replies, counted = scores.get("replies"), scores.get("automatic")
    shares = {name: replies.get(name) for name in ("cut", "empty", "repeated")} if isinstance(replies, dict) else {}
    said = [f"{name} {_percent(share)}" for name, share in shares.items()]
    said = said or ["the version that wrote the results did not count those that were cut, are empty or repetitive"]
    said += [f"with untrue assertions {_percent(counted.get('untrue'))}"] if isinstance(counted, dict) else []
    yield f"Replies: {', '.join(said)}."
    yield ""


def _percent(share: object) -> str:
    return f"{100 * share:.1f}%" if isinstance(share, int | float) else "n/a"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "n/a"
