import hashlib
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from aloe_jax import roles
from aloe_jax.benchmark.candidates import ModelCandidate, ResponderCandidate, path_tokens
from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn, Journal
from aloe_jax.benchmark.runner import Conversing, waves
from aloe_jax.conversation import Persona
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.models.fingerprint import fingerprint
from aloe_jax.roles import RoleError, WrittenReply
from aloe_jax.sampling.generation import Generation
from aloe_jax.sampling.settings import SamplingSettings

PERSONAS = [Persona(id=f"p{i}", profile=f"profile {i}", personality=f"traits {i}") for i in range(4)]
END, USER, ASSISTANT = 1, 2, 3
SAMPLING = SamplingSettings(max_new_tokens=6, max_length=1000)


class Cast:
    """A user whose message depends on everything it may depend on."""

    def __init__(self, mute=()):
        self.mute, self.calls = mute, 0

    def user_message(self, persona, history, seed):
        self.calls += 1
        if (persona.id, len(history) // 2) in self.mute:
            raise RoleError("user: unusable answer twice")
        return number([persona.model_dump(), history, seed])[:4]

    def written_reply(self, history, hint, seed, faithful=False, system_of=None):
        return WrittenReply(reply=number([history, hint, seed, faithful])[:5])


class Template:
    """The shape of a chat template: `<user>text<end><assistant>reply<end>`, a token for every character."""

    stop = (END,)

    def continuation(self, messages):
        return [USER, *map(ord, messages[-1]["content"]), END, ASSISTANT]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i > 31)


class Sampler:
    """Replies follow from a row's whole token history and its seed alone; some are cut, some are empty."""

    def __init__(self, die_after=None, max_length=1000):
        self.max_length = max_length
        self.die_after, self.sessions, self.replies, self.fed, self.seen = die_after, 0, 0, 0, []

    def session(self, batch):
        self.sessions += 1
        return Session(self, batch)


class Session:
    def __init__(self, sampler, batch):
        self.sampler, self.rows = sampler, [[] for _ in range(batch)]

    def replace(self, row, ids):
        self.sampler.fed += len(ids) - len(self.rows[row]) if ids[: len(self.rows[row])] == self.rows[row] else len(ids)
        self.rows[row] = list(ids)

    def replies(self, max_new_tokens, *, temperature, top_k, top_p, min_p, repetition_penalty, seeds, stop):
        if self.sampler.replies == self.sampler.die_after:
            raise KeyboardInterrupt
        self.sampler.replies += 1
        self.sampler.seen.append(list(self.rows))
        replies = []
        for row, seed in zip(self.rows, seeds, strict=True):
            text = number([row, seed])
            length = int(text[0], 16) % (max_new_tokens + 2)
            ids = [*map(ord, text[1 : 1 + length]), stop[0]][:max_new_tokens]
            row.extend(ids)
            replies.append(Generation(ids, "stop" if ids[-1] in stop else "max_new_tokens"))
        return replies


