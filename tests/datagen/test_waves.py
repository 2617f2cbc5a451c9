"""Conversations through a batch service: the same trees as one by one, few jobs, and nothing sent twice."""

from collections import Counter

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.batch import JobFailedError
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.scripted import Scripted
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.roles import Cast
from datagen import waves
from datagen.conversations import TALKING_ROLES, recorded_conversations, write_conversations
from datagen.journal import CONVERSATION
from datagen.waves import write_in_waves
from tests.players import small_settings
from tests.standin import running


class Server:
    """A batch service whose jobs outlive the process: the scripted world answers at the second look."""

    def __init__(self):
        self.jobs, self.sent, self.looks = {}, Counter(), Counter()
        self.ignored: set[str] = set()  # keys that never get an answer
        self.die_after_submit = False
        self.failing = 0  # so many jobs fail

    def service(self, role, name):
        return Service(self, role)


class Service:
    name = Scripted.name

    def __init__(self, server, role):
        self.server, self.role = server, role

    def size(self, request):
        return len(request.prompt)

    def submit(self, requests, label):
        assert label not in self.server.jobs and len({request.role for request in requests}) == 1
        keys = [request.key(self.name) for request in requests]
        self.server.sent.update(keys)
        self.server.jobs[label] = {
            key: Scripted().complete(request) for key, request in zip(keys, requests, strict=True)
        }
        if self.server.die_after_submit:
            raise KeyboardInterrupt
        return label

    def find(self, label):
        return label if label in self.server.jobs else None

    def poll(self, job):
        if self.server.failing:
            self.server.failing -= 1
            del self.server.jobs[job]
            raise JobFailedError(f"{job} has expired")
        self.server.looks[job] += 1
        if self.server.looks[job] < 2:
            return None
        return {key: answer for key, answer in self.server.jobs[job].items() if key not in self.server.ignored}


@pytest.fixture
def personas():
    from aloe_jax.conversation import Persona
    from aloe_jax.llm.world import seed_personalities, seed_profiles

    return [
        Persona(id=f"p{k:04d}-t000", profile=profile, personality=seed_personalities()[k])
        for k, profile in enumerate(seed_profiles()[:4])
    ]


@pytest.fixture
def settings(tmp_path):
    roles = {"provider": "genai", "model": "m"}
    made = small_settings(tmp_path / "waves", count=6, turns=3)
    return made.model_copy(update={"roles": RolesSettings.model_validate(roles)})


def run(ledger, personas, settings, server, **more):
    return write_in_waves(ledger, personas, settings, service=server.service, poll=0.0, **more)


@pytest.fixture
def expected(tmp_path, personas):
    made = small_settings(tmp_path / "threads", count=6, turns=3)
    with Ledger(tmp_path / "threads" / "journal.sqlite") as ledger:
        write_conversations(ledger, Cast(made.roles, ledger, only=TALKING_ROLES), personas, made)
        return recorded_conversations(ledger, personas, made)


def test_waves_write_what_threads_write(tmp_path, personas, settings, expected):
    server, said = Server(), []
    with Ledger(tmp_path / "waves" / "journal.sqlite") as ledger:
        outcome = run(ledger, personas, settings, server, progress=lambda outcome, doing: said.append(doing))
        assert recorded_conversations(ledger, personas, settings) == expected
        assert (outcome.written, outcome.left, outcome.skipped.total()) == (6, 0, 0)
        assert all(usage.calls for usage in ledger.usage().values())
    assert set(server.sent.values()) == {1}
    assert any(text.startswith("waiting for 6 calls in 1 jobs") for text in said)
    # Six conversations share a job a role and a wave: user, inducer with the plain reply, hinted reply, verifier.
    assert len(server.jobs) <= 3 * 5 + 4


def test_a_run_that_stops_at_any_point_sends_nothing_twice(tmp_path, personas, settings, expected):
    server, runs = Server(), 0
    while True:
        server.die_after_submit = runs % 2 == 0  # before the job is noted, so only its label can find it
        stops = 2 + runs % 3

        def stop_soon(outcome, doing):
            nonlocal stops
            stops -= 1
            if stops == 0:
                raise KeyboardInterrupt

        with Ledger(tmp_path / "waves" / "journal.sqlite") as ledger:
            try:
                outcome = run(ledger, personas, settings, server, progress=stop_soon)
            except KeyboardInterrupt:
                outcome = None
            runs += 1
            if len(ledger.all(CONVERSATION)) == 6:
                assert recorded_conversations(ledger, personas, settings) == expected
                break
        assert runs < 200, outcome
    assert runs > 5 and set(server.sent.values()) == {1}


