"""The numbers of a finished run anew, from its own transcripts and settings: for results of an earlier version.

Nothing is asked and the journal is not read, so that neither a stricter calibration of the judges nor another default
stands in the way: dialogues, votes, facts that were found in them, calibrations and usage stay as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from aloe_jax.benchmark.automatic import Facts, Measured
from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.benchmark.judge import JudgedReply, Vote
from aloe_jax.benchmark.pairwise import recomputed
from aloe_jax.benchmark.results import METRICS, TRANSCRIPTS, Case, Results, StoredTurn, load_results
from aloe_jax.benchmark.scoring import Checks, Talked, score
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import first_fault
from aloe_jax.errors import AloeError
from aloe_jax.llm import notices
from aloe_jax.llm.journal_file import only_writer


@contextmanager
def rescored(output: Path) -> Iterator[Results]:
    """The results of the run in a directory, computed anew; no other process writes into it meanwhile.

    A recipe that is stored stays, and so do warnings about judges and agreement with people where what they were
    computed from is gone. Raises AloeError for a directory without results, results that do not open, and one that
    another process is writing into.
    """
    if not (output / METRICS).is_file():
        raise AloeError(f"{output}: holds no {METRICS}; give --rescore the output directory of a finished run")
    journal = output / "journal.sqlite"
    lock = only_writer(journal)
    try:
        yield rescore(load_results(output), output)
    finally:
        lock.release(remove=not journal.exists())


def rescore(stored: Results, output: Path) -> Results:
    """Stored results with all numbers computed anew from dialogues and votes. `output`: where they are, for errors."""
    settings = _settings(stored, output)
    talked = [_talked(name, cases, output) for name, cases in stored.cases.items()]
    cases = {len(one.dialogues) for one in talked}
    if len(cases) != 1 or not all(cases):
        raise AloeError(f"{output / TRANSCRIPTS}: its models have different numbers of dialogues; copy the file anew")
    personas = [dialogue.persona for dialogue in talked[0].dialogues]
    pairs = [recomputed(pair, personas, settings.bootstrap, settings.seed) for pair in stored.side_by_side]
    gone = [path for path in settings.judging.people if not Path(path).is_file()]
    if gone:
        notices.report(f"judging.people: {gone[0]} is not there; agreement with people stays as it is stored")
        judging = settings.judging.model_copy(update={"people": ()})
        settings = settings.model_copy(update={"judging": judging})
    found = score(settings, stored.judges, talked, Checks(stored.calibration, pairs)).results
    models = {
        name: numbers.model_copy(update={"training": stored.models[name].training or numbers.training})
        for name, numbers in found.models.items()
    }
    kept = {
        "providers": stored.providers,
        "people": stored.people if gone else found.people,
        "same_family": stored.same_family or found.same_family,
        "usage": stored.usage,
        "settings": stored.settings,
    }
    return found.model_copy(update={**kept, "models": models})


def _settings(stored: Results, output: Path) -> EvaluateSettings:
    """The run's own. Calibration is done with, so that rules of today about its size do not matter."""
    judging = stored.settings.get("judging")
    past = {"calibrate": "skip"} if not isinstance(judging, dict) else {**judging, "calibrate": "skip"}
    try:
        settings = EvaluateSettings.model_validate({**stored.settings, "judging": past})
    except ValidationError as error:
        raise AloeError(f"{output / METRICS}: settings.{first_fault(error)}; another version stored them") from None
    if settings.models.keys() != stored.models.keys():
        raise AloeError(f"{output / METRICS}: settings.models are not its models; copy the file anew")
    return settings


def _talked(name: str, cases: list[Case], output: Path) -> Talked:
    dialogues, verdicts, measured = [], [], []
    for case in cases:
        exchanges = [DialogueTurn(turn.user, CandidateReply(turn.reply, ended=turn.ended)) for turn in case.turns]
        dialogues.append(Dialogue(case.persona, exchanges, case.stopped))
        if not all(turn.votes for turn in case.turns):
            where = f"{output / TRANSCRIPTS}: {name} with {case.persona.id}"
            raise AloeError(f"{where}: a reply has no votes, which no version stored; copy the file anew")
        verdicts.append([_verdict(turn) for turn in case.turns])
        measured.append([_measured(turn) for turn in case.turns])
    return Talked(name, dialogues, verdicts, measured)


def _verdict(turn: StoredTurn) -> JudgedReply:
    return JudgedReply(tuple(Vote(vote.judge, vote.number, vote.rating, vote.reason) for vote in turn.votes))


def _measured(turn: StoredTurn) -> Measured:
    facts = Facts(tuple(turn.revealed), tuple(turn.mentioned), tuple(turn.leaked), tuple(turn.untrue))
    return Measured(turn.words, facts)
