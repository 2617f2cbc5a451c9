"""What a role failed at is asked for again by the next run, with other seeds; what is finished is not."""

import random

import pytest
from click.testing import CliRunner

from aloe_jax.coverage import whole_reason
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion
from aloe_jax.llm.scripted import Scripted
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.roles import Cast, RoleError
from aloe_jax.settings import dump_settings
from datagen.__main__ import main
from datagen.conversations import TURN_ATTEMPTS, recorded_conversations
from datagen.journal import BATCH, journal_path
from datagen.pool.growth import SaturatedError, grow
from datagen.pool.seeds import seed_texts
from datagen.waves import write_in_waves
from tests.datagen.test_waves import Server, Service
from tests.moody_server import moody
from tests.players import SCRIPTED, small_settings, some_personas

COUNT = 4


@pytest.fixture
def server():
    with moody() as started:
        yield started


@pytest.fixture
def run(tmp_path, server):
    """Run a command of the generator, with a server for one role: (status, last line, requests)."""
    settings = small_settings(tmp_path / "run", count=COUNT, turns=2)

    def go(command, role, *overrides):
        server.asked.clear()
        played = {"provider": "openai", "model": "m", "endpoint": server.url, "attempts": 1}
        roles = RolesSettings.model_validate(SCRIPTED.model_dump() | {role: played} if role else SCRIPTED.model_dump())
        (tmp_path / "c.yaml").write_text(dump_settings(settings.model_copy(update={"roles": roles})))
        found = CliRunner().invoke(main, [command, "--config", f"{tmp_path}/c.yaml", *overrides])
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found.exit_code, (found.stderr.strip().splitlines() or [""])[-1], list(server.asked)

    go.settings = settings
    return go


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("truncated", "responder truncated (raise roles.responder.max_output_tokens)"),
        ("blocked", "responder blocked by a safety filter"),
        ("empty", "responder empty"),
        ("garbage", "responder unreadable"),
    ],
)
def test_a_dropped_conversation_is_asked_for_again_and_keeps_its_finished_turns(run, server, mood, reason):
    run("personas", None)
    # The responder fails at every second turn: both replies of the first are there.
    server.mood = lambda asked: mood if "Assistant:" in asked.prompt else "ok"
    status, last, first = run("conversations", "responder")
    assert status == 1
    assert last == (
        f"Error: coverage 0%: 4 of 4 conversations are missing: 4 {reason}; the same command asks for them again"
    )
    failed = {asked.seed for asked in first if "Assistant:" in asked.prompt}
    assert len(failed) == COUNT * TURN_ATTEMPTS
    server.mood = lambda asked: "ok"
    status, _, again = run("conversations", "responder", "roles.responder.max_output_tokens=16384")
    assert status == 0
    assert len(again) == 2 * COUNT and all("Assistant:" in asked.prompt for asked in again)
    assert not failed & {asked.seed for asked in again}
    status, _, asked = run("conversations", "responder")
    assert (status, asked) == (0, [])


def test_some_missing_conversations_are_the_last_line_and_status_4(run, server):
    run("personas", None)
    spoiled = []

    def mood(asked):
        # Whatever is asked about the first user message, and nothing else.
        message = asked.prompt.split("User:")[1][:40]
        if not spoiled:
            spoiled.append(message)
        return "blocked" if message == spoiled[0] and "Assistant:" in asked.prompt else "ok"

    server.mood = mood
    status, last, _ = run("conversations", "responder", "conversations.concurrency=1")
    assert status == 4
    assert last == (
        "coverage 75.0%: 1 of 4 conversations is missing: 1 responder blocked by a safety filter; the same command "
        "asks for them again"
    )
    server.mood = lambda asked: "ok"
    assert run("conversations", "responder")[0] == 0


def test_personas_whose_writer_failed_are_asked_for_again(run, server):
    few = ("personas.patience=3", "personas.profiles=25")
    server.mood = lambda asked: "truncated"
    seen = set()
    for _ in range(2):  # the second run asks, too
        status, last, asked = run("personas", "persona_writer", *few)
        assert status == 1
        assert "3 calls in a row brought nothing new (refused: 3 truncated reply" in last
        assert "the same command asks again" in last and "coverage " in last
        assert len(asked) == 3 and not seen & {one.seed for one in asked}
        seen |= {one.seed for one in asked}
    with Ledger(journal_path(run.settings)) as ledger:
        assert ledger.all(BATCH) == {}  # what failed is no batch
    server.mood = lambda asked: "ok"
    status, _, asked = run("personas", "persona_writer", *few)
    assert status == 0 and not seen & {one.seed for one in asked}


