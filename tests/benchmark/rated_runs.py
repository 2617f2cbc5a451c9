"""Benchmark runs as they lie on disk, small, with texts that name nobody."""

import random

from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.benchmark.judge import JudgedReply, Vote
from aloe_jax.benchmark.results import write_results
from aloe_jax.benchmark.scoring import Checks, Talked, score
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona

JUDGES = ("sternjudge", "mildjudge")
MODELS = ("zebramodel", "quokkamodel", "wombatmodel")
CASES, TURNS = 12, 5
HOSTILE = '</script><img src=x onerror="window.hit=1"><!-- <b>&amp; \u2028 \''


def write_run(directory, models=MODELS, cases=CASES, turns=TURNS, seed=0, hostile=False, rate=None):
    """A run whose models differ in how they are rated; `rate(model, case, turn)` gives a rating or None."""
    draw = random.Random(f"run {seed}")
    settings = EvaluateSettings.model_validate(
        {
            "output": "o", "personas": "p", "models": {name: {"path": "x"} for name in models}, "cases": cases,
            "turns": turns, "bootstrap": 10, "permutations": 10, "roles": {"provider": "scripted"},
        }
    )  # fmt: skip
    personas = [
        Persona(
            id=f"hiddenid-{case}",
            profile=HOSTILE if hostile else f"She has {case} goats. She lives by lake {case}.",
            personality=HOSTILE if hostile else f"Calm on {case} days. Likes short answers.",
        )
        for case in range(cases)
    ]
    talked = []
    for place, model in enumerate(models):
        dialogues, verdicts = [], []
        for case, persona in enumerate(personas):
            exchanges, own = [], []
            for turn in range(turns):
                words = f"Answer {draw.randrange(10**9)} to question {turn}." + (HOSTILE if hostile else "")
                exchanges.append(DialogueTurn(f"Question {turn} about goat {case}?", CandidateReply(words)))
                rating = min(5, max(1, place + 1 + draw.choice((-1, 0, 0, 1, 2))))
                rating = rate(model, case, turn) if rate else rating
                given = [rating, rating and max(1, rating - 1)]
                votes = (Vote(judge, 0, one, "secretreason") for judge, one in zip(JUDGES, given, strict=True))
                own.append(JudgedReply(tuple(votes)))
            dialogues.append(Dialogue(persona, exchanges))
            verdicts.append(own)
        talked.append(Talked(model, dialogues, verdicts))
    results = score(settings, list(JUDGES), talked, Checks()).results
    write_results(directory, results)
    return results
