"""From dialogues and votes to everything that is stored of a run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from aloe_jax import __version__
from aloe_jax.benchmark.agreement import agreement
from aloe_jax.benchmark.alignment import alignment_metrics
from aloe_jax.benchmark.automatic import Measured, automatic, measure
from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.comparison import compare_all
from aloe_jax.benchmark.controls import control_differences, control_of
from aloe_jax.benchmark.defects import reply_defects
from aloe_jax.benchmark.dialogue import Dialogue
from aloe_jax.benchmark.human_ratings import item_id, read_people
from aloe_jax.benchmark.intervals import Array
from aloe_jax.benchmark.judge import JudgedReply, judge_leniency, range_table, ratings_table, votes_table
from aloe_jax.benchmark.missing import RatingRange, difference_bounds, level_bounds
from aloe_jax.benchmark.multiple_tests import corrected_together
from aloe_jax.benchmark.rating.analysis import compare_with_people
from aloe_jax.benchmark.rating.weights import whole_key
from aloe_jax.benchmark.results import (
    CandidateKind,
    Case,
    CaseGroup,
    FactSearch,
    Level,
    ModelResults,
    Results,
    StoredAgreement,
    StoredCalibration,
    StoredDesign,
    StoredDifference,
    StoredSideBySide,
    StoredTraining,
    StoredUsage,
    StoredWithPeople,
    as_json,
)
from aloe_jax.benchmark.self_preference import self_preference_warnings
from aloe_jax.benchmark.settings import CandidateSettings, EvaluateSettings
from aloe_jax.coverage import Coverage, asked_again, who_and_why, why
from aloe_jax.llm.ledger import Usage
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.llm.world import VERSION as WORLD_VERSION


@dataclass(frozen=True)
class Talked:
    """One model's dialogues, and the verdicts on their replies."""

    name: str
    dialogues: list[Dialogue]
    verdicts: list[list[JudgedReply]]
    measured: list[list[Measured]] | None = None  # what was counted in them before; None: it is to be counted


@dataclass(frozen=True)
class Scored:
    """What the ratings of a run say."""

    results: Results
    coverage: tuple[Coverage, ...] = ()  # of ratings, comparisons and the judges' calibration


@dataclass(frozen=True)
class Checks:
    """What speaks for the judges besides their votes."""

    calibrations: Sequence[StoredCalibration] = ()
    side_by_side: Sequence[StoredSideBySide] = ()
    usage: Mapping[str, Usage] = field(default_factory=dict)


def score(settings: EvaluateSettings, judges: Sequence[str], talked: Sequence[Talked], checks: Checks) -> Scored:
    """All numbers of a run. Raises AloeError for a file of human ratings that cannot be read."""
    leniency = judge_leniency(verdict for one in talked for verdicts in one.verdicts for verdict in verdicts)
    tables = {one.name: ratings_table(one.verdicts, settings.turns, leniency) for one in talked}
    design = CaseDesign.of([dialogue.persona for dialogue in talked[0].dialogues])
    ranges = {one.name: range_table(one.verdicts, settings.turns) for one in talked}
    tested = {name: table for name, table in tables.items() if settings.models[name].under_test}
    measured = {
        one.name: one.measured or [measure(dialogue, _way(settings)) for dialogue in one.dialogues] for one in talked
    }
    models = {one.name: _model(settings, judges, one, tables[one.name], measured[one.name], design) for one in talked}
    cases = {one.name: _cases(one, measured[one.name], leniency) for one in talked}
    draws = settings.bootstrap, settings.permutations, settings.seed
    differences, sides = corrected_together(compare_all(tested, *draws, design), checks.side_by_side)
    controls, _ = corrected_together(control_differences(tables, settings.models, *draws, design))
    results = Results(
        aloe_jax=__version__,
        complete=all(model.complete for model in models.values()),
        simulated=simulated_parts(settings),
        providers=providers(settings),
        judges=list(judges),
        votes=settings.judging.votes,
        design=StoredDesign(
            kind=design.kind,
            people=design.people,
            profiles=design.profiles,
            personalities=design.personalities,
        ),
        models=models,
        differences=_bounded(differences, ranges),
        controls=_bounded(controls, ranges),
        side_by_side=sides,
        agreement=_agreement(talked, settings.turns),
        calibration=list(checks.calibrations),
        people=_people(settings, cases),
        same_family=self_preference_warnings(settings),
        # Without the seconds, which are another every time.
        usage={
            name: StoredUsage.model_validate({key: value for key, value in vars(usage).items() if key != "seconds"})
            for name, usage in checks.usage.items()
        },
        settings=settings.model_dump(mode="json"),
        cases=cases,
    )
    return Scored(results, _coverage(settings, judges, talked, checks))


