"""The same model with the persona in its prompt, and with its last message only: controls."""

import json

import numpy as np
import pytest

from aloe_jax.benchmark.candidates import ModelCandidate, ResponderCandidate, known_persona
from aloe_jax.benchmark.comparison import compare
from aloe_jax.benchmark.controls import control_differences
from aloe_jax.benchmark.dialogue import Dialogue, DialogueTurn
from aloe_jax.benchmark.estimate import estimate
from aloe_jax.benchmark.multiple_tests import corrected_together
from aloe_jax.benchmark.results import load_results
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.publishing.model_card import benchmark_scores
from aloe_jax.roles import Cast
from aloe_jax.sampling.settings import SamplingSettings
from aloe_jax.settings import dump_settings, load_settings
from tests.benchmark.test_candidates import FedSession, folder, run, tokenizer  # noqa: F401
from tests.data.families import FAMILIES, loaded

PERSONA = Persona(id="b0", profile="She keeps nine goats. She repairs clocks.", personality="Blunt. Loves puns.")
USERS = ("good morning", "the bell rang twice", "and now it snows")


def settings(**more):
    given = {"output": "o", "personas": "p", "roles": {"provider": "scripted"}, "cases": 20, "turns": 4}
    return EvaluateSettings.model_validate(given | more)


# ---------------------------------------------------------------- settings


