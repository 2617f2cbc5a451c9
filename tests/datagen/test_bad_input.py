"""What a person meets who gives the generator a wrong key, an unknown model or a model that answers badly."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.settings import dump_settings
from datagen.__main__ import main
from datagen.journal import journal_path
from datagen.settings import PersonasSettings
from tests.players import small_settings
from tests.standin import running

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "OTHER_API_KEY")
PROVIDERS = ("gemini", "genai", "openai")


@pytest.fixture(scope="module")
def server():
    with running() as started:
        yield started


@pytest.fixture
def given(tmp_path, server, monkeypatch):
    """Run `personas` with a model and a key."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)

    def run(provider, model, key="good", command="personas", **personas):
        if key:
            monkeypatch.setenv("OTHER_API_KEY" if provider == "openai" else "GEMINI_API_KEY", key)
        endpoint = f"{server.url}/v1" if provider == "openai" else server.url
        roles = {"provider": provider, "model": model, "endpoint": endpoint, "timeout": 5.0}
        if provider == "openai":
            roles["key_variable"] = "OTHER_API_KEY"
        settings = small_settings(tmp_path / "run")
        wanted = PersonasSettings(**settings.personas.model_dump() | {"profiles": 30, "patience": 2} | personas)
        settings = settings.model_copy(update={"roles": RolesSettings.model_validate(roles), "personas": wanted})
        (tmp_path / "c.yaml").write_text(dump_settings(settings))
        return CliRunner().invoke(main, [command, "--config", f"{tmp_path}/c.yaml"]), journal_path(settings)

    return run


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_wrong_key_and_an_unknown_model_stop_at_once(given, provider):
    result, journal = given(provider, "good", "wrong-secret")
    assert result.exit_code == 1 and "_API_KEY" in result.output and "secret" not in result.output
    assert len(result.output.splitlines()) < 6, result.output
    result, _ = given(provider, "unknown")
    assert result.exit_code == 1 and "roles.persona_writer.model" in result.output
    with Ledger(journal) as ledger:
        assert ledger.usage() == {}


@pytest.mark.parametrize("provider", PROVIDERS[:2])
def test_no_key_names_the_variables(given, provider):
    result, _ = given(provider, "good", key="")
    assert result.exit_code == 1
    assert "GEMINI_API_KEY" in result.output and "GOOGLE_API_KEY" in result.output


def test_no_model_says_how_to_name_or_simulate_one(tmp_path):
    (tmp_path / "c.yaml").write_text(f"output: {tmp_path}/run\n")
    result = CliRunner().invoke(main, ["personas", "--config", f"{tmp_path}/c.yaml"])
    assert result.exit_code == 1
    assert "roles.persona_writer.model" in result.output and "roles.provider=scripted" in result.output


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("prose", "unusable answer"),
        ("badjson", "unusable answer"),
        ("blocked", "blocked"),
        ("empty", "empty"),
        ("truncated", "truncated"),
    ],
)
def test_a_writer_that_returns_no_texts_saturates_and_says_why(given, model, reason):
    result, _ = given("genai", model)
    assert result.exit_code == 1 and "stopped growing at" in result.output
    assert reason in result.output or "unreadable" in result.output, result.output


def test_a_repaired_answer_is_taken(given):
    result, journal = given("genai", "prose-once")
    assert result.exit_code == 0, result.output
    with Ledger(journal) as ledger:
        assert ledger.usage()["prose-once/persona_writer"].calls % 2 == 0


def test_a_second_process_on_the_journal_is_refused(given, tmp_path):
    result, journal = given("gemini", "good")
    assert result.exit_code == 0, result.output
    command = [sys.executable, "-m", "datagen", "conversations", "--config", f"{tmp_path}/c.yaml"]
    with Ledger(journal):
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1 and "another process is writing this journal" in second.stderr
    assert "Traceback" not in second.stderr