def test_a_call_that_is_never_answered_leaves_its_conversation_for_later(tmp_path, personas, settings, expected):
    server = Server()
    with Ledger(tmp_path / "waves" / "journal.sqlite") as ledger:
        first = Cast(settings.roles, ledger, only=("user",), model=lambda role, name: Scripted())
        seen = []
        real = ledger.complete
        ledger.complete = lambda llm, request: seen.append(request) or real(llm, request)
        from aloe_jax.roles import derive_seed
        from datagen.conversations import plan

        name, persona = plan(personas, 6, 0)[2]
        first.user_message(persona, [], derive_seed(derive_seed(0, name, 0, 0), "user"))
        server.ignored = {seen[0].key(Scripted.name)}
    other = tmp_path / "other" / "journal.sqlite"
    with Ledger(other) as ledger:
        outcome = run(ledger, personas, settings.model_copy(update={"output": str(other.parent)}), server)
        assert (outcome.written, outcome.unreachable, outcome.left) == (5, 1, 0)
        assert server.sent[next(iter(server.ignored))] == waves.TRIES
        assert len(ledger.all(CONVERSATION)) == 5


def test_the_budget_stops_between_jobs(tmp_path, personas, settings):
    server = Server()
    with Ledger(tmp_path / "waves" / "journal.sqlite", budget=Budget(max_calls=20)) as ledger:
        outcome = run(ledger, personas, settings, server)
        assert "max_calls" in outcome.stopped and outcome.left == 6 - outcome.written
        assert server.sent.total() == 20 == sum(usage.calls for usage in ledger.usage().values())


def test_large_waves_are_cut_into_jobs_of_the_allowed_size(monkeypatch, tmp_path, personas, settings, expected):
    monkeypatch.setattr(waves, "JOB_BYTES", 3000)
    server = Server()
    with Ledger(tmp_path / "waves" / "journal.sqlite") as ledger:
        run(ledger, personas, settings, server)
        assert recorded_conversations(ledger, personas, settings) == expected
    assert len(server.jobs) > 25


def test_another_provider_is_refused_before_anything_is_sent(tmp_path, personas):
    settings = small_settings(tmp_path / "x", count=2)
    with (
        Ledger(tmp_path / "x" / "journal.sqlite") as ledger,
        pytest.raises(AloeError, match=r"roles\.user\.provider: conversations\.batch needs genai.*not scripted"),
    ):
        write_in_waves(ledger, personas, settings)


def test_a_job_that_fails_stops_the_run_and_is_sent_anew_by_the_next(tmp_path, personas, settings, expected):
    server = Server()
    server.failing = 2
    with Ledger(tmp_path / "waves" / "journal.sqlite") as ledger:
        for _ in range(2):
            with pytest.raises(JobFailedError, match="has expired"):
                run(ledger, personas, settings, server)
        run(ledger, personas, settings, server)
        assert recorded_conversations(ledger, personas, settings) == expected
    assert Counter(server.sent.values()) == {1: len(server.sent) - 6, 3: 6}


def test_waves_through_the_batch_api_give_what_single_calls_give(tmp_path, personas, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    found = {}
    with running(batch_seconds=0.1) as server:
        price = {"input": 1.0, "output": 1.0}
        roles = {"provider": "genai", "model": "plain", "endpoint": server.url, "price": price}
        for name in ("single", "batched"):
            made = small_settings(tmp_path / name, count=4, turns=1)
            made = made.model_copy(update={"roles": RolesSettings.model_validate(roles)})
            with Ledger(tmp_path / name / "journal.sqlite") as ledger:
                if name == "single":
                    write_conversations(ledger, Cast(made.roles, ledger, only=TALKING_ROLES), personas, made)
                else:
                    write_in_waves(ledger, personas, made, poll=0.05)
                costs = sum(usage.cost for usage in ledger.usage().values())
                found[name] = recorded_conversations(ledger, personas, made), costs
    assert found["single"][0] == found["batched"][0]
    assert found["batched"][1] == pytest.approx(found["single"][1] / 2)