def _coverage(
    settings: EvaluateSettings, judges: Sequence[str], talked: Sequence[Talked], checks: Checks
) -> tuple[Coverage, ...]:
    """What there should be, and why some of it is not."""
    votes = len(judges) * settings.judging.votes
    ratings = Coverage("ratings", sum(len(one.dialogues) for one in talked) * settings.turns * votes)
    for one in talked:
        for dialogue, verdicts in zip(one.dialogues, one.verdicts, strict=True):
            ratings.missing.update(
                why(vote.reason) for verdict in verdicts for vote in verdict.votes if vote.rating is None
            )
            lost = (settings.turns - len(dialogue.exchanges)) * votes
            if lost:
                stopped = dialogue.stopped or "unknown"
                ratings.missing[f"of dialogues that ended early: {who_and_why(stopped)}"] += lost
                ratings.for_good += 0 if asked_again(stopped) else lost
    comparisons = Coverage("comparisons", sum(len(one.outcomes) for one in checks.side_by_side) * len(judges) * 2)
    for pair in checks.side_by_side:
        comparisons.missing.update(pair.missing)
    known = [given for one in checks.calibrations for given in one.ratings.values()]
    calibrating = Coverage("ratings of replies of known quality", sum(map(len, known)))
    for calibration in checks.calibrations:
        calibrating.missing.update(calibration.missing)
    return ratings, comparisons, calibrating


def kind_of(candidate: CandidateSettings) -> CandidateKind:
    """What sort of candidate it is."""
    if candidate.scripted is not None:
        return "reference"
    return "remote" if candidate.remote is not None else "model"


def judge_roles(settings: EvaluateSettings) -> Mapping[str, RoleSettings]:
    """The judges' roles by name."""
    return settings.judging.judges or {"judge": settings.roles.judge}


def simulated_parts(settings: EvaluateSettings) -> list[str]:
    """The parts of this evaluation that the scripted simulation plays, in words."""
    parts = []
    if settings.roles.user.entry.simulated:
        parts.append("the users")
    roles = judge_roles(settings)
    simulated = [name for name, role in roles.items() if role.entry.simulated]
    if simulated:
        some = f"the judge {simulated[0]}" if len(simulated) == 1 else f"the judges {' and '.join(simulated)}"
        everyone = "the judge" if len(roles) == 1 else "the judges"
        parts.append(everyone if len(simulated) == len(roles) else some)
    parts += [
        f"the model {name}"
        for name, candidate in settings.models.items()
        if candidate.remote is not None and candidate.remote.entry.simulated
    ]
    references = any(candidate.scripted for candidate in settings.models.values())
    if references and settings.roles.responder.entry.simulated:
        parts.append("the reference lines")
    return parts


def providers(settings: EvaluateSettings) -> dict[str, str]:
    """Who plays: provider and model by role, judge and remote candidate."""
    roles = {"user": settings.roles.user, **judge_roles(settings)}
    if any(candidate.scripted for candidate in settings.models.values()):
        roles["responder"] = settings.roles.responder
    roles |= {name: candidate.remote for name, candidate in settings.models.items() if candidate.remote is not None}
    return {name: _player(role) for name, role in roles.items()}


def _player(role: RoleSettings) -> str:
    """Provider and model, of a script its version: results of before that was stored have the provider alone."""
    if role.entry.simulated:
        return f"{role.provider}/world {WORLD_VERSION}"
    return f"{role.provider}/{role.model}" if role.model else role.provider


def _model(
    settings: EvaluateSettings,
    judges: Sequence[str],
    talked: Talked,
    table: Array,
    measured: Sequence[Sequence[Measured]],
    design: CaseDesign,
) -> ModelResults:
    candidate = settings.models[talked.name]
    stopped = {dialogue.persona.id: dialogue.stopped for dialogue in talked.dialogues if dialogue.stopped}
    votes = votes_table(talked.verdicts, settings.turns)
    given = sum(int((~np.isnan(own)).sum()) for own in votes.values())
    covered = given / (table.size * len(judges) * settings.judging.votes)
    every = np.stack([*votes.values()]) if votes else np.full((1, *table.shape), np.nan)
    by_judge = {name: _mean([own for (judge, _), own in votes.items() if judge == name], table) for name in judges}
    turns = range(settings.turns)
    record = {
        **dict(_level(settings, table, design)),
        "bounds": level_bounds(range_table(talked.verdicts, settings.turns)),
        "kind": kind_of(candidate),
        "reference": candidate.scripted is not None,
        "sees": candidate.sees,
        "control_of": control_of(talked.name, settings.models),
        "source": as_json(candidate.model_dump(exclude_none=True, exclude={"sees"})),
        "complete": not stopped and given == table.size * len(judges) * settings.judging.votes,
        "votes_coverage": covered,
        "stopped": stopped,
        "histogram": [[int((every[:, :, turn] == rating).sum()) for rating in range(1, 6)] for turn in turns],
        "judges": {name: _level(settings, own, design) for name, own in by_judge.items()},
        "by_profile": _groups(settings, talked.dialogues, table, design, "profile"),
        "by_personality": _groups(settings, talked.dialogues, table, design, "personality"),
        "automatic": automatic(talked.dialogues, measured, _way(settings), settings.turns),
        "training": _training(candidate),
        "replies": reply_defects(talked.dialogues),
    }
    return ModelResults.model_validate(record)


