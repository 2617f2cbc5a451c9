"""The roles that language models play: per role a prompt, the form of its answer, and a typed call.

Prompts are the files prompts/<role>.md: the system text, a line `---`, the request; both are Jinja templates
over the inputs of the role. `known_persona` has a system text only, for a model under test that is shown the persona.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from typing import Annotated, Literal

import jinja2
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator

from aloe_jax.conversation import Message, Persona, is_whole
from aloe_jax.errors import AloeError
from aloe_jax.llm.answers import has_thinking, parse_answer
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import LLM, Request
from aloe_jax.llm.providers import check_price, language_model
from aloe_jax.llm.settings import RoleSettings, RolesSettings
from aloe_jax.speech import first_sentences, keep_quoted, without_stage_directions

ATTEMPTS = 3  # of one run at a role's answer that cannot be had, each with a seed of its own


class RoleError(AloeError):
    """A role's answer was blocked, or could not be read, and neither could its second attempt.

    `fresh` says whether this process asked a model for it: False when the answers came from the journal, so that an
    earlier run has met the same failure.
    """

    def __init__(self, message: str, fresh: bool = True) -> None:
        super().__init__(message)
        self.fresh = fresh


def derive_seed(*parts: str | int) -> int:
    """A seed from the names of what it is for: the same on every machine, a non-negative 31-bit integer."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def persistent[T](ask: Callable[[int], T], *parts: str | int, again: bool = True) -> T:
    """`ask(seed)` with one seed after the other, derived from `parts` and 0, 1, 2, …, until there is an answer.

    Every run makes up to ATTEMPTS fresh attempts. Seeds that failed in an earlier one are passed over, for the journal
    has their calls: so a run that was killed goes on with the seed at which it was, and one that gave up is followed
    by one with other seeds. The answer is that of the first seed that has one, whatever the runs. Raises the last
    RoleError.
    """
    fresh = 0
    for attempt in itertools.count():
        try:
            return ask(derive_seed(*parts, attempt))
        except RoleError as error:
            fresh += error.fresh or not again
            if fresh >= ATTEMPTS:
                raise
    raise AssertionError("seeds do not end")


# ---------------------------------------------------------------- forms of answers

# A form's JSON schema, title and docstring included, is part of the key under which the journal stores a call: changed,
# earlier journals no longer answer. So some titles are not the names of their classes.


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _clean(text: object) -> object:
    if not isinstance(text, str):
        return text
    # An emoji cut in two comes as an escape for half of it, which no file can hold.
    if not is_whole(text):
        raise ValueError("ends or breaks within a character")
    if "\0" in text:
        raise ValueError("has a character of value zero, which is none of a text's")
    return text.strip()


def _number(value: object) -> object:
    if isinstance(value, bool):  # which counts as 0 or 1 otherwise
        raise ValueError("should be a number, not true or false")
    return value


Text = Annotated[str, BeforeValidator(_clean)]
Spoken = Annotated[Text, Field(min_length=1)]

LONGEST_REPLY = 3  # sentences (arXiv 2410.03642, prompts of section 3)


class Texts(_Answer):
    """What the persona writer returns."""

    texts: list[Spoken] = Field(min_length=1)


class _Speech(_Answer):
    @field_validator("message", "reply", check_fields=False)
    @classmethod
    def _only_speech(cls, text: str) -> str:
        if has_thinking(text):
            raise ValueError("has thinking in it; write only what is said")
        # Remote models like to act ("*smiles*"); what a person would type is wanted.
        said = without_stage_directions(text)
        if not said:
            raise ValueError("has nothing but stage directions between asterisks; write what is said")
        return said


class UserMessage(_Speech):
    """What the user says next."""

    message: Spoken


class WrittenReply(_Speech):
    """What the responder answers."""

    model_config = ConfigDict(title="Reply")

    reply: Spoken
    _shortened: bool = PrivateAttr(default=False)  # no part of the form

    @property
    def shortened(self) -> bool:
        """Whether the responder wrote more than LONGEST_REPLY sentences twice, and this is the first of them."""
        return self._shortened


class Inferred(_Answer):
    """What the user's messages have revealed, in the persona's own words; empty when nothing has been."""

    profile: Text
    personality: Text


class PreferredReply(_Answer):
    """Which of two replies this user would prefer."""

    model_config = ConfigDict(title="Verdict")

    reason: Text = ""
    preferred: Literal["A", "B"]


class Rating(_Answer):
    """How well a reply suits the user, from 1 to 5."""

    reason: Text = ""
    rating: Annotated[int, BeforeValidator(_number)] = Field(ge=1, le=5)


class PreferredDialogue(_Answer):
    """Which of two assistants suits this user better, by their conversations."""

    model_config = ConfigDict(title="Comparison")

    reason: Text = ""
    preferred: Literal["A", "B", "tie"]


@cache
def _schema(form: type[BaseModel]) -> dict[str, object]:
    return form.model_json_schema()


# ---------------------------------------------------------------- prompts


def _prompt_file(role: str) -> bytes:
    return resources.files("aloe_jax").joinpath(f"prompts/{role}.md").read_bytes()