def test_a_shorthand_adds_the_controls_of_every_model_under_test(tmp_path):
    remote = {"remote": {"provider": "scripted"}}
    models = {"a": {"path": "x"}, "low": {"scripted": "generic"}, "far": remote}
    short = settings(models=models, controls=["persona", "last_message"])
    written = {name: (one.path, one.remote is not None, one.sees) for name, one in short.models.items()}
    assert written == {
        "a": ("x", False, "history"),
        "low": (None, False, "history"),
        "far": (None, True, "history"),
        "a-persona": ("x", False, "persona"),
        "a-last_message": ("x", False, "last_message"),
        "far-persona": (None, True, "persona"),
        "far-last_message": (None, True, "last_message"),
    }
    (tmp_path / "again.yaml").write_text(dump_settings(short))
    assert load_settings(EvaluateSettings, tmp_path / "again.yaml") == short
    assert settings(models=models).models.keys() == models.keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("controls: [oracle]\nmodels: {a: {path: x}}", "controls.0: input should be 'persona' or 'last_message'"),
        ("controls: persona\nmodels: {a: {path: x}}", "controls: "),
        ("models: {a: {scripted: informed, sees: persona}}", "informed is a reference line, which has no controls"),
        (
            "controls: [persona]\nmodels: {a: {path: x}, a-persona: {path: y}}",
            "controls: models.a-persona is there already, as something else; rename it",
        ),
    ],
)
def test_mistakes_name_the_setting(tmp_path, given, message):
    (tmp_path / "bad.yaml").write_text(f"output: o\npersonas: p\n{given}\n")
    with pytest.raises(AloeError) as error:
        load_settings(EvaluateSettings, tmp_path / "bad.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- what the model sees


def spoken(family, sees, tmp_path):
    """Per turn the text before the reply that a session had, and the dialogue."""
    _, tokens, template = loaded(family)
    answer = (*tokens("of course", add_special_tokens=False)["input_ids"], template.stop[0])
    session = FedSession(answer)

    class Sessions:
        max_length = 100_000

        def session(self, batch):
            return session

    (tmp_path / "config.json").write_text("{}")
    candidate = ModelCandidate(
        tmp_path, SamplingSettings(), load=lambda path, sampling: (Sessions(), template), sees=sees
    )
    partner, dialogue, seen = candidate.partner(1), Dialogue(PERSONA), []
    for user in USERS:
        (reply,) = partner.reply([dialogue], [user], [0])
        seen.append(session.rows[0][: -len(answer)])
        dialogue.exchanges.append(DialogueTurn(user, reply))
    return template, dialogue, seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_persona_is_in_every_prompt_whatever_the_template(family, tmp_path):
    """As the template's own system message, or where it has none at the head of the first user message."""
    template, dialogue, seen = spoken(family, "persona", tmp_path)
    system = known_persona(PERSONA)
    assert PERSONA.profile in system["content"] and PERSONA.personality in system["content"]
    for turn, user in enumerate(USERS):
        path = [system, *dialogue.history(turn), {"role": "user", "content": user}]
        text = template.tokenizer.decode(seen[turn])
        # A session keeps the reply as it was sampled, here with a space before it, and cut into other tokens.
        assert "".join(text.split()) == "".join(template.tokenizer.decode(template.prompt(path)).split())
        assert text.count("nine goats") == 1
        if family == "gemma":  # which refuses a system message
            assert text.index("nine goats") < text.index(USERS[0]) < text.index("model")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_message_is_all_that_is_seen(family, tmp_path):
    template, _, seen = spoken(family, "last_message", tmp_path)
    for turn, user in enumerate(USERS):
        assert seen[turn] == template.prompt([{"role": "user", "content": user}])
        text = template.tokenizer.decode(seen[turn])
        assert not any(other in text for other in USERS if other != user) and "of course" not in text


def test_a_remote_model_sees_as_much(tmp_path):
    asked = []

    class Noting:
        name = "noting"

        def complete(self, request):
            asked.append(request)
            return Completion('{"reply": "of course"}', 1, 1)

    with Ledger(tmp_path / "journal.sqlite") as ledger:
        cast = Cast(RolesSettings(), ledger, only=("responder",), model=lambda role, name: Noting())
        for informed, forgetful in ((False, False), (True, False), (False, True)):
            system_of = "known_persona" if informed else None
            candidate, dialogue = (
                ResponderCandidate(cast, {}, informed, "models.far.remote", forgetful, system_of),
                Dialogue(PERSONA),
            )
            for user in USERS:
                (reply,) = candidate.reply([dialogue], [user], [0])
                dialogue.exchanges.append(DialogueTurn(user, reply))
    history, known, last = (f"{request.system}\n{request.prompt}" for request in (asked[2], asked[5], asked[-1]))
    assert all(user in history for user in USERS) and "nine goats" not in history
    assert all(user in known for user in USERS) and "nine goats" in known
    assert asked[5].system == known_persona(PERSONA)["content"]  # what a model on this machine is shown
    assert USERS[2] in last and "nine goats" not in last and USERS[0] not in last and "of course" not in last


# ---------------------------------------------------------------- a whole run


def test_controls_of_a_real_model_are_labelled_and_compete_with_nobody(folder):  # noqa: F811
    small = ("turns=3", "permutations=20", "judging.calibrate=skip")
    command = ("controls=[persona, last_message]", "models.other={scripted: generic}", *small)
    found = run(folder, "out", *command)
    assert found.exit_code == 0, found.output
    results = load_results(folder / "out")
    assert list(results.models) == ["untrained", "other", "untrained-persona", "untrained-last_message"]
    kinds = {name: (one.sees, one.control_of, one.under_test) for name, one in results.models.items()}
    assert kinds == {
        "untrained": ("history", None, True),
        "other": ("history", None, False),
        "untrained-persona": ("persona", "untrained", False),
        "untrained-last_message": ("last_message", "untrained", False),
    }
    assert not results.differences  # one model is under test, so there is nothing to compare it with
    pairs = {(one.first, one.second) for one in results.controls}
    assert pairs == {("untrained", "untrained-persona"), ("untrained-last_message", "untrained")}

    said = {name: [[turn.reply for turn in case.turns] for case in cases] for name, cases in results.cases.items()}
    own, last, known = (said[name] for name in ("untrained", "untrained-last_message", "untrained-persona"))
    assert [case[0] for case in last] == [case[0] for case in own]  # at the first turn there is no history to miss
    assert [case[1:] for case in last] != [case[1:] for case in own]
    assert [case[0] for case in known] != [case[0] for case in own]

    page, terminal = (folder / "out/report.html").read_text(), found.output
    for label in ("with the persona in its prompt", "last message only"):
        assert f'<span class="tag">{label}</span>' in page
    assert "AL changes by" in page and "models that the same judge rated" in page
    for note in ("* untrained-persona: with the persona in its prompt", "untrained: IR over its last message only"):
        assert note in terminal
    assert "Highest average alignment level" not in page  # of one model under test there is no highest

    again = run(folder, "out", *command)
    assert again.exit_code == 0
    assert load_results(folder / "out").cases == results.cases  # every one found its own turns in the journal

    scores, _ = benchmark_scores(folder / "out/metrics.json", folder / "model")
    assert scores["sees"] == "history"


def test_the_card_of_a_model_has_its_numbers_and_not_those_of_a_control(folder):  # noqa: F811
    models = f"{{first: {{path: {folder}/model, sees: last_message}}, own: {{path: {folder}/model}}}}"
    assert run(folder, "out", f"models={models}", "permutations=20", "judging.calibrate=skip").exit_code == 0
    scores, _ = benchmark_scores(folder / "out/metrics.json", folder / "model")
    own = json.loads((folder / "out/metrics.json").read_text())["models"]["own"]
    assert own["sees"] == "history" and scores == {**own, "same_family": [], "design": scores["design"]}


def test_an_estimate_counts_controls_and_what_they_see():
    remote = {"remote": {"provider": "openai", "model": "m", "endpoint": "http://localhost:1/v1"}}
    people = [PERSONA.model_copy(update={"id": f"b{i}"}) for i in range(20)]
    alone, whole = (
        {one.player: one for one in estimate(settings(models={"far": remote}, controls=controls), people, None)}
        for controls in ((), ("persona", "last_message"))
    )
    players = [f"models.{name}.remote" for name in ("far", "far-persona", "far-last_message")]
    own, known, last = (whole[player] for player in players)
    assert own.calls == known.calls == last.calls == 20 * 4
    assert known.input_tokens > own.input_tokens > last.input_tokens
    assert whole["roles.user"].calls == 20 * (1 + 3 * 3) and alone["roles.user"].calls == 20 * (1 + 3)
    assert whole["roles.judge"].calls - alone["roles.judge"].calls == 2 * 20 * 4


# ---------------------------------------------------------------- what they say


def ratings(rise, seed, cases=20, turns=4):
    draw = np.random.default_rng(seed)
    return np.clip(2 + rise * np.arange(turns) + draw.normal(0, 0.4, (cases, turns)), 1, 5)


def test_differences_are_of_the_one_that_sees_more_and_have_a_correction_of_their_own():
    models = settings(models={"a": {"path": "x"}, "b": {"path": "y"}}, controls=["persona", "last_message"]).models
    tables = {name: ratings(0.3 if "last" not in name else 0.0, seed) for seed, name in enumerate(models)}
    found, _ = corrected_together(control_differences(tables, models, 100, 2000, 3))
    pairs = [("a", "a-persona"), ("a-last_message", "a"), ("b", "b-persona"), ("b-last_message", "b")]
    assert list(dict.fromkeys((one.first, one.second) for one in found)) == pairs
    for first, second in pairs:
        plain = compare(tables[first], tables[second], 100, 2000, 3)
        own = {one.statistic: one for one in found if (one.first, one.second) == (first, second)}
        assert {name: one.value for name, one in own.items()} == {name: one.value for name, one in plain.items()}
    rise = {one.first: one for one in found if one.statistic == "ir" and "last" in one.first}
    assert all(one.value > 0.2 and one.p_holm < 0.05 for one in rise.values())


def test_a_control_without_its_model_is_compared_with_nobody():
    models = settings(models={"c": {"path": "x", "sees": "persona"}, "b": {"path": "y"}}).models
    assert control_differences({name: ratings(0.1, 0) for name in models}, models) == []
