"""Batch jobs of the Gemini API, in memory: pending, running, then succeeded, by the clock."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.standin.answers import answer
from tests.standin.dialects import gemini_error, read_gemini, write_gemini

_PENDING = 0.3  # share of a job's time before it runs
# Models of these names end so instead of succeeding; `joberrors` and `jobrefusals` spoil every third request.
ODD_ENDS = {"jobfailed": "FAILED", "jobexpired": "EXPIRED"}
_MESSAGES = {"FAILED": "The batch could not be processed.", "EXPIRED": "The batch expired after 48 hours."}


@dataclass
class Job:
    """One job; `results` is made once, when it has succeeded."""

    name: str
    model: str
    label: str
    requests: list[Mapping[str, Any]]
    created: float
    cancelled: bool = False
    results: list[dict[str, Any]] | None = None
    kinds: list[tuple[str, str]] = field(default_factory=list)  # (id, what was answered), for the log


class Jobs:
    """All jobs of a server. `seconds` is how long one takes, `errors` the share of its requests that fail."""

    def __init__(self, seconds: float, bad: float, errors: float) -> None:
        self._seconds, self._bad, self._errors = seconds, bad, errors
        self._jobs: dict[str, Job] = {}

    def create(self, model: str, body: Mapping[str, Any], now: float) -> Job:
        """Take a batchGenerateContent body."""
        batch = body["batch"]
        requests = batch["inputConfig"]["requests"]["requests"]
        name = f"batches/b{len(self._jobs) + 1}"
        self._jobs[name] = Job(name, model, batch.get("displayName", ""), requests, now)
        return self._jobs[name]

    def get(self, name: str) -> Job | None:
        """The job of that name."""
        return self._jobs.get(name)

    def newest_first(self) -> list[Job]:
        """All jobs."""
        return list(self._jobs.values())[::-1]

    def state(self, job: Job, now: float) -> str:
        """PENDING, RUNNING, or how it ended."""
        if job.cancelled:
            return "CANCELLED"
        if now - job.created < _PENDING * self._seconds:
            return "PENDING"
        if now - job.created < self._seconds:
            return "RUNNING"
        return ODD_ENDS.get(job.model, "SUCCEEDED")

    def describe(self, job: Job, now: float, with_output: bool = True) -> dict[str, Any]:
        """The job as a long-running operation."""
        state = self.state(job, now)
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": job.name,
            "model": f"models/{job.model}",
            "displayName": job.label,
            "state": f"BATCH_STATE_{state}",
            "createTime": datetime.fromtimestamp(job.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        described: dict[str, Any] = {"name": job.name, "metadata": metadata}
        if state in _MESSAGES:
            described |= {"done": True, **gemini_error(13, "INTERNAL", _MESSAGES[state])}
        elif state == "CANCELLED":
            described |= {"done": True, **gemini_error(1, "CANCELLED", "The batch was cancelled.")}
        elif state == "SUCCEEDED":
            described["done"] = True
            if with_output:
                metadata["output"] = {"inlinedResponses": {"inlinedResponses": self._results(job)}}
        return described

    def _results(self, job: Job) -> list[dict[str, Any]]:
        if job.results is None:
            job.results = [self._result(job, number) for number in range(len(job.requests))]
        return job.results

    def _result(self, job: Job, number: int) -> dict[str, Any]:
        inlined = job.requests[number]
        metadata = dict(inlined.get("metadata") or {})
        question = read_gemini(inlined["request"])
        id = metadata.get("key") or question.id
        odd = number % 3 == 2
        code = 0
        if random.Random(f"{job.name} {id}").random() < self._errors or (job.model == "joberrors" and odd):
            code, message = 14, "The model is overloaded."
        elif job.model == "jobrefusals" and odd:
            code, message = 3, "Request contains an invalid argument."
        if code:
            job.kinds.append((id, str(code)))
            details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SOME_REASON"}]
            return {"metadata": metadata, "error": {"code": code, "message": message, "details": details}}
        made = answer(question.system, question.prompt, id, job.model, self._bad)
        job.kinds.append((id, made.kind))
        return {"metadata": metadata, "response": write_gemini(question, made)}
