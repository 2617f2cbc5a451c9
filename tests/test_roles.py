"""Roles: prompts that hold their inputs, answers that are read, repaired once, or refused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax import roles
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.llm.world import seed_personalities, seed_profiles
from aloe_jax.llm.world.persona_texts import read_profile
from aloe_jax.roles import (
    Cast,
    Inferred,
    PreferredDialogue,
    PreferredReply,
    Rating,
    RoleError,
    Texts,
    UserMessage,
    WrittenReply,
    derive_seed,
    parse_answer,
)
from tests.players import SCRIPTED

PERSONA = Persona(id="p", profile=seed_profiles()[0], personality=seed_personalities()[0])
HISTORY = [
    {"role": "user", "content": "I keep a {{ goat }}. What should I cook?"},
    {"role": "assistant", "content": "Sure. Try a bowl of leftovers."},
    {"role": "user", "content": "Facts only. What can I sip?"},
]


class Recited:
    """Answers with the given texts in turn and remembers what it was asked."""

    name = "recited"

    def __init__(self, *texts: str | Completion) -> None:
        self.texts, self.asked = list(texts), []

    def complete(self, request: Request) -> Completion:
        self.asked.append(request)
        given = self.texts.pop(0)
        return given if isinstance(given, Completion) else Completion(given)


@pytest.fixture
def cast_of(tmp_path, monkeypatch):
    ledgers = []

    def build(llm=None):
        if llm is not None:
            monkeypatch.setattr(roles, "language_model", lambda role, name, on_fault: llm)
        ledgers.append(Ledger(tmp_path / f"{len(ledgers)}.sqlite"))
        return Cast(SCRIPTED, ledgers[-1])

    yield build
    for ledger in ledgers:
        ledger.close()


def cast_of_next_process(tmp_path, llm):
    """A cast on a journal file that was there before, opened anew as another process would."""
    ledger = Ledger(tmp_path / "shared.sqlite")
    return Cast(SCRIPTED, ledger, model=lambda role, name: llm), ledger


def test_seeds_are_stable_and_told_apart():
    assert derive_seed("user", 3) == derive_seed("user", 3) == 907632971
    parts = [("a", 1), ("a", "1"), ("a1",), (1, "a"), ("a", 1, 1), ("a,1",)]
    assert len({derive_seed(*part) for part in parts}) == len(parts)
    assert all(0 <= derive_seed(number) < 2**31 for number in range(1000))


# ---------------------------------------------------------------- reading answers


@pytest.mark.parametrize(
    "text",
    [
        '{"reply": "Yes."}',
        '```json\n{"reply": "Yes."}\n```',
        '```\n{"reply": " Yes. "}```',
        'Here it is:\n{"reply": "Yes.", "mood": 3}\nI hope it helps.',
        '{"reply": "Yes."}\nI hope {that} helps.',
        '\n\n  {"reply": "Yes."}  ',
    ],
)
def test_answers_are_found_in_what_surrounds_them(text):
    assert parse_answer(WrittenReply, text) == WrittenReply(reply="Yes.")


@pytest.mark.parametrize(
    ("form", "text", "fault"),
    [
        (WrittenReply, "Yes.", "no JSON object"),
        (WrittenReply, "", "no JSON object"),
        (WrittenReply, '{"reply": "  "}', "reply: "),
        (WrittenReply, '{"answer": "Yes."}', "reply: field required"),
        (WrittenReply, '{"reply": "*smiles*"}', "asterisks"),
        (UserMessage, '{"message": "*waves* *nods*"}', "asterisks"),
        (WrittenReply, '{"reply": "Yes."', "not valid JSON"),
        (WrittenReply, '{"reply": "Yes}', "not valid JSON"),
        (WrittenReply, '{"reply": ' + "[" * 100_000, "not valid JSON"),
        (WrittenReply, '{"reply": "Yes. \\ud83d"}', "within a character"),
        (Rating, '{"rating": 6}', "rating: "),
        (Rating, '{"rating": "good"}', "rating: "),
        (Texts, '{"texts": []}', "texts: "),
        (Inferred, '{"profile": ""}', "personality: field required"),
        (PreferredReply, '{"preferred": "a"}', "preferred: input should be 'A' or 'B'"),  # which the repair quotes
        (PreferredDialogue, '{"preferred": "both"}', "input should be 'A', 'B' or 'tie'"),
        (WrittenReply, '{"reply": "<think>Be nice.</think> Hello."}', "reply: has thinking in it"),
        (WrittenReply, '{"reply": "Be nice.\\n</think>\\nHello."}', "reply: has thinking in it"),
        (UserMessage, '{"message": "[THINK]I am shy."}', "message: has thinking in it"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(form, text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_answer(form, text)


def test_tags_of_thinking_may_be_spoken_of():
    text = "In HTML <think> and </think> mean nothing."
    assert parse_answer(WrittenReply, json.dumps({"reply": text})).reply == text


def test_a_rating_in_quotes_and_empty_inferences_are_accepted():
    assert parse_answer(Rating, '{"rating": "4"}').rating == 4
    assert parse_answer(Inferred, '{"profile": "", "personality": " "}') == Inferred(profile="", personality="")


@given(st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text):
    for given_text in (text, f"{{{text}}}", f'{{"reply": {json.dumps(text)}}}'):
        try:
            assert parse_answer(WrittenReply, given_text).reply
        except ValueError as error:
            assert str(error)


# ---------------------------------------------------------------- asking


def test_an_unreadable_answer_is_repaired_once_and_not_asked_for_again(cast_of):
    llm = Recited("I would say: tea.", '{"reply": "Tea."}')
    cast = cast_of(llm)
    assert cast.reply(HISTORY, None, 1) == "Tea."
    first, second = llm.asked
    assert second.prompt.startswith(first.prompt)
    assert "I would say: tea." in second.prompt and "no JSON object" in second.prompt
    assert first.key("m") != second.key("m")
    assert cast.reply(HISTORY, None, 1) == "Tea." and len(llm.asked) == 2


def test_two_unreadable_answers_are_an_error_that_shows_the_answer(cast_of):
    cast = cast_of(Recited("No.", "Never!\nEver."))
    with pytest.raises(RoleError, match=r"judge \(recited\): unusable answer twice, .*'Never! Ever.'") as caught:
        cast.judge(PERSONA, HISTORY, "Tea.", 1)
    assert isinstance(caught.value, AloeError) and "\n" not in str(caught.value)


def faults(cast: Cast) -> dict[str, dict[str, int]]:
    return cast._ledger.faults()


LONG = '{"reply": "One. Two! Three? Four. Five."}'


def test_a_long_reply_is_asked_for_again_and_cut_when_that_fails(cast_of):
    llm = Recited(LONG, '{"reply": "Short."}')
    cast = cast_of(llm)
    assert cast.reply(HISTORY, None, 1) == "Short." and faults(cast) == {}
    assert "more than 3 sentences" in llm.asked[1].prompt

    for second in (LONG, "no JSON at all"):
        cast = cast_of(Recited(LONG, second))
        for _ in range(2):  # from the journal it is cut again, and not counted again
            assert cast.reply(HISTORY, None, 1) == "One. Two! Three?"
        assert faults(cast) == {"recited/responder": {"answer: the reply has more than 3 sentences": 1}}


def test_what_was_acted_is_removed(cast_of):
    cast = cast_of(Recited('{"message": "*sighs* I am *so* tired. *yawns*"}'))
    assert cast.user_message(PERSONA, [], 1) == "I am so tired."


def test_only_what_the_persona_says_is_inferred(cast_of):
    fact = PERSONA.profile.split(". ")[0] + "."
    invented = json.dumps({"profile": f"{fact} She owns a submarine.", "personality": ""})
    cast = cast_of(Recited(invented, json.dumps({"profile": fact, "personality": ""})))
    assert cast.infer(PERSONA, ["hi"], 1) == (fact, "")
    cast = cast_of(Recited(invented, invented))
    assert cast.infer(PERSONA, ["hi"], 1) == (fact, "")
    (counted,) = faults(cast)["recited/inducer"].items()
    assert "does not have" in counted[0] or "do not have" in counted[0]


@pytest.mark.parametrize(
    ("completion", "told"),
    [
        (Completion("", outcome="blocked", detail="SAFETY"), r"responder \(recited\): blocked reply, SAFETY"),
        (Completion("", outcome="empty", detail="no candidates"), r"responder \(recited\): empty reply, no candidates"),
        (
            Completion('{"reply": "I th', 9, 50, "truncated"),
            r"50 tokens did not suffice; raise roles\.responder\.max_out",
        ),
        (  # of a server that counts no tokens
            Completion('{"reply": "I th', 0, 0, "truncated"),
            r"responder \(recited\): truncated reply; raise roles\.responder\.max_out",
        ),
    ],
)
def test_an_answer_that_is_none_is_not_asked_for_again(cast_of, completion, told):
    llm = Recited(completion)
    cast = cast_of(llm)
    for _ in range(2):
        with pytest.raises(RoleError, match=told):
            cast.reply(HISTORY, None, 1)
    assert len(llm.asked) == 1


def test_a_truncated_answer_that_is_whole_is_taken(cast_of):
    assert cast_of(Recited(Completion('{"reply": "Tea."} and', outcome="truncated"))).reply(HISTORY, None, 1) == "Tea."


def test_a_limit_of_dollars_needs_prices(tmp_path):
    remote = RolesSettings.model_validate({"provider": "openai", "model": "m", "endpoint": "http://127.0.0.1:9/v1"})
    with Ledger(tmp_path / "j", budget=Budget(max_cost=1.0)) as ledger:
        with pytest.raises(AloeError, match=r"roles\.user\.price: max_cost needs the price"):
            Cast(remote, ledger, only=("user",))
        assert Cast(SCRIPTED, ledger).user_message(PERSONA, [], 1)


def asked(cast_of, answer, call):
    llm = Recited(json.dumps(answer))
    call(cast_of(llm))
    return llm.asked[0]


def test_prompts_hold_what_the_role_may_know_and_nothing_else(cast_of):
    user = asked(cast_of, {"message": "m"}, lambda cast: cast.user_message(PERSONA, HISTORY[:2], 1))
    assert PERSONA.profile in user.system and PERSONA.personality in user.system
    assert "User: I keep a {{ goat }}." in user.prompt and "Assistant: Sure." in user.prompt
    opening = asked(cast_of, {"message": "m"}, lambda cast: cast.user_message(PERSONA, [], 1))
    assert "first message" in opening.prompt and "so far" not in opening.prompt

    plain = asked(cast_of, {"reply": "r"}, lambda cast: cast.reply(HISTORY, None, 1))
    hinted = asked(cast_of, {"reply": "r"}, lambda cast: cast.reply(HISTORY, ("She keeps a goat.", ""), 1))
    assert "Facts only." in plain.prompt and "picture" not in plain.system + plain.prompt
    assert "She keeps a goat." in hinted.system and "nothing yet" in hinted.system
    assert plain.prompt == hinted.prompt

    inducer = asked(cast_of, {"profile": "", "personality": ""}, lambda cast: cast.infer(PERSONA, ["One.", "Two."], 1))
    assert "1. One.\n2. Two.\n" in inducer.prompt and PERSONA.profile in inducer.prompt
    for answer, call in (
        ({"preferred": "B"}, lambda cast: cast.verify(PERSONA, HISTORY, "FIRST", "SECOND", 1)),
        ({"rating": 3}, lambda cast: cast.judge(PERSONA, HISTORY, "FIRST", 1)),
    ):
        request = asked(cast_of, answer, call)
        assert PERSONA.profile in request.prompt and PERSONA.personality in request.prompt
        assert "FIRST" in request.prompt and "What can I sip?" in request.prompt
        assert request.temperature == 0.0

    writer = asked(cast_of, {"texts": ["t"]}, lambda cast: cast.write_profiles(["EXAMPLE"], 7, 1))
    assert "7 new profiles" in writer.prompt and "- EXAMPLE\n" in writer.prompt
    writer = asked(cast_of, {"texts": ["t"]}, lambda cast: cast.write_personalities(["EXAMPLE"], 7, 1))
    assert "7 new personalities" in writer.prompt


def test_everything_a_scripted_answer_depends_on_is_in_the_key(cast_of):
    llm = Recited(*['{"reply": "r"}'] * 4)
    cast = cast_of(llm)
    hint = (PERSONA.profile, PERSONA.personality)
    for call in ((None, 1, False), (hint, 1, False), (hint, 1, True), (hint, 2, False)):
        cast.reply(HISTORY, *call)
    assert len({request.key("m") for request in llm.asked}) == 4


def test_all_prompts_say_json_and_name_every_field():
    forms = {
        "persona_writer": Texts,
        "user": UserMessage,
        "inducer": Inferred,
        "responder": WrittenReply,
        "verifier": roles.PreferredReply,
        "judge": Rating,
    }
    assert forms.keys() == RolesSettings.model_fields.keys()
    for role, form in forms.items():
        source = roles._prompt_file(role).decode()
        assert source.count("\n---\n") == 1
        for field in form.model_fields:
            assert f'"{field}":' in source


# ---------------------------------------------------------------- the scripted cast


def test_the_scripted_cast_plays_a_conversation_the_same_way_twice(cast_of):
    def play(cast):
        history, said = [], []
        for turn in range(4):
            user = cast.user_message(PERSONA, history, derive_seed("user", turn))
            history.append({"role": "user", "content": user})
            said.append(user)
            hint = cast.infer(PERSONA, said, derive_seed("infer", turn))
            pair = [cast.reply(history, given, derive_seed("reply", turn)) for given in (hint, None)]
            best = cast.verify(PERSONA, history, *pair, derive_seed("verify", turn))
            rating = cast.judge(PERSONA, history, pair[best], 0)
            assert 1 <= rating.rating <= 5 and rating.reason.startswith("Simulated")
            history.append({"role": "assistant", "content": pair[best]})
        return history

    assert play(cast_of()) == play(cast_of())


def test_who_knows_the_persona_and_is_faithful_gets_the_best_rating(cast_of):
    cast = cast_of()
    history = [{"role": "user", "content": cast.user_message(PERSONA, [], 1)}]
    reply = cast.reply(history, (PERSONA.profile, PERSONA.personality), 1, faithful=True)
    assert cast.judge(PERSONA, history, reply, 0).rating == 5


def test_written_personas_resemble_the_examples_and_stay_within_the_count(cast_of):
    cast = cast_of()
    profiles = cast.write_profiles(seed_profiles(), 20, 5)
    assert len(profiles) == 20 and all(len(read_profile(profile)) == 10 for profile in profiles)
    assert profiles != cast.write_profiles(seed_profiles(), 20, 6)
    assert len(cast.write_personalities(seed_personalities(), 7, 5)) == 7


# ---------------------------------------------------------------- failures that are met again


BLOCKED = Completion("", outcome="blocked", detail="SAFETY")
UNREADABLE = Completion("half \ufffd", outcome="unreadable", detail="the reply breaks within a character")
TRUNCATED = Completion('{"reply": "I th', 9, 50, "truncated")


@pytest.mark.parametrize(
    "answers",
    [
        [BLOCKED],
        [Completion("", outcome="empty", detail="STOP")],
        [UNREADABLE],
        [TRUNCATED],
        [Completion(f"<think>{LONG}", outcome="truncated")],
        ["No.", "Never."],
        ["No.", BLOCKED],
        ["No.", UNREADABLE],
        ["No.", TRUNCATED],
    ],
    ids=repr,
)
def test_a_failure_is_fresh_when_this_process_asked_and_not_when_an_earlier_one_did(tmp_path, answers):
    llm = Recited(*answers)
    messages = []
    for process in (1, 2):
        cast, ledger = cast_of_next_process(tmp_path, llm)
        with ledger:
            for _ in range(2):
                with pytest.raises(RoleError) as caught:
                    cast.reply(HISTORY, None, 1)
                assert caught.value.fresh is (process == 1) and len(llm.asked) == len(answers)
                messages.append(str(caught.value))
    assert len({*messages}) == 1 and "\n" not in messages[0]


@pytest.mark.parametrize("second", ["Never.", BLOCKED, UNREADABLE, TRUNCATED], ids=repr)
def test_a_failure_is_fresh_when_only_the_repair_was_asked(tmp_path, second):
    llm = Recited("No.")
    cast, ledger = cast_of_next_process(tmp_path, llm)
    with ledger, pytest.raises(IndexError):  # the process ends before the repair is answered
        cast.reply(HISTORY, None, 1)
    llm.texts = [second]
    for fresh in (True, False):
        cast, ledger = cast_of_next_process(tmp_path, llm)
        with ledger, pytest.raises(RoleError) as caught:
            cast.reply(HISTORY, None, 1)
        assert caught.value.fresh is fresh


def test_a_role_error_by_itself_is_fresh():
    assert RoleError("why").fresh


def test_the_budget_for_thinking_is_in_the_key_and_without_one_keys_are_as_ever():
    request = Request("judge", {}, "s", "p", {"type": "object"}, 0.5, 7)
    assert request.key("m") == "b332aca86b4f80cb2f2791b52f0c181f0389952381e2076e96fe785ce375f66f"
    keys = {dataclasses.replace(request, thinking_budget=budget).key("m") for budget in (None, 0, 64, 128)}
    assert len(keys) == 4 and request.key("m") in keys


def test_a_roles_budget_for_thinking_is_in_its_requests(tmp_path):
    given = {"provider": "genai", "model": "m", "endpoint": "http://127.0.0.1:9", "judge": {"thinking_budget": 64}}
    settings = RolesSettings.model_validate(given)
    llm = Recited("?", '{"rating": 3}', '{"reply": "r"}')
    with Ledger(tmp_path / "j") as ledger:
        cast = Cast(settings, ledger, model=lambda role, name: llm)
        cast.judge(PERSONA, HISTORY, "Tea.", 1)
        cast.reply(HISTORY, None, 1)
    assert [request.thinking_budget for request in llm.asked] == [64, 64, None]


def test_drafts_and_thoughts_reach_nobody(cast_of):
    cast = cast_of(Recited('<think>{"reply": "Draft."}</think>\n{"reply": "Tea."}'))
    assert cast.reply(HISTORY, None, 1) == "Tea."
    cast = cast_of(Recited(Completion('{"reply": "Draft."} or rather {"reply": "Better', 1, 1, "truncated")))
    with pytest.raises(RoleError, match="did not suffice"):
        cast.reply(HISTORY, None, 1)