def number(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def candidate(folder, sampler=None, sampling=SAMPLING):
    sampler = sampler or Sampler()
    return ModelCandidate(folder, sampling, load=lambda path, sampling: (sampler, Template()))


def talk(who, journal, personas=PERSONAS, turns=5, seed=0, cast=None, user="x", waits=False, **more):
    with Ledger(journal) as ledger:
        kept = Journal(ledger, who.identity, {"model": user}, seed, personas)
        settings = {"turns": turns, "seed": seed, "concurrency": 3, "waits": waits}
        return Conversing(who, personas, cast or Cast(), kept, **settings, **more).run()


def test_dialogues_have_every_kind_of_reply(model, tmp_path):
    replies = [e.reply for d in talk(candidate(model), tmp_path / "j") for e in d.exchanges]
    assert len(replies) == 20
    assert any(reply.ids == (END,) and reply.text == "" for reply in replies)
    assert any(reply.ids[-1] != END for reply in replies)
    assert any(reply.ids[-1] == END and reply.text for reply in replies)
    for reply in replies:
        assert reply.ended == ("stop" if reply.ids[-1] == END else "max_new_tokens")


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_killed_run_goes_on_to_the_same_dialogues(model, tmp_path, after):
    whole = talk(candidate(model), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        talk(candidate(model, Sampler(die_after=after)), tmp_path / "j")
    rest = Sampler()
    assert talk(candidate(model, rest), tmp_path / "j") == whole
    assert rest.replies == 5 - after


def test_sigkill_loses_no_finished_turn(tmp_path):
    code = f"""
        import os, signal
        from pathlib import Path
        from test_dialogue import *
        class Dying(Session):
            def replies(self, *args, **kwargs):
                if self.sampler.replies == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().replies(*args, **kwargs)
        sampler = Sampler()
        sampler.session = lambda batch: Dying(sampler, batch)
        folder = Path({str(tmp_path)!r}) / "model"
        folder.mkdir()
        (folder / "config.json").write_text("{{}}")
        talk(candidate(folder, sampler), folder.parent / "j")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parent, check=False, timeout=60
    )
    assert run.returncode == -9
    rest = Sampler()
    resumed = talk(candidate(tmp_path / "model", rest), tmp_path / "j")
    assert rest.replies == 3
    assert resumed == talk(candidate(tmp_path / "model"), tmp_path / "other")


def test_a_finished_dialogue_loads_no_model_and_asks_nobody(model, tmp_path):
    first = talk(candidate(model), tmp_path / "j")
    sampler, cast = Sampler(), Cast()
    assert talk(candidate(model, sampler), tmp_path / "j", cast=cast) == first
    assert (sampler.sessions, cast.calls) == (0, 0)


def test_one_session_serves_all_turns_and_computes_a_token_once(model, tmp_path):
    sampler = Sampler()
    dialogues = talk(candidate(model, sampler), tmp_path / "j")
    assert sampler.sessions == 1
    last = [path_tokens(Template(), Dialogue(d.persona, d.exchanges[:-1]), d.exchanges[-1].user) for d in dialogues]
    drawn = sum(len(exchange.reply.ids) for d in dialogues for exchange in d.exchanges[:-1])
    assert sampler.fed == sum(map(len, last)) - drawn


def test_two_lanes_and_small_waves_say_the_same(model, tmp_path):
    whole = talk(candidate(model), tmp_path / "whole")
    for rows, waits, sessions in ((4, True, 2), (2, False, 2), (2, True, 4), (3, True, 4), (1, False, 4)):
        sampler = Sampler()
        few = candidate(model, sampler, SAMPLING.model_copy(update={"rows": rows}))
        assert talk(few, tmp_path / f"{rows}{waits}", waits=waits) == whole
        assert sampler.sessions == sessions
        assert len({len(batch) for batch in sampler.seen}) == 1  # one size of session: one compile


@pytest.mark.parametrize(
    ("cases", "rows", "lanes", "expected"),
    [
        (100, 64, 1, [[50], [50]]),
        (100, 64, 2, [[25, 25], [25, 25]]),
        (100, 128, 2, [[50, 50]]),
        (7, 3, 1, [[3], [3], [1]]),
        (1, 64, 2, [[1]]),
        (3, None, 2, [[1, 1, 1]]),
    ],
)
def test_lanes(cases, rows, lanes, expected):
    plan = waves(cases, rows, lanes)
    assert [[len(lane) for lane in wave] for wave in plan] == expected
    assert [case for wave in plan for lane in wave for case in lane] == list(range(cases))


def test_more_cases_and_more_turns_continue_what_is_there(model, tmp_path):
    talk(candidate(model), tmp_path / "j", PERSONAS[1:3], turns=2)
    assert talk(candidate(model), tmp_path / "j") == talk(candidate(model), tmp_path / "whole")


@pytest.mark.parametrize("change", ["file", "sampling", "seed", "persona", "user"])
def test_turns_made_under_other_conditions_are_not_reused(model, tmp_path, change):
    talk(candidate(model), tmp_path / "j")
    sampler, sampling, personas, seed, user = Sampler(), SAMPLING, PERSONAS, 0, "x"
    match change:
        case "file":
            (model / "config.json").write_text("{ }")
        case "sampling":
            sampling = SAMPLING.model_copy(update={"temperature": 0.5})
        case "seed":
            seed = 1
        case "persona":
            personas = [p.model_copy(update={"profile": "another"}) for p in PERSONAS]
        case "user":
            user = "y"
    talk(candidate(model, sampler, sampling), tmp_path / "j", personas, seed=seed, user=user)
    assert sampler.replies == 5


def test_max_length_and_rows_do_not_change_replies(model, tmp_path):
    first = talk(candidate(model), tmp_path / "j")
    sampler, longer = Sampler(), SAMPLING.model_copy(update={"max_length": 2000, "rows": 3})
    assert talk(candidate(model, sampler, longer), tmp_path / "j") == first
    assert sampler.replies == 0


def test_a_dialogue_that_outgrows_the_context_stops_and_touches_no_other(model, tmp_path):
    whole = talk(candidate(model), tmp_path / "whole")
    longest = [len(path_tokens(Template(), Dialogue(d.persona, d.exchanges[:4]), d.exchanges[4].user)) for d in whole]
    room = max(longest) - 1 + SAMPLING.max_new_tokens + 1
    found = talk(candidate(model, Sampler(max_length=room)), tmp_path / "j")
    over = [length == max(longest) for length in longest]
    assert [d.stopped is not None for d in found] == over and not all(over)
    for d, before, stopped in zip(found, whole, over, strict=True):
        assert d.exchanges == (before.exchanges[:4] if stopped else before.exchanges)
    needed = f"turn 5: {room + 1} tokens of context are needed, {room} are there"
    assert all(d.stopped.startswith(needed) for d in found if d.stopped)
    assert talk(candidate(model), tmp_path / "j") == whole  # with more room it goes on


def test_a_mute_user_stops_its_own_case_only(model, tmp_path):
    whole = talk(candidate(model), tmp_path / "whole")
    found = talk(candidate(model), tmp_path / "j", cast=Cast(mute={("p1", 2)}))
    assert [len(d.exchanges) for d in found] == [5, 2, 5, 5]
    assert found[1].stopped.startswith("turn 3: ")
    assert [found[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]


def test_every_finished_turn_is_told_once_journaled_or_not(model, tmp_path):
    expected = sorted((persona.id, turn) for persona in PERSONAS for turn in range(5))
    for who in (candidate(model), candidate(model), ResponderCandidate(Cast(), {"model": "y"})):
        told = []
        talk(who, tmp_path / "j", finished=lambda dialogue, turn, told=told: told.append((dialogue.persona.id, turn)))
        assert sorted(told) == expected


class Slow(Cast):
    """Users who take their time, and note how many speak at once, and whether the model works meanwhile."""

    def __init__(self):
        super().__init__()
        self.speaking, self.most, self.lock, self.model_busy, self.overlap = 0, 0, threading.Lock(), False, 0

    def user_message(self, persona, history, seed):
        with self.lock:
            self.speaking += 1
            self.most = max(self.most, self.speaking)
        time.sleep(0.01)
        with self.lock:
            self.speaking -= 1
            self.overlap += self.model_busy
        return super().user_message(persona, history, seed)


@pytest.mark.parametrize("waits", [True, False])
def test_users_speak_while_the_model_writes(model, tmp_path, waits):
    cast = Slow()

    class Working(Session):
        def replies(self, *args, **kwargs):
            cast.model_busy = True
            time.sleep(0.03)
            cast.model_busy = False
            return super().replies(*args, **kwargs)

    sampler = Sampler()
    sampler.session = lambda batch: Working(sampler, batch)
    found = talk(candidate(model, sampler), tmp_path / "j", cast=cast, waits=waits)
    assert found == talk(candidate(model), tmp_path / "whole")
    assert (cast.overlap > 0) == waits
    assert 1 < cast.most <= 3


def test_an_error_of_a_user_ends_the_run_and_keeps_what_is_done(model, tmp_path):
    class Lost(Cast):
        def user_message(self, persona, history, seed):
            if len(history) == 4 and persona.id == "p3":
                raise UnavailableError("user: no answer in 8 attempts")
            return super().user_message(persona, history, seed)

    for who in (candidate(model), ResponderCandidate(Cast(), {"model": "y"})):
        with pytest.raises(UnavailableError, match="no answer"):
            talk(who, tmp_path / "j", cast=Lost())
        cast = Cast()
        assert talk(who, tmp_path / "j", cast=cast) == talk(who, tmp_path / f"whole {who.rows}")
        assert cast.calls <= 12


def test_a_candidate_that_cannot_reply_stops_its_own_case_only(tmp_path):
    class Blocked(Cast):
        def written_reply(self, history, hint, seed, faithful=False, system_of=None):
            if len(history) == 5 and history[0]["content"] == first:
                raise RoleError("responder: blocked reply")
            return super().written_reply(history, hint, seed, faithful)

    whole = talk(ResponderCandidate(Cast(), {"model": "y"}), tmp_path / "whole")
    first = whole[1].exchanges[0].user
    found = talk(ResponderCandidate(Blocked(), {"model": "y"}), tmp_path / "j")
    assert [len(d.exchanges) for d in found] == [5, 2, 5, 5]
    assert found[1].stopped == "turn 3: no reply: responder: blocked reply"
    assert [found[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]


def test_path_tokens_close_a_cut_reply():
    dialogue = Dialogue(
        PERSONAS[0], [DialogueTurn("a", CandidateReply("b", (98,))), DialogueTurn("c", CandidateReply("", (END,)))]
    )
    expected = [USER, 97, END, ASSISTANT, 98, END, USER, 99, END, ASSISTANT, END, USER, 100, END, ASSISTANT]
    assert path_tokens(Template(), dialogue, "d") == expected


def test_the_informed_reference_is_given_the_persona(tmp_path):
    cast = Cast()
    generic, informed = (
        talk(ResponderCandidate(cast, {"knows": knows}, knows), tmp_path / "j", cast=cast, turns=1)
        for knows in (False, True)
    )
    assert [d.exchanges[0].user for d in generic] == [d.exchanges[0].user for d in informed]
    assert all(g.exchanges[0].reply != i.exchanges[0].reply for g, i in zip(generic, informed, strict=True))


def test_fingerprint_of_a_run_follows_its_newest_checkpoint(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoints/{step}/params").mkdir(parents=True)
        (tmp_path / f"checkpoints/{step}/params/data").write_text("x")
    (tmp_path / "spec.json").write_text("{}")
    before = fingerprint(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/report.html").write_text("x")
    (tmp_path / "checkpoints/9/params/data").unlink()
    assert fingerprint(tmp_path) == before
    (tmp_path / "checkpoints/10/params/data").write_text("xy")
    assert fingerprint(tmp_path) != before


def test_roles_are_described_by_model_settings_and_prompt(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        cast = roles.Cast(RolesSettings.model_validate({"provider": "scripted"}), ledger)
        user, judge = cast.describe("user"), cast.describe("judge")
    assert user["model"].startswith("scripted-") and user["temperature"] == 0.8
    assert judge["temperature"] == 0.0 and user["prompt"] != judge["prompt"]
