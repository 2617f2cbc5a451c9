"""The table of providers: choices, checks and messages follow from it, and a new one is an entry and a file."""

import ast
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.failures import TransientError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion
from aloe_jax.llm.providers import language_model
from aloe_jax.llm.registry import PROVIDERS, RESTRICTED, ProviderEntry, load_class, register
from aloe_jax.llm.settings import RoleSettings, RolesSettings
from aloe_jax.roles import Cast
from aloe_jax.settings import load_settings
from datagen.settings import DatagenSettings

ROOT = Path(__file__).parents[2]
PERSONA = Persona(id="p0000-t000", profile="She keeps a parrot.", personality="Dry, direct and brief.")


class Parrot:
    """A made-up server: fails once, then says what it is asked for."""

    def __init__(self, role, access):
        self.name, self.key, self.attempts = role.model, access.key, 0

    def ask(self, request, timeout):
        self.attempts += 1
        if self.attempts == 1:
            raise TransientError("503 Service Unavailable", retry_after=0.0)
        return Completion(json.dumps({"message": f"I keep a parrot, says {self.key}."}), 10, 5)


@pytest.fixture
def parrot(monkeypatch):
    """Its one entry and its one file."""
    file = ModuleType("parrot_provider")
    file.Parrot = Parrot
    monkeypatch.setitem(sys.modules, "parrot_provider", file)
    entry = ProviderEntry(
        "parrot",
        "parrot_provider:Parrot",
        example_model="polly-1",
        key_variables=("PARROT_KEY",),
        roles=("user",),
        takes=frozenset(["thinking_budget"]),
        defaults={"max_output_tokens": 64},
    )
    monkeypatch.setitem(PROVIDERS, entry.name, entry)
    monkeypatch.setenv("PARROT_KEY", "squawk")
    monkeypatch.setattr("aloe_jax.llm.retry.random.uniform", lambda low, high: 0.0)
    return entry


def settings(tmp_path, user):
    file = tmp_path / "config.yaml"
    file.write_text(f"output: {tmp_path / 'run'}\nroles:\n  provider: scripted\n  user: {user}\n")
    return load_settings(DatagenSettings, file)


def test_a_made_up_provider_plays_a_role_through_a_config(parrot, tmp_path):
    found = settings(tmp_path, "{provider: parrot, model: polly-1, price: {input: 1, output: 2}, thinking_budget: 3}")
    assert found.roles.user.max_output_tokens == 64
    with Ledger(tmp_path / "journal.sqlite", budget=Budget(max_cost=1.0)) as ledger:
        cast = Cast(found.roles, ledger, only=("user", "inducer"))
        assert cast.user_message(PERSONA, [], 1) == "I keep a parrot, says squawk."
        assert ledger.faults() == {"polly-1/user": {"503 Service Unavailable": 1}}
        assert ledger.usage()["polly-1/user"].cost == pytest.approx(20e-6)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("{provider: parot, model: m}", r"roles\.user\.provider: should be 'gemini', .*'parrot', .*, not 'parot'"),
        ("{provider: parrot, project: p}", "project: only provider genai takes it, not parrot"),
        ("{provider: openai, thinking_budget: 1}", "thinking_budget: only provider genai or parrot takes it"),
    ],
)
def test_choices_and_settings_follow_from_the_table(parrot, tmp_path, user, message):
    with pytest.raises(AloeError, match=message):
        settings(tmp_path, user)


def test_what_an_entry_needs_is_asked_for_before_a_call(parrot, tmp_path, monkeypatch):
    role = RoleSettings(provider="parrot", model="polly-1")
    with pytest.raises(AloeError, match=r"roles\.judge\.provider: parrot plays the user only"):
        language_model(role, "judge")
    with pytest.raises(AloeError, match=r"roles\.user\.model: provider parrot needs a model, for example polly-1"):
        language_model(RoleSettings(provider="parrot"), "user")
    with (
        Ledger(tmp_path / "j", budget=Budget(max_cost=1.0)) as ledger,
        pytest.raises(AloeError, match=r"roles\.user\.price: max_cost needs the price"),
    ):
        Cast(RolesSettings(user=role), ledger, only=("user",))
    monkeypatch.delenv("PARROT_KEY")
    with pytest.raises(AloeError, match="provider parrot needs a key; set the environment variable PARROT_KEY"):
        language_model(role, "user")


def test_a_name_is_registered_once():
    register(PROVIDERS["openai"])
    with pytest.raises(ValueError, match="provider openai: is already registered"):
        register(ProviderEntry("openai", "elsewhere:OpenAI"))


def test_the_table_is_whole():
    for name, entry in PROVIDERS.items():
        assert entry.name == name and load_class(entry.build)
        assert entry.batch is None or load_class(entry.batch)
        assert entry.takes <= set(RESTRICTED) <= RoleSettings.model_fields.keys()
        assert entry.defaults.keys() <= RoleSettings.model_fields.keys()
        assert set(entry.roles) <= RolesSettings.model_fields.keys()
        assert f"| `{name}` |" in (ROOT / "docs/data.md").read_text(), "docs/data.md names every provider"


def test_nothing_but_the_table_compares_names_of_providers():
    """Whatever differs between providers is a field of its entry."""
    for file in (*ROOT.glob("aloe_jax/**/*.py"), *ROOT.glob("datagen/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            if isinstance(node, ast.Match):
                compared = [node.subject]
            for side in compared:
                assert not re.search(r"\.provider\b", ast.unparse(side)), f"{file}:{node.lineno}"
