"""A dry run: what it expects is near what a run then asks."""

import pytest
from click.testing import CliRunner

from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.roles import Cast
from datagen.__main__ import main
from datagen.conversations import TALKING_ROLES, write_conversations
from datagen.dry_run import estimate_conversations, estimate_personas
from datagen.journal import open_journal
from datagen.personas import write_personas
from datagen.pool.seeds import seed_texts
from datagen.settings import PersonasSettings
from tests.players import small_settings

PRICE = {"input": 1.0, "output": 10.0}


@pytest.fixture
def settings(tmp_path):
    made = small_settings(tmp_path / "run", count=8, turns=4)
    return made.model_copy(
        update={"personas": PersonasSettings(profiles=40, personalities=20, personalities_per_profile=2)}
    )


def test_calls_are_those_that_a_run_makes(settings):
    with open_journal(settings, create=True) as ledger:
        seeds = seed_texts(settings)
        (writer,) = estimate_personas(ledger, settings, seeds)
        found, pools = write_personas(ledger, Cast(settings.roles, ledger, only=("persona_writer",)), settings, seeds)
        made = sum(pool.calls for pool in pools.values())
        assert abs(writer.calls - made) <= 2
        assert estimate_personas(ledger, settings, seeds)[0].calls == 0

        expected = {one.player: one for one in estimate_conversations(ledger, found.training, settings)}
        write_conversations(ledger, Cast(settings.roles, ledger, only=TALKING_ROLES), found.training, settings)
        usage = {name.partition("/")[2]: use for name, use in ledger.usage().items()}
        for role in TALKING_ROLES:
            assert expected[role].calls == usage[role].calls, role
            assert expected[role].cost == 0.0
        assert all(one.calls == 0 for one in estimate_conversations(ledger, found.training, settings))


def test_forks_verdicts_and_batches_are_counted(settings):
    def calls(**wanted):
        roles = RolesSettings.model_validate({"provider": "genai", "model": "m", "price": PRICE})
        conversations = settings.conversations.model_copy(update=wanted)
        changed = settings.model_copy(update={"conversations": conversations, "roles": roles})
        with open_journal(settings, create=True) as ledger:
            seeds = seed_texts(settings)
            found, _ = write_personas(ledger, Cast(settings.roles, ledger, only=("persona_writer",)), settings, seeds)
            return {one.player: one for one in estimate_conversations(ledger, found.training, changed)}

    plain = calls()
    assert calls(verify_twice=True)["verifier"].calls == 2 * plain["verifier"].calls
    assert calls(hint=False)["inducer"].calls == 0
    assert calls(branch="both")["user"].calls == 8 * (1 + 3 * 2)
    half = calls(batch=True)
    assert half["user"].cost == pytest.approx(plain["user"].cost / 2)
    one = plain["responder"]
    assert one.cost == pytest.approx((one.input_tokens + 10 * one.output_tokens) / 1e6)
    assert 20 * one.calls < one.output_tokens < 100 * one.calls and one.input_tokens > 200 * one.calls


def test_the_mean_of_earlier_calls_replaces_the_guess(settings):
    from aloe_jax.llm.protocol import Completion

    with Ledger(settings.output + "/journal.sqlite") as ledger:
        for number in range(20):
            ledger.keep_call(str(number), "scripted", "persona_writer", Completion("", 10, 4321), 0.1)
        (one,) = estimate_personas(ledger, settings, seed_texts(settings))
        assert one.measured and one.output_tokens == 4321 * one.calls


def test_a_dry_run_needs_no_key_asks_nothing_and_leaves_no_journal(tmp_path):
    (tmp_path / "c.yaml").write_text(f"output: {tmp_path}/run\nroles: {{model: gemini-x, price: {PRICE}}}\n")
    result = CliRunner().invoke(main, ["personas", "--config", f"{tmp_path}/c.yaml", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "nothing was asked" in result.output and "persona_writer" in result.output and "$0." in result.output
    assert not (tmp_path / "run").exists()
    result = CliRunner().invoke(main, ["conversations", "--config", f"{tmp_path}/c.yaml", "--dry-run"])
    assert result.exit_code == 1 and "no journal yet" in result.output
