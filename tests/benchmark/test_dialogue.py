import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aloe_jax import config, roles
from aloe_jax.benchmark.candidates import ModelCandidate, ScriptedCandidate, path_tokens
from aloe_jax.benchmark.dialogue import Dialogue, Exchange, Reply, converse
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.models.fingerprint import fingerprint
from aloe_jax.roles import RoleError

PERSONAS = [Persona(id=f"p{i}", profile=f"profile {i}", personality=f"traits {i}") for i in range(4)]
END, USER, ASSISTANT = 1, 2, 3
SAMPLING = config.Sampling(max_new_tokens=6, max_length=1000)


class Cast:
    """A user whose message depends on everything it may depend on."""

    def __init__(self, mute=()):
        self.mute, self.calls = mute, 0

    def user_message(self, persona, history, seed):
        self.calls += 1
        if (persona.id, len(history) // 2) in self.mute:
            raise RoleError("user: unusable answer twice")
        return number([persona.model_dump(), history, seed])[:4]

    def reply(self, history, hint, seed, faithful=False):
        return number([history, hint, seed, faithful])[:5]


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
        self.die_after, self.sessions, self.replies = die_after, 0, 0

    def session(self, batch):
        self.sessions += 1
        return Session(self, batch)


class Session:
    def __init__(self, sampler, batch):
        self.sampler, self.rows = sampler, [[] for _ in range(batch)]

    def extend(self, new):
        assert len(new) == len(self.rows)
        for row, ids in zip(self.rows, new, strict=True):
            row.extend(ids)

    def reply(self, max_new_tokens, *, temperature, top_k, top_p, seeds, stop):
        if self.sampler.replies == self.sampler.die_after:
            raise KeyboardInterrupt
        self.sampler.replies += 1
        replies = []
        for row, seed in zip(self.rows, seeds, strict=True):
            text = number([row, seed])
            length = int(text[0], 16) % (max_new_tokens + 2)
            ids = [*map(ord, text[1 : 1 + length]), stop[0]][:max_new_tokens]
            row.extend(ids)
            replies.append(ids)
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


def talk(who, journal, personas=PERSONAS, turns=5, seed=0, cast=None, **more):
    with Ledger(journal) as ledger:
        return converse(who, personas, cast or Cast(), ledger, turns=turns, seed=seed, user={"model": "x"}, **more)


def test_dialogues_have_every_kind_of_reply(model, tmp_path):
    replies = [e.reply for d in talk(candidate(model), tmp_path / "j") for e in d.exchanges]
    assert len(replies) == 20
    assert any(reply.ids == (END,) and reply.text == "" for reply in replies)
    assert any(reply.ids[-1] != END for reply in replies)
    assert any(reply.ids[-1] == END and reply.text for reply in replies)


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
            def reply(self, *args, **kwargs):
                if self.sampler.replies == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().reply(*args, **kwargs)
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


def test_one_session_serves_all_turns(model, tmp_path):
    sampler = Sampler()
    talk(candidate(model, sampler), tmp_path / "j")
    assert sampler.sessions == 1


def test_more_cases_and_more_turns_continue_what_is_there(model, tmp_path):
    talk(candidate(model), tmp_path / "j", PERSONAS[1:3], turns=2)
    sampler = Sampler()
    assert talk(candidate(model, sampler), tmp_path / "j") == talk(candidate(model), tmp_path / "whole")
    assert sampler.sessions == 2  # two cases begin, then all four go on together


@pytest.mark.parametrize("change", ["file", "sampling", "seed", "persona", "user"])
def test_turns_made_under_other_conditions_are_not_reused(model, tmp_path, change):
    talk(candidate(model), tmp_path / "j")
    sampler, sampling, personas, seed, user = Sampler(), SAMPLING, PERSONAS, 0, {"model": "x"}
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
            user = {"model": "y"}
    with Ledger(tmp_path / "j") as ledger:
        converse(candidate(model, sampler, sampling), personas, Cast(), ledger, turns=5, seed=seed, user=user)
    assert sampler.replies == 5


def test_max_length_does_not_change_replies(model, tmp_path):
    first = talk(candidate(model), tmp_path / "j")
    longer = SAMPLING.model_copy(update={"max_length": 2000})
    assert talk(candidate(model, Sampler(), longer), tmp_path / "j") == first


def test_a_dialogue_that_outgrows_the_context_names_its_case(model, tmp_path):
    short = SAMPLING.model_copy(update={"max_length": 40})
    with pytest.raises(AloeError, match=r"case p\d, turn \d needs \d+ tokens .* raise sampling.max_length"):
        talk(candidate(model, Sampler(max_length=40), short), tmp_path / "j")
    talk(candidate(model), tmp_path / "j")


def test_a_mute_user_stops_its_own_case_only(model, tmp_path):
    whole = talk(candidate(model), tmp_path / "whole")
    found = talk(candidate(model), tmp_path / "j", cast=Cast(mute={("p1", 2)}))
    assert [len(d.exchanges) for d in found] == [5, 2, 5, 5]
    assert found[1].stopped.startswith("turn 3: ")
    assert [found[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]


def test_progress_counts_exchanges(model, tmp_path):
    seen = []
    talk(candidate(model), tmp_path / "j", progress=seen.append)
    assert seen == [0, 4, 8, 12, 16, 20]


def test_path_tokens_close_a_cut_reply():
    dialogue = Dialogue(PERSONAS[0], [Exchange("a", Reply("b", (98,))), Exchange("c", Reply("", (END,)))])
    expected = [USER, 97, END, ASSISTANT, 98, END, USER, 99, END, ASSISTANT, END, USER, 100, END, ASSISTANT]
    assert path_tokens(Template(), dialogue, "d") == expected


def test_the_informed_reference_is_given_the_persona(tmp_path):
    cast = Cast()
    generic, informed = (
        talk(ScriptedCandidate(kind, cast, {"model": "x"}), tmp_path / "j", cast=cast, turns=1)
        for kind in ("generic", "informed")
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
        cast = roles.Cast(config.Roles.model_validate({"provider": "scripted"}), ledger)
        user, judge = cast.describe("user"), cast.describe("judge")
    assert user["model"].startswith("scripted-") and user["temperature"] == 0.8
    assert judge["temperature"] == 0.0 and user["prompt"] != judge["prompt"]
