"""One of our models as the responder of a conversation: replies from the policy that is to be trained further."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from aloe_jax.conversation import Message
from aloe_jax.errors import AloeError
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.registry import register
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.models.fingerprint import fingerprint
from aloe_jax.sampling.provider import POLICY
from aloe_jax.sampling.settings import SamplingSettings
from aloe_jax.storage.files import as_path

if TYPE_CHECKING:
    from aloe_jax.data.template import ChatTemplate
    from aloe_jax.sampling.sampler import Sampler

register(POLICY)

ROWS = 8  # replies drawn together; always so many, so that their number compiles nothing anew
GATHER = 0.02  # seconds to wait for more requests once there is one
MAX_LENGTH = 4096  # tokens of a conversation; the model's own maximum bounds it, too


class Policy:
    """A model directory that plays the responder; see `aloe_jax.llm.protocol.LLM`.

    Requests of several threads are answered together, a batch at a time, on one thread that owns the device.
    A reply depends on its request's seed and conversation alone, not on its batch. The hint goes in as a system
    message; a reply without one sees the plain conversation, as in training.

    Raises AloeError at once when `role.model` holds no model; the weights are loaded for the first request.
    """

    def __init__(self, role: RoleSettings):
        assert role.model is not None
        path = as_path(role.model)
        if not (path / "config.json").is_file() and not (path / "spec.json").is_file():
            raise AloeError(
                f"roles.responder.model: {path} holds neither config.json (a Hugging Face directory) nor spec.json "
                "(a run of aloe_jax.train)"
            )
        self.role = role
        self.name = f"{path.name}@{fingerprint(path)}"
        self._path = path
        self._waiting: queue.SimpleQueue[tuple[Request, Future[Completion]]] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._worker: threading.Thread | None = None

    def complete(self, request: Request) -> Completion:
        """One reply. Raises AloeError for another role than the responder's."""
        if request.role != "responder":
            raise AloeError(f"roles.{request.role}.provider: policy plays the responder only")
        with self._start:
            if self._worker is None:
                self._worker = threading.Thread(target=self._serve, name="policy", daemon=True)
                self._worker.start()
        answer: Future[Completion] = Future()
        self._waiting.put((request, answer))
        return answer.result()

    def _serve(self) -> None:
        parts: tuple[Sampler, ChatTemplate] | None = None
        while True:
            batch = [self._waiting.get()]
            try:
                while len(batch) < ROWS:
                    batch.append(self._waiting.get(timeout=GATHER))
            except queue.Empty:
                pass
            try:
                if parts is None:
                    from aloe_jax.sampling.loading import load_sampler, spread

                    parts = load_sampler(self._path, MAX_LENGTH, ROWS, mesh=spread(SamplingSettings().mesh))
                completions = self._reply(*parts, [request for request, _ in batch])
            except Exception as error:  # every caller that waits gets it
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for (_, answer), completion in zip(batch, completions, strict=True):
                answer.set_result(completion)

    def _reply(self, sampler: Sampler, template: ChatTemplate, requests: Sequence[Request]) -> list[Completion]:
        from aloe_jax.sampling.session import LEAST_LENGTH
        from aloe_jax.sampling.shapes import bucket

        prompts = [template.prompt(_messages(request)) for request in requests]
        room = sampler.max_length - self.role.max_output_tokens - 1
        fitting = [row for row, prompt in enumerate(prompts) if len(prompt) <= room]
        replies: list[list[int]] = []
        if fitting:
            longest = max(len(prompts[row]) for row in fitting)
            session = sampler.session(ROWS, bucket(longest + self.role.max_output_tokens, LEAST_LENGTH))
            for number, row in enumerate(fitting):
                session.replace(number, prompts[row])
            replies = session.reply(
                self.role.max_output_tokens,
                temperature=requests[0].temperature,
                seeds=[requests[row].seed for row in fitting],
                stop=template.stop,
                among=range(len(fitting)),
            )
        made = dict(zip(fitting, replies, strict=True))
        return [_completion(template, len(prompt), made.get(row), room) for row, prompt in enumerate(prompts)]


def _messages(request: Request) -> list[Message]:
    hint: list[Message] = [{"role": "system", "content": request.system}] if request.inputs["hinted"] else []
    history: list[Message] = request.inputs["history"]  # type: ignore[assignment]
    return [*hint, *history]


def _completion(template: ChatTemplate, prompt: int, ids: list[int] | None, room: int) -> Completion:
    if ids is None:
        detail = f"the conversation has {prompt} tokens, the model's context leaves {room}"
        return Completion("", prompt, 0, "empty", detail)
    text = template.decode(ids)
    if not text:
        return Completion("", prompt, len(ids), "empty", "the model ended its turn at once")
    if ids[-1] not in template.stop:
        return Completion(text, prompt, len(ids), "truncated")  # half a reply is none to learn from
    return Completion(json.dumps({"reply": text}), prompt, len(ids))