def prompt_digest(role: str) -> str:
    """A short digest of a role's prompt file: what its answers depend on besides model, settings and inputs."""
    return hashlib.sha256(_prompt_file(role)).hexdigest()[:16]


@cache
def _templates(role: str) -> tuple[jinja2.Template, jinja2.Template]:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    system, _, prompt = _prompt_file(role).decode().partition("\n---\n")
    return environment.from_string(system), environment.from_string(prompt)


_SPEAKERS = {"user": "User", "assistant": "Assistant"}


def transcript(messages: Sequence[Message]) -> str:
    """Messages as `User: ...` and `Assistant: ...` lines."""
    return "\n".join([f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages])


def render(role: str, inputs: Mapping[str, object]) -> tuple[str, str]:
    """The system text and the request of a role."""
    system, prompt = _templates(role)
    history = inputs.get("history")
    shown = {**inputs, "transcript": transcript(history)} if isinstance(history, list) else inputs
    return system.render(shown), prompt.render(shown)


# ---------------------------------------------------------------- the cast


class Cast:
    """The roles of a run, played by their configured models, every call kept in the ledger.

    All methods are functions of their arguments and the configured models alone: the same seed gives the same
    answer, whatever the order of the calls. They may be called from several threads, and raise RoleError when
    an answer cannot be read or was blocked, UnavailableError when a model is out of reach, and another
    AloeError when asking is no use.

    `only` names the roles that will be played; the others need no model. `model` makes the language model of a
    role. Raises AloeError when one of them lacks a model, a key, or, under a limit of dollars, a price.
    """

    def __init__(
        self,
        roles: RolesSettings,
        ledger: Ledger,
        only: Sequence[str] | None = None,
        model: Callable[[RoleSettings, str], LLM] | None = None,
    ) -> None:
        self._ledger = ledger
        self._roles: dict[str, tuple[LLM, RoleSettings]] = {}
        for name in only or RolesSettings.model_fields:
            role: RoleSettings = getattr(roles, name)
            if ledger.budget.max_cost is not None:
                check_price(role, name)
            llm = model(role, name) if model else language_model(role, name, ledger.count_fault)
            self._roles[name] = (llm, role)
        self._settings = roles

    def is_remote(self, name: str) -> bool:
        """Whether a role's answers have to be waited for."""
        return self._roles[name][1].entry.remote

    def describe(self, name: str, prompt_of: str | None = None) -> dict[str, object]:
        """What a role's answers depend on besides its inputs: its model, its settings and its prompt.

        `prompt_of`: the prompt of another name that it answers, the judge's `comparer`.
        """
        shaping = getattr(self._settings, name).shaping()
        return shaping | {"model": self._roles[name][0].name, "prompt": prompt_digest(prompt_of or name)}

    def write_profiles(self, examples: Sequence[str], count: int, seed: int) -> list[str]:
        """About `count` new profiles in the manner of the examples; possibly fewer, possibly near-copies."""
        return self._write("profile", examples, count, seed)

    def write_personalities(self, examples: Sequence[str], count: int, seed: int) -> list[str]:
        """About `count` new personalities in the manner of the examples."""
        return self._write("personality", examples, count, seed)

    def _write(self, kind: str, examples: Sequence[str], count: int, seed: int) -> list[str]:
        inputs = {"kind": kind, "examples": list(examples), "count": count}
        return self._ask("persona_writer", inputs, Texts, seed).texts[:count]

    def user_message(self, persona: Persona, history: Sequence[Message], seed: int) -> str:
        """What the persona says next. `history` is empty or ends with an assistant message."""
        return self._ask("user", _known(persona, history=list(history)), UserMessage, seed).message

    def infer(self, persona: Persona, user_messages: Sequence[str], seed: int) -> tuple[str, str]:
        """The parts of (profile, personality) that the user's messages reveal, in the persona's own words."""
        inputs = _known(persona, messages=list(user_messages))
        answer = self._ask("inducer", inputs, Inferred, seed, partial(_only_quoted, persona))
        return answer.profile, answer.personality

    def reply(self, history: Sequence[Message], hint: tuple[str, str] | None, seed: int, faithful: bool = False) -> str:
        """A reply to `history`, which ends with a user message.

        `hint` is what is known of (profile, personality), or None for a reply that knows only the messages.
        `faithful` asks that all of the hint be honoured wherever it bears on the reply: with the whole persona
        as the hint, that is the reference line of a responder who knows everything.
        """
        return self.written_reply(history, hint, seed, faithful).reply

    def written_reply(
        self,
        history: Sequence[Message],
        hint: tuple[str, str] | None,
        seed: int,
        faithful: bool = False,
        system_of: str | None = None,
    ) -> WrittenReply:
        """`reply`, with whether it was shortened. `system_of`: the prompt of another name whose system text it gets."""
        known, traits = hint or ("", "")
        inputs = {
            "history": list(history),
            "hinted": hint is not None,
            "profile": known,
            "personality": traits,
            "faithful": faithful,
        }
        return self._ask("responder", inputs, WrittenReply, seed, _short, system_of=system_of)

    def verify(self, persona: Persona, history: Sequence[Message], first: str, second: str, seed: int) -> Literal[0, 1]:
        """Which of two replies to `history` the persona would prefer: 0 the first, 1 the second."""
        inputs = _known(persona, history=list(history), first=first, second=second)
        return 0 if self._ask("verifier", inputs, PreferredReply, seed).preferred == "A" else 1

    def judge(self, persona: Persona, history: Sequence[Message], reply: str, seed: int) -> Rating:
        """Rate a reply to `history`, which ends with a user message, for this persona."""
        return self._ask("judge", _known(persona, history=list(history), reply=reply), Rating, seed)

    def compare(
        self, persona: Persona, first: Sequence[Message], second: Sequence[Message], seed: int
    ) -> PreferredDialogue:
        """Which of two dialogues with the persona has the assistant that suits it better; the judge is asked."""
        texts = {"first": transcript(first), "second": transcript(second)}
        inputs = _known(persona, dialogues=[list(first), list(second)], **texts)
        return self._ask("comparer", inputs, PreferredDialogue, seed, player="judge")

    def _ask[A: BaseModel](
        self,
        role: str,
        inputs: Mapping[str, object],
        form: type[A],
        seed: int,
        mend: Mend[A] | None = None,
        player: str | None = None,
        system_of: str | None = None,
    ) -> A:
        """Ask once, and once more when the answer cannot be read or `mend` finds a fault in it.

        `mend` returns an answer without the fault, and the fault: what is taken when the repair fails as well.
        `player` is the role whose model is asked, where that is not `role`, whose prompt it is.
        """
        llm, settings = self._roles[player or role]
        system, prompt = render(role, inputs)
        if system_of is not None:
            system, _ = render(system_of, inputs)
        request = Request(
            role, inputs, system, prompt, _schema(form), settings.temperature, seed, settings.thinking_budget
        )
        text, fresh = self._complete(llm, request, form, player or role)
        answer, fault = _read(form, text, mend)
        if not fault:
            assert answer is not None
            return answer
        # The repair is another question, so it has a key and a row in the ledger of its own.
        repair = (
            f"{request.prompt}\n\nYour previous answer was:\n{text}\n\nIt cannot be used: {fault}. "
            "Answer again, with nothing but the JSON object."
        )
        request = replace(request, prompt=repair)
        new = self._ledger.find_call(llm.name, request) is None
        try:
            text, asked = self._complete(llm, request, form, player or role)
        except RoleError as error:
            error.fresh |= fresh
            raise
        repaired, still = _read(form, text, mend)
        if still and new:  # a fault is counted by the run that met it
            self._ledger.count_fault(llm.name, role, f"answer: {fault}")
        answer = repaired or answer
        if answer is None:
            shown_text = " ".join(text.split())[:200]
            raise RoleError(f"{role} ({llm.name}): unusable answer twice, {still}: {shown_text!r}", fresh or asked)
        return answer

    def _complete(self, llm: LLM, request: Request, form: type[BaseModel], player: str) -> tuple[str, bool]:
        """The text of an answer, and whether this process asked for it."""
        completion = self._ledger.complete(llm, request)
        fresh = self._ledger.asked_now(llm.name, request)
        match completion.outcome:
            case "blocked" | "empty" | "unreadable":
                raise RoleError(f"{request.role} ({llm.name}): {completion.outcome} reply, {completion.detail}", fresh)
            case "truncated" if _read(form, completion.text, None)[1]:
                spent = completion.output_tokens  # 0 where the server does not say
                raise RoleError(
                    f"{request.role} ({llm.name}): truncated reply{f', {spent} tokens did not suffice' * bool(spent)}; "
                    f"raise roles.{player}.max_output_tokens",
                    fresh,
                )
        return completion.text, fresh


type Mend[A] = Callable[[A], tuple[A, str]]


def _read[A: BaseModel](form: type[A], text: str, mend: Mend[A] | None) -> tuple[A | None, str]:
    """The answer, mended where need be, and what is wrong with it ("" when nothing is)."""
    try:
        answer = parse_answer(form, text)
    except ValueError as error:
        return None, str(error)
    return mend(answer) if mend else (answer, "")


def _short(answer: WrittenReply) -> tuple[WrittenReply, str]:
    cut = first_sentences(answer.reply, LONGEST_REPLY)
    if cut == answer.reply:
        return answer, ""
    short = WrittenReply(reply=cut)
    short._shortened = True
    return short, f"the reply has more than {LONGEST_REPLY} sentences"


def _only_quoted(persona: Persona, answer: Inferred) -> tuple[Inferred, str]:
    profile, invented = keep_quoted(answer.profile, persona.profile)
    personality, more = keep_quoted(answer.personality, persona.personality)
    if not invented + more:
        return answer, ""
    return Inferred(profile=profile, personality=personality), "it has sentences that the description does not have"


def _known(persona: Persona, **inputs: object) -> dict[str, object]:
    return {"profile": persona.profile, "personality": persona.personality, **inputs}
