"""Many calls as one job of the Gemini Batch API: half the price, answered within minutes to a day."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus

from aloe_jax.errors import AloeError
from aloe_jax.llm.access import Access
from aloe_jax.llm.dialect import Dialect
from aloe_jax.llm.error_response import ErrorResponse
from aloe_jax.llm.failures import TransientError, passing, settled
from aloe_jax.llm.genai import FIELDS, SERVER, client, contents, generation, meaning, read_response
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.registry import providers_with_batches
from aloe_jax.llm.responses import body_of
from aloe_jax.llm.retry import FaultHook, Patience
from aloe_jax.llm.settings import RoleSettings

_LARGEST = 256 << 20  # bytes of a finished job with all its answers
_SLOWNESS = 10.0  # times the role's timeout, which is that of a single read, for the whole of a job's answers
_AROUND = 1000  # bytes of a request besides its texts and its schema
_PAGE = 100  # jobs listed at once
_GONE = {"FAILED": "failed", "CANCELLED": "been cancelled", "EXPIRED": "expired"}
_DONE = ("SUCCEEDED", "PARTIALLY_SUCCEEDED")
# Codes of google.rpc.Status for what another attempt may mend, and of HTTP for a client that went away.
_PASSING = frozenset((1, 2, 4, 8, 10, 13, 14, 499))
_INVALID = (3, 400, 422)  # the request itself is refused


class JobFailedError(AloeError):
    """A whole job failed, expired or was cancelled: its calls were not answered, nor paid for."""


class GenaiBatch:
    """Batch jobs of one role. Transient faults of every call are retried as the role's settings say."""

    def __init__(
        self,
        role: RoleSettings,
        player: str = "<role>",
        *,
        on_fault: FaultHook | None = None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`player` is the role's name, for messages. Raises AloeError when the role cannot be played in batches."""
        if role.entry.batch is None or role.project is not None or role.model is None:
            raise AloeError(
                f"roles.{player}: batches need provider {providers_with_batches()} with a model, "
                "and no project: Vertex AI takes batches only from Cloud Storage, the Gemini API also from a request"
            )
        import httpx2

        from aloe_jax.llm.wire import Transport

        access = Access(role, player)
        self.name, self.role = role.model, role
        self._access, self._player, self._on_fault = access, player, on_fault
        self._client = client(role, access)
        self._dialect = Dialect(role, access, FIELDS, lambda field: self._count(f"left out: {field}"))
        # Jobs are read over plain HTTP: the SDK drops the reason for which a job failed, and rejects a whole job
        # for the details that the server gives with the error of one request.
        self._http = httpx2.Client(
            base_url=f"{(role.endpoint or SERVER).rstrip('/')}/v1beta/",
            headers={"x-goog-api-key": access.key},
            timeout=role.timeout,
            transport=Transport(_LARGEST, _SLOWNESS),
            trust_env=False,
        )
        self._patience = Patience(role.attempts, sleep, draw, role.longest_wait)

    def size(self, request: Request) -> int:
        """About how many bytes a request takes in a job, rather too many; a job may have 20 MB."""
        return len(json.dumps([request.system, request.prompt, request.schema])) + _AROUND

    def submit(self, requests: Sequence[Request], label: str) -> str:
        """Make a job of the requests and return its name; `label` is for `find`.

        Raises AloeError when the server refuses it, UnavailableError when it is out of reach.
        """
        from google.genai import types

        settings = types.CreateBatchJobConfig(
            display_name=label, http_options=types.HttpOptions(timeout=round(self.role.timeout * 1000))
        )
        tried = False

        def once() -> str:
            nonlocal tried
            # A job may have been created although its answer was lost; another one would be paid for again.
            found = self._find_once(label) if tried else None
            tried = True
            if found:
                return found
            steps = self._dialect.steps()
            inlined = [
                types.InlinedRequest(
                    contents=contents(request, steps),
                    config=generation(self.role, request, steps),
                    metadata={"key": request.key(self.name)},
                )
                for request in requests
            ]
            return str(self._client.batches.create(model=self.name, src=inlined, config=settings).name)

        return self._call(once)

    def find(self, label: str) -> str | None:
        """The name of the newest job of that label, if one was created and did not fail."""
        return self._call(lambda: self._find_once(label))

    def _find_once(self, label: str) -> str | None:
        for job in self._list():
            if _described(job).get("displayName") == label and _state(job) not in _GONE:
                return str(job.get("name"))
        return None

    def _list(self) -> Iterator[Mapping[str, object]]:
        page, seen = "", {""}
        while True:
            body = self._get("batches", {"pageSize": str(_PAGE)} | ({"pageToken": page} if page else {}))
            yield from _items(body.get("operations"))
            page = str(body.get("nextPageToken") or "")
            if page in seen:  # the last one has none; a server that goes round in circles is no reason to follow
                return
            seen.add(page)

    def poll(self, job: str) -> dict[str, Completion] | None:
        """The answers of a job by the keys of their requests, or None while it runs.

        A request that failed for a passing reason is left out, to be asked again; one that the server refused is
        there as blocked. Raises JobFailedError when the whole job failed, expired or was cancelled.
        """
        body = self._call(lambda: self._get(job))
        state = _state(body)
        if state in _GONE:
            reason = _mapping(body.get("error")).get("message") or "no reason given"
            raise JobFailedError(self._access.message(f"the batch job {job} has {_GONE[state]}: {reason}"))
        if state not in _DONE:
            return None
        output = _mapping(_described(body).get("output") or body.get("response"))
        answers: dict[str, Completion] = {}
        for answer in _items(_mapping(output.get("inlinedResponses")).get("inlinedResponses")):
            key = _mapping(answer.get("metadata")).get("key")
            try:
                completion = self._read(answer)
            except TransientError as error:
                self._failed(error)
            else:
                if isinstance(key, str):
                    answers[key] = completion
        return answers

    def _read(self, answer: Mapping[str, object]) -> Completion:
        error = _mapping(answer.get("error"))
        if error:
            code = error.get("code")
            refusal = ErrorResponse.of(400, error)
            message = self._access.scrub(refusal.message)
            if code in _PASSING or (isinstance(code, int) and passing(code)):
                raise TransientError(f"batch: error {code}", detail=message)
            # A field that the server does not take is left out of the next job; until then there is no answer.
            if code in _INVALID and self._dialect.learn(refusal, self._dialect.steps()):
                raise TransientError(f"batch: error {code}", detail=message)
            return Completion("", outcome="blocked", detail=f"request refused: {message}")
        completion = self._access.clean(read_response(_mapping(answer.get("response"))))
        price = self.role.price
        if price is None:
            return completion
        cost = self.role.entry.batch_price * price.cost(completion.input_tokens, completion.output_tokens)
        return replace(completion, cost=cost)

    # ------------------------------------------------------------ calls

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> Mapping[str, object]:
        try:
            response = self._http.get(path, params=query)
        except ErrorResponse as refusal:
            if refusal.status != HTTPStatus.NOT_FOUND:
                raise
        else:
            return body_of(response.content, errors=False)  # a failed job has an error, and that is no failed call
        raise JobFailedError(self._access.message(f"the server no longer knows {path}"))

    def _call[T](self, call: Callable[[], T]) -> T:
        def once() -> T:
            try:
                return call()
            except TransientError as error:
                fault: Exception = error
            except Exception as error:
                fault = meaning(self._access, error)
            if isinstance(fault, ErrorResponse):
                # What it refuses is left out, and the call repeated: a step at a time, so not for ever.
                if self._dialect.learn(fault, self._dialect.steps()):
                    return once()
                fault = settled(self._access, fault)
            # Outside of the handler: the SDK's exception, which knows the request's headers, goes no further.
            raise fault

        return self._patience.call(once, f"roles.{self._player}: {self.name} (genai, batch)", self._failed)[0]

    def _failed(self, error: TransientError) -> None:
        self._count(error.fault)

    def _count(self, fault: str) -> None:
        if self._on_fault is not None:
            self._on_fault(self.name, self._player, fault)


def _described(job: Mapping[str, object]) -> Mapping[str, object]:
    return _mapping(job.get("metadata"))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _state(job: Mapping[str, object]) -> str:
    return str(_described(job).get("state", "")).rpartition("STATE_")[2]