def test_a_pool_grows_the_same_whether_or_not_it_was_stopped(tmp_path, server):
    """By limits of one call a run. Half of the writer's answers are spoiled."""
    moods = ["truncated", "garbage", "ok", "ok"]
    server.mood = lambda asked: random.Random(asked.id).choice(moods)
    pools = []
    for name, limit in (("alone", None), ("stopped", 1)):
        settings = small_settings(tmp_path / name)
        played = {"provider": "openai", "model": "m", "endpoint": server.url, "attempts": 1}
        roles = RolesSettings.model_validate(SCRIPTED.model_dump() | {"persona_writer": played})
        more = settings.personas.model_copy(update={"profiles": 25})
        settings = settings.model_copy(update={"roles": roles, "max_calls": limit, "personas": more})
        (tmp_path / f"{name}.yaml").write_text(dump_settings(settings))
        for _ in range(60):
            if CliRunner().invoke(main, ["personas", "--config", f"{tmp_path}/{name}.yaml"]).exit_code == 0:
                break
        with Ledger(journal_path(settings), writing=False) as ledger:
            usage = ledger.usage()["m/persona_writer"]
            pools.append((ledger.all("pool"), ledger.all(BATCH), usage.outcomes))
    assert pools[0] == pools[1] and pools[0][2]["truncated"]


def test_notes_of_no_answer_in_an_old_journal_count_for_nothing(tmp_path):
    settings = small_settings(tmp_path)
    seeds, _ = seed_texts(settings)

    def silent(examples, count, seed):
        raise RoleError("persona_writer (m): truncated reply, 8 tokens did not suffice", fresh=True)

    with Ledger(tmp_path / "j") as ledger:
        cast = Cast(settings.roles, ledger)
        small = settings.model_copy(update={"personas": settings.personas.model_copy(update={"patience": 2})})
        grown = grow(ledger, "profiles", seeds, len(seeds) + 3, small, write=cast.write_profiles)
        (first,) = [id for id in ledger.all(BATCH) if id.endswith("000000")]
        for number in range(1, 6):  # as an earlier version noted calls without an answer
            ledger.put(BATCH, f"{first[:-6]}{number:06}", {"accepted": [], "refused": {"truncated reply": 1}})
        with pytest.raises(SaturatedError, match="2 calls in a row"):
            grow(ledger, "profiles", seeds, 60, small, write=silent)
        more = grow(ledger, "profiles", seeds, 60, small, write=cast.write_profiles)
    assert more.members[: len(grown.members)] == grown.members and len(more.members) >= 60
    assert more.calls == len(more.curve) - 1


class Refusing(Service):
    """A service that blocks what the server says."""

    def poll(self, job):
        found = super().poll(job)
        if found is None:
            return None
        return {
            key: Completion("", 1, 0, "blocked", "SAFETY") if self.server.refused(key) else answer
            for key, answer in found.items()
        }


def test_a_conversation_dropped_in_batches_is_sent_again_with_other_seeds(tmp_path):
    settings = small_settings(tmp_path, count=6, turns=2)
    batched = settings.model_copy(update={"roles": RolesSettings.model_validate({"provider": "genai", "model": "m"})})
    from aloe_jax.llm.world import seed_personalities, seed_profiles

    people = [
        persona.model_copy(update={"profile": seed_profiles()[k], "personality": seed_personalities()[k]})
        for k, persona in enumerate(some_personas(3))
    ]
    server = Server()
    server.service = lambda role, name: Refusing(server, role)
    refusing = {"verifier"}
    keys: dict[str, str] = {}
    real = Service.submit

    def submit(self, requests, label):
        keys.update({request.key(Scripted.name): request.role for request in requests})
        return real(self, requests, label)

    Refusing.submit = submit
    server.refused = lambda key: keys[key] in refusing
    with Ledger(tmp_path / "j") as ledger:
        outcome = write_in_waves(ledger, people, batched, service=server.service, poll=0.0)
        assert (outcome.written, outcome.coverage().missing) == (0, {"verifier blocked by a safety filter": 6})
        sent = set(server.sent)
        assert sum(keys[key] == "verifier" for key in sent) == 6 * TURN_ATTEMPTS
    refusing.clear()
    with Ledger(tmp_path / "j") as ledger:
        outcome = write_in_waves(ledger, people, batched, service=server.service, poll=0.0)
        assert outcome.written == 6
        written = recorded_conversations(ledger, people, batched)
    assert set(server.sent.values()) == {1}  # nothing was sent twice
    assert len(written) == 6


def test_reasons_are_told_whole():
    blocked = "inducer (gemini-x): blocked reply, prompt blocked, PROHIBITED_CONTENT: about, well, this"
    assert whole_reason(blocked) == blocked
    cut = "user (m): truncated reply, 812 tokens did not suffice; raise roles.user.max_output_tokens"
    assert whole_reason(cut) == "user (m): truncated reply; raise roles.user.max_output_tokens"
    odd = "user (m): unusable answer twice, not valid JSON (Expecting ',' delimiter, character 57): 'I, said: \"no\"'"
    assert whole_reason(odd) == "user (m): unusable answer twice, not valid JSON (Expecting ',' delimiter)"
    assert whole_reason("the two replies are equal") == "the two replies are equal"
