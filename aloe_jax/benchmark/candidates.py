"""What the benchmark talks to: a trained model, or a scripted responder as a reference line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aloe_jax import config
from aloe_jax.benchmark.dialogue import Dialogue, Reply, persistent, threaded
from aloe_jax.conversation import Message
from aloe_jax.errors import AloeError
from aloe_jax.roles import Cast

if TYPE_CHECKING:
    from aloe_jax.data.template import ChatTemplate
    from aloe_jax.sampling import Sampler


class ModelCandidate:
    """A model directory, loaded when its first reply is asked for: a journaled dialogue needs no model.

    One sampling session keeps the key–value cache over the turns. The tokens of a dialogue follow from its
    messages and journaled reply tokens, and the session is fed what it has not seen yet; so a resumed
    dialogue only feeds more at once.
    """

    def __init__(
        self,
        path: str | Path,
        sampling: config.Sampling,
        load: Callable[[str | Path, int], tuple[Sampler, ChatTemplate]] | None = None,
    ):
        from aloe_jax.models.fingerprint import fingerprint  # which loads JAX

        self.path, self.sampling = Path(path), sampling
        # A reply is never cut by max_length (see _check_room), so replies do not depend on it.
        settings = sampling.model_dump(exclude={"max_length"})
        self.identity = {"path": str(self.path.resolve()), "files": fingerprint(path), "sampling": settings}
        self._load = load or _load_sampler
        self._parts: tuple[Sampler, ChatTemplate] | None = None
        self._session: Any = None
        self._rows: list[str] = []
        self._fed: list[list[int]] = []

    def reply(self, dialogues: Sequence[Dialogue], users: Sequence[str], seeds: Sequence[int]) -> list[Reply]:
        """Sample one reply a row. Raises AloeError when a dialogue outgrows the context."""
        if self._parts is None:
            self._parts = self._load(self.path, self.sampling.max_length)
        sampler, template = self._parts
        rows = [dialogue.persona.id for dialogue in dialogues]
        paths = [path_tokens(template, d, user) for d, user in zip(dialogues, users, strict=True)]
        self._check_room(dialogues, paths, sampler.max_length)
        # The first turn, a case that has stopped or caught up, or a chat template that rewrites earlier turns.
        if rows != self._rows or any(path[: len(fed)] != fed for path, fed in zip(paths, self._fed, strict=True)):
            self._session, self._rows, self._fed = sampler.session(len(rows)), rows, [[] for _ in rows]
        self._session.extend([path[len(fed) :] for path, fed in zip(paths, self._fed, strict=True)])
        replies = self._session.reply(
            self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
            top_k=self.sampling.top_k,
            top_p=self.sampling.top_p,
            seeds=list(seeds),
            stop=template.stop,
        )
        self._fed = [[*path, *ids] for path, ids in zip(paths, replies, strict=True)]
        return [Reply(template.decode(ids), tuple(int(i) for i in ids)) for ids in replies]

    def _check_room(self, dialogues: Sequence[Dialogue], paths: Sequence[Sequence[int]], room: int) -> None:
        for dialogue, path in zip(dialogues, paths, strict=True):
            needed = len(path) + self.sampling.max_new_tokens + 1  # and an end of turn where none was sampled
            if needed > room:
                turn = len(dialogue.exchanges) + 1
                raise AloeError(
                    f"{self.path}: case {dialogue.persona.id}, turn {turn} needs {needed} tokens of context "
                    f"and has {room} (the smaller of sampling.max_length and the model's own); raise "
                    "sampling.max_length, or lower sampling.max_new_tokens or turns"
                )


class ScriptedCandidate:
    """A responder of the cast as a reference line: `generic` knows nothing, `informed` the whole persona."""

    def __init__(self, kind: Literal["generic", "informed"], cast: Cast, responder: dict[str, Any]):
        self.kind, self.cast = kind, cast
        self.identity = {"reference": kind, "responder": responder}

    def reply(self, dialogues: Sequence[Dialogue], users: Sequence[str], seeds: Sequence[int]) -> list[Reply]:
        """Ask the responder once a row. Raises RoleError when an answer cannot be parsed."""

        def answer(row: tuple[Dialogue, str, int]) -> Reply:
            dialogue, user, seed = row
            persona = dialogue.persona
            informed = self.kind == "informed"
            hint = (persona.profile, persona.personality) if informed else None
            path = [*dialogue.history(), {"role": "user", "content": user}]
            return Reply(persistent(lambda s: self.cast.reply(path, hint, s, faithful=informed), seed))

        return threaded(answer, zip(dialogues, users, seeds, strict=True))


def _load_sampler(path: str | Path, max_length: int) -> tuple[Sampler, ChatTemplate]:
    from aloe_jax.sampling.loading import load_sampler  # which loads JAX

    return load_sampler(path, max_length)


def path_tokens(template: ChatTemplate, dialogue: Dialogue, user: str) -> list[int]:
    """Token ids of a dialogue up to the prompt for the reply to `user`, with its replies as sampled.

    Where the chat template rewrites what was said before, the path is rendered anew, as training has it.
    """
    from aloe_jax.data.template import UnstableTemplateError

    ids: list[int] = []
    messages: list[Message] = []
    try:
        for exchange in dialogue.exchanges:
            messages.append({"role": "user", "content": exchange.user})
            ids += template.continuation(messages)
            ids += exchange.reply.ids
            if exchange.reply.ids[-1:] != template.stop[:1]:  # cut at max_new_tokens: close the turn for the model
                ids.append(template.stop[0])
            messages.append({"role": "assistant", "content": exchange.reply.text})
        return ids + template.continuation([*messages, {"role": "user", "content": user}])
    except UnstableTemplateError:
        return template.prompt([*dialogue.history(), {"role": "user", "content": user}])
