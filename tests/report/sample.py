"""Small runs to report on: known ratings, texts that would break a careless page, and what can be missing."""

import json
import random

from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.benchmark.judge import JudgedReply, Vote
from aloe_jax.benchmark.results import Results, StoredCalibration, StoredSideBySide, write_results
from aloe_jax.benchmark.scoring import Checks, Talked, score
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona
from aloe_jax.llm.world.persona_texts import write_personality, write_profile

HOSTILE = '</script><script>window.hit=1</script><img src=x onerror="window.hit=1"><!-- <b>&amp;</b> \u2028 $x_1$ | "\''
CASES, TURNS = 6, 4


def personas(cases: int = CASES, seed: int = 0) -> list[Persona]:
    """Two people to a profile, with two personalities among all."""
    draw = random.Random(seed)
    kinds = [write_personality(draw) for _ in range(2)]
    profiles = [write_profile(draw) for _ in range((cases + 1) // 2)]
    return [Persona(id=f"p{i}", profile=profiles[i // 2], personality=kinds[i % 2]) for i in range(cases)]


def strangers(cases: int) -> list[Persona]:
    """People who share nothing."""
    draw = random.Random(1)
    return [
        Persona(id=f"p{i}", profile=write_profile(draw), personality=f"{write_personality(draw)} Has {i} cats.")
        for i in range(cases)
    ]


def talked(name, people, level, *, turns=TURNS, rise=0.0, judges=("judge",), gap=None, stop=None, text=None, seed=0):
    """Dialogues whose ratings lie about `level` and rise; `gap` (case, turn) has no rating, case `stop` ends early."""
    draw = random.Random(f"{name} {seed}")
    dialogues, verdicts = [], []
    for case, persona in enumerate(people):
        told = persona.profile.split(". ")
        count = 1 if case == stop else turns
        said = [f"{told[turn % len(told)]}. What do you say, {turn}?" for turn in range(count)]
        replies = [text or f"{name} says {turn}: {told[turn % len(told)].lower()}." for turn in range(count)]
        exchanges = [DialogueTurn(user, CandidateReply(reply)) for user, reply in zip(said, replies, strict=True)]
        dialogues.append(Dialogue(persona, exchanges, "turn 2: the model was silent" if case == stop else None))
        row = []
        for turn in range(count):
            mean = level + rise * turn + draw.uniform(-0.6, 0.6)
            row.append(
                JudgedReply(
                    tuple(
                        Vote(
                            judge,
                            0,
                            None if gap == (case, turn) else min(5, max(1, round(mean + 0.3 * number))),
                            f"{judge} has a reason",
                        )
                        for number, judge in enumerate(judges)
                    )
                )
            )
        verdicts.append(row)
    return Talked(name, dialogues, verdicts)


def results(spoken, *, provider="scripted", judges=("judge",), turns=TURNS, checks=None, **more) -> Results:
    """What `score` stores of dialogues. Names with a `*` are reference lines."""
    role = {"provider": provider} | ({} if provider == "scripted" else {"model": "m-1"})
    settings = EvaluateSettings.model_validate(
        {
            "output": "o",
            "personas": "p",
            "models": {
                one.name: {"scripted": "generic"} if one.name.endswith("*") else {"path": "x"} for one in spoken
            },
            "cases": len(spoken[0].dialogues),
            "turns": turns,
            "bootstrap": 60,
            "permutations": 400,
            "roles": role,
            "judging": {"judges": {name: role for name in judges} if len(judges) > 1 else {}},
        }
        | more
    )
    return score(settings, list(judges), spoken, checks or Checks()).results


def hostile_results() -> Results:
    """Two judges, a model with a name and texts like markup, one with gaps, a reference line."""
    people = [*personas(5), Persona(id=f"p5{HOSTILE}", profile=f"{HOSTILE} He loves tags.", personality=HOSTILE)]
    judges = ("strict", "kind")
    spoken = [
        talked("low*", people, 1.2, judges=judges),
        talked("a<b> & $c_1$", people, 2.0, rise=0.1, judges=judges, text=HOSTILE),
        talked("good", people, 3.0, rise=0.4, judges=judges, gap=(1, 2), stop=3),
    ]
    kinds = {"informed": 5, "generic": 3, "off_persona": 1, "ill_mannered": 2, "empty": 1}
    checks = Checks(
        [
            StoredCalibration(
                judge="strict",
                ratings={kind: [rating, rating] for kind, rating in kinds.items()},
                correlation=0.97,
                coverage=1.0,
                passed=True,
            ),
            StoredCalibration(
                judge="kind",
                ratings={kind: [5, None] for kind in kinds},
                correlation=None,
                coverage=0.5,
                passed=False,
            ),
        ],
        [
            StoredSideBySide(
                first="a<b> & $c_1$",
                second="good",
                wins=4,
                ties=1,
                losses=1,
                win_rate=0.75,
                low=0.4,
                high=0.95,
                p=0.3,
                shown_first=0.5,
                contradictions=0.1,
                coverage=1.0,
                outcomes=("second",) * 6,
            )
        ],
    )
    return results(spoken, judges=judges, checks=checks)


def write_hostile(directory):
    write_results(directory, hostile_results())
    return directory


def write_plain(directory, names=("good", "other"), *, provider="openai", cases=CASES, turns=TURNS, seed=1):
    """Another run with some of the same people, of models without simulated parts unless `provider` is scripted."""
    people = personas(cases)
    spoken = [
        talked(name, people, 2 + 0.8 * number, rise=0.2, turns=turns, seed=seed) for number, name in enumerate(names)
    ]
    write_results(directory, results(spoken, provider=provider, turns=turns))
    return directory


def write_preferences(directory, names=("good", "other"), reference="good"):
    """As `aloe_jax.benchmark.preference_scores` writes it; `reference` may be None."""

    def estimate(value):
        return {"value": value, "low": None if value is None else value - 0.1, "high": None if value is None else value}

    keys = ("accuracy", "normalised_accuracy", "margin", "preferred_logp", "rejected_logp")
    rewards = ("reward_accuracy", "reward_margin")
    models = {}
    for number, name in enumerate(names):
        value = 0.5 + 0.2 * number
        numbers = dict.fromkeys(keys, value) | dict.fromkeys(rewards, value if reference else None)
        by_turn = [{"turn": turn, "pairs": 9 - turn} | numbers for turn in (1, 2, 4)]
        models[name] = {"conversations": 9, "pairs": 20, "lost": 1, "by_turn": by_turn}
        models[name] |= {key: estimate(value) for key, value in numbers.items()}
    settings = {"reference": reference, "split": "validation", "bootstrap": 50, "seed": 0}
    record = {"format": "aloe-preferences", "version": 1, "aloe_jax": "0.1.0", "models": models, "settings": settings}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "preferences.json").write_text(json.dumps(record))
    return directory


def write_human(path, rater, run: Results, name, *, shift=0):
    """Ratings of a person who agrees with the judges but for `shift`, on some of a model's replies."""
    ratings = [
        {"item": turn.item, "rating": min(5, max(1, round(turn.rating) + shift)), "note": "", "seconds": 2.0}
        for case in run.cases[name][:3]
        for turn in case.turns
        if turn.rating is not None
    ]
    ratings.append({"item": "of no run", "rating": 3})
    path.write_text(
        json.dumps({"format": "aloe-human-ratings", "version": 1, "rater": rater, "page": "x", "ratings": ratings})
    )
    return path


def write_rl(directory, steps=12, *, watch=True, scripted=True, level=2.0):
    """What a training by RL leaves for the report: rewards that rise, entropy that falls, a watch that sees through."""
    lines = []
    for step in range(1, steps + 1):
        rewards = {f"reward/turn_{turn:02d}": level + step / 10 + turn / 100 for turn in range(1, 4)}
        values = {"reward": level + step / 10, "reward/judge": level + step / 10, "entropy": 3 / step, **rewards}
        lines.append({"step": step, "kind": "train", "no_variance": step / (2 * steps), **values})
        lines.append({"step": step, "kind": "speed", "seconds/training": 1.0})
        if step % 4 == 0:
            lines.append({"step": step, "kind": "validation", "reward": level + step / 20})
            if watch:
                judge, other = level + step / 5, level - step / 20
                lines.append({"step": step, "kind": "watch", "judge": judge, "watch": other, "gap": judge - other})
    directory.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 13, "ki'  # killed in the middle of a line
    (directory / "metrics.jsonl").write_text(text)
    role = {"provider": "scripted"} if scripted else {"provider": "openai", "model": "m"}
    config = {
        "stage": "rl",
        "output": "o",
        "model": {"path": "x"},
        "data": {"rows": 16},
        "rl": {"personas": "p"},
        "roles": {"user": role},
    }
    (directory / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return directory