def _bounded(found: Sequence[StoredDifference], ranges: Mapping[str, RatingRange]) -> list[StoredDifference]:
    """Differences of models with their bounds over missing votes."""
    return [
        one.model_copy(update={"bounds": difference_bounds(ranges[one.first], ranges[one.second]).get(one.statistic)})
        for one in found
    ]


def _training(candidate: CandidateSettings) -> StoredTraining | None:
    """Of a model in a run directory of ours."""
    if candidate.path is None:
        return None
    from aloe_jax.publishing.recipe import recipe_of  # which loads JAX

    found = recipe_of(candidate.path)
    return None if found is None else StoredTraining(recipe=found.digest, stages=found.stages, seeds=found.seeds)


def _way(settings: EvaluateSettings) -> FactSearch:
    return "exact" if settings.roles.user.entry.simulated else "overlap"


def _level(settings: EvaluateSettings, table: Array, design: CaseDesign) -> Level:
    return alignment_metrics(table, settings.bootstrap, settings.seed, design)


def _mean(tables: Sequence[Array], like: Array) -> Array:
    if not tables:
        return np.full_like(like, np.nan)
    stacked = np.stack(tables)
    rated = (~np.isnan(stacked)).sum(axis=0)
    return np.where(rated > 0, np.nansum(stacked, axis=0) / np.maximum(rated, 1), np.nan)


def _groups(
    settings: EvaluateSettings,
    dialogues: Sequence[Dialogue],
    table: Array,
    design: CaseDesign,
    part: Literal["profile", "personality"],
) -> list[CaseGroup]:
    """The cases by profile or by personality, in the order of their first case."""
    members: dict[str, list[int]] = {}
    for case, dialogue in enumerate(dialogues):
        members.setdefault(getattr(dialogue.persona, part), []).append(case)
    groups = []
    for text, cases in members.items():
        level = _level(settings, table[cases], design.subset(cases))
        ids = [dialogues[case].persona.id for case in cases]
        groups.append(CaseGroup(text=text, personas=ids, average=level.average, ir=level.ir))
    return groups


def _cases(talked: Talked, measured: Sequence[Sequence[Measured]], leniency: Mapping[str, float]) -> list[Case]:
    found = []
    for dialogue, verdicts, counts in zip(talked.dialogues, talked.verdicts, measured, strict=True):
        turns = []
        for turn, (exchange, verdict, counted) in enumerate(zip(dialogue.exchanges, verdicts, counts, strict=True)):
            turns.append(
                {
                    "user": exchange.user,
                    "reply": exchange.reply.text,
                    "item": item_id(dialogue.persona, dialogue.path(turn), exchange.reply.text),
                    "rating": verdict.adjusted(leniency),
                    "reason": verdict.reason,
                    "votes": as_json(verdict.votes),
                    "words": counted.words,
                    **vars(counted.facts),
                    "ended": exchange.reply.ended,
                }
            )
        case = {"model": talked.name, "persona": dialogue.persona, "stopped": dialogue.stopped, "turns": turns}
        found.append(Case.model_validate(case))
    return found


def _agreement(talked: Sequence[Talked], turns: int) -> StoredAgreement | None:
    """Of all votes on all replies; None where every reply had but one."""
    tables = [votes_table(one.verdicts, turns) for one in talked]
    raters = sorted(set(itertools.chain.from_iterable(tables)))
    if len(raters) < 2:
        return None
    rows = []
    for rater in raters:
        own = [
            table.get(rater, np.full((len(one.dialogues), turns), np.nan))
            for one, table in zip(talked, tables, strict=True)
        ]
        rows.append(np.concatenate([values.ravel() for values in own]))
    return agreement(np.stack(rows))


def _people(settings: EvaluateSettings, cases: Mapping[str, Sequence[Case]]) -> StoredWithPeople | None:
    if not settings.judging.people:
        return None
    return compare_with_people(
        read_people(settings.judging.people), whole_key(cases), settings.bootstrap, settings.seed
    )
