"""What the benchmark talks to: a trained model, a remote one, or a scripted responder as a reference line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, NoReply
from aloe_jax.benchmark.settings import Sees
from aloe_jax.conversation import Message, Persona
from aloe_jax.roles import Cast, RoleError, persistent, prompt_digest, render
from aloe_jax.sampling.settings import PLACEMENT, SamplingSettings
from aloe_jax.storage.files import as_path, resolved

if TYPE_CHECKING:
    from aloe_jax.data.template import ChatTemplate
    from aloe_jax.sampling.generation import Generation
    from aloe_jax.sampling.sampler import Sampler
    from aloe_jax.sampling.session import Session

Load = Callable[[str | Path, SamplingSettings], "tuple[Sampler, ChatTemplate]"]


class ModelCandidate:
    """A model directory, loaded when its first reply is asked for: a journaled dialogue needs no model."""

    def __init__(
        self, path: str | Path, sampling: SamplingSettings, load: Load | None = None, sees: Sees = "history"
    ) -> None:
        from aloe_jax.models.fingerprint import fingerprint  # which loads JAX

        self.path, self.sampling, self.sees = as_path(path), sampling, sees
        settings = sampling.model_dump(exclude=set(PLACEMENT))
        self.identity: dict[str, object] = {
            "path": str(resolved(self.path)),
            "files": fingerprint(path),
            "sampling": settings,
            **identity_of(sees),
        }
        self.rows: int | None = sampling.rows
        self._load = load or _load_sampler
        self._parts: tuple[Sampler, ChatTemplate] | None = None
        self._loading = threading.Lock()

    def partner(self, rows: int) -> SessionPartner:
        """A session of `rows` dialogues."""
        return SessionPartner(self, rows)

    def parts(self) -> tuple[Sampler, ChatTemplate]:
        """The sampler and the chat template."""
        with self._loading:
            if self._parts is None:
                self._parts = self._load(self.path, self.sampling)
            return self._parts


class SessionPartner:
    """Replies of a model in one session, whose key–value cache is kept over the turns.

    The tokens of a dialogue follow from its messages and journaled reply tokens, and the session computes what it has
    not seen yet; so a resumed dialogue only has more to compute at once. (In rounding that may differ from computing
    it bit by bit, and so, very rarely, may a token drawn after it. What is journaled stays as it is.)

    The session always has the same number of rows, so that nothing is compiled anew when a case has stopped: rows
    that nobody needs repeat the first one.
    """

    def __init__(self, candidate: ModelCandidate, rows: int):
        self._candidate, self._size = candidate, rows
        self._session: Session | None = None
        self._slots: dict[str, int] = {}  # rows of the session, by persona
        self._asked: dict[str, list[int]] = {}  # ids up to the last prompt, by persona

    def reply(
        self, dialogues: Sequence[Dialogue], users: Sequence[str], seeds: Sequence[int]
    ) -> list[CandidateReply | NoReply]:
        """Sample one reply a row; a dialogue that has outgrown the context gets none."""
        sampler, template = self._candidate.parts()
        paths = [self._path(template, dialogue, user) for dialogue, user in zip(dialogues, users, strict=True)]
        self._asked |= {dialogue.persona.id: path for dialogue, path in zip(dialogues, paths, strict=True)}
        fitting = [i for i, path in enumerate(paths) if self._needed(path) <= sampler.max_length]
        drawn = dict(zip(fitting, self._draw(fitting, dialogues, paths, seeds), strict=True)) if fitting else {}
        return [
            _as_reply(template, drawn[i])
            if i in drawn
            else NoReply(
                f"{self._needed(path)} tokens of context are needed, {sampler.max_length} are there (the smaller of "
                "sampling.max_length and the model's own)"
            )
            for i, path in enumerate(paths)
        ]

    def _path(self, template: ChatTemplate, dialogue: Dialogue, user: str) -> list[int]:
        """Ids up to the prompt, of what the model sees: with the newest message alone, every turn begins anew."""
        if self._candidate.sees == "last_message":
            return template.prompt([{"role": "user", "content": user}])
        known = [known_persona(dialogue.persona)] if self._candidate.sees == "persona" else []
        return path_tokens(template, dialogue, user, self._asked.get(dialogue.persona.id), known)

    def _needed(self, path: Sequence[int]) -> int:
        return len(path) + self._candidate.sampling.max_new_tokens + 1  # and an end of turn where none was sampled

    def _draw(
        self, rows: Sequence[int], dialogues: Sequence[Dialogue], paths: Sequence[list[int]], seeds: Sequence[int]
    ) -> list[Generation]:
        sampler, template = self._candidate.parts()
        if self._session is None:
            self._session = sampler.session(self._size)
        slots = [self._slots.setdefault(dialogues[row].persona.id, len(self._slots)) for row in rows]
        filled = [rows[0]] * self._size
        for slot, row in zip(slots, rows, strict=True):
            filled[slot] = row
        for slot, row in enumerate(filled):
            self._session.replace(slot, paths[row])
        sampling = self._candidate.sampling
        replies = self._session.replies(
            sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            seeds=[seeds[row] for row in filled],
            stop=template.stop,
        )
        return [replies[slot] for slot in slots]


class ResponderCandidate:
    """A responder of a cast: a remote model under test, or a scripted reference line.

    It is asked with the responder's prompt. `informed` knows the whole persona; otherwise it knows nothing but the
    messages. `forgetful` sees the newest of them alone. `system_of`: the prompt whose system text replaces the
    responder's, `known_persona` for the control that local models have, too.
    """

    rows: int | None = None

    def __init__(
        self,
        cast: Cast,
        identity: dict[str, object],
        informed: bool = False,
        setting: str = "roles.responder",
        forgetful: bool = False,
        system_of: str | None = None,
    ) -> None:
        """`setting` is the name of the responder's settings."""
        self.cast, self.identity, self._setting = cast, identity, setting
        self.informed, self.forgetful, self._system_of = informed, forgetful, system_of

    def partner(self, rows: int) -> ResponderCandidate:
        """Itself: it remembers nothing."""
        return self

    def reply(
        self, dialogues: Sequence[Dialogue], users: Sequence[str], seeds: Sequence[int]
    ) -> list[CandidateReply | NoReply]:
        """Ask the responder once a row; no reply where none could be read in three attempts."""
        return [self._answer(*row) for row in zip(dialogues, users, seeds, strict=True)]

    def _answer(self, dialogue: Dialogue, user: str, seed: int) -> CandidateReply | NoReply:
        persona = dialogue.persona
        hint = (persona.profile, persona.personality) if self.informed else None
        history = [] if self.forgetful else dialogue.history()
        path: list[Message] = [*history, {"role": "user", "content": user}]
        try:
            written = persistent(
                lambda s: self.cast.written_reply(path, hint, s, faithful=self.informed, system_of=self._system_of),
                seed,
            )
            # What a server cut off is no reply: the form of the answer has to be whole (`Cast`).
            return CandidateReply(written.reply, ended="shortened" if written.shortened else "stop")
        except RoleError as error:
            return NoReply(f"no reply: {str(error).replace('roles.responder', self._setting)}")


def _as_reply(template: ChatTemplate, drawn: Generation) -> CandidateReply:
    return CandidateReply(template.decode(drawn.tokens), tuple(map(int, drawn.tokens)), drawn.reason or "unknown")


def _load_sampler(path: str | Path, sampling: SamplingSettings) -> tuple[Sampler, ChatTemplate]:
    from aloe_jax.sampling.loading import load_sampler, spread

    mesh = spread(sampling.mesh)
    return load_sampler(path, sampling.max_length, sampling.rows, sampling.cache, sampling.dtype, mesh)


def identity_of(sees: Sees) -> dict[str, object]:
    """What a candidate's replies depend on besides its model: nothing more where it sees the history."""
    if sees == "history":
        return {}
    return {"sees": sees} | ({"prompt": prompt_digest("known_persona")} if sees == "persona" else {})


def known_persona(persona: Persona) -> Message:
    """The persona as a system message; a chat template without one has it at the head of the first user message."""
    system, _ = render("known_persona", {"profile": persona.profile, "personality": persona.personality})
    return {"role": "system", "content": system}


def path_tokens(
    template: ChatTemplate,
    dialogue: Dialogue,
    user: str,
    asked: Sequence[int] | None = None,
    before: Sequence[Message] = (),
) -> list[int]:
    """Token ids of a dialogue up to the prompt for the reply to `user`, with its replies as sampled.

    `asked` are the ids that this gave for the dialogue's last finished turn, where they are at hand. Where the chat
    template rewrites what was said before, the path is rendered anew, as training has it. `before` is a system
    message, if there is one.
    """
    from aloe_jax.data.template import UnstableTemplateError

    exchanges = dialogue.exchanges
    path: list[Message] = [*before, *dialogue.history(), {"role": "user", "content": user}]
    try:
        if asked is not None and exchanges:
            ids = [*asked, *_closed(template, exchanges[-1].reply.ids)]
        else:
            ids = []
            for turn, exchange in enumerate(exchanges):
                ids += [
                    *template.continuation(path[: len(before) + 2 * turn + 1]),
                    *_closed(template, exchange.reply.ids),
                ]
        return ids + template.continuation(path)
    except UnstableTemplateError:
        return template.prompt(path)


def _closed(template: ChatTemplate, reply: Sequence[int]) -> list[int]:
    """A reply's ids; where it was cut at max_new_tokens, its turn is closed for the model."""
    return [*reply] if tuple(reply[-1:]) == template.stop[:1] else [*reply, template.stop[0]]
