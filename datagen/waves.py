"""Conversations through a batch service: all of them advance together, a wave of calls at a time.

A batch costs half and takes minutes to hours, so nothing waits in a thread for its answer. Each conversation is
written as far as the journal's answers reach; the calls that it would make next are collected over all
conversations, sent as one job a role, and journaled when the job is done; then all are written again from their
beginning, now a step further. What is journaled makes that cheap, and makes a killed run go on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pydantic import BaseModel

from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.batch import GenaiBatch, JobFailedError
from aloe_jax.llm.budget import BudgetError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion, PendingError, Request
from aloe_jax.llm.registry import load_class, providers_with_batches
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import Cast
from datagen.conversations import TALKING_ROLES, Outcome, unfinished, write_or_skip
from datagen.journal import JOB
from datagen.settings import DatagenSettings

JOB_BYTES = 15_000_000  # of requests in one job; the service takes 20 MB
POLL = 20.0  # seconds between looks at the jobs under way
TRIES = 3  # jobs in which a call may be left unanswered before its conversation waits for a later run


class Collector:
    """Stands in for the language model of a role: notes what it is asked, and answers nothing."""

    def __init__(self, service: GenaiBatch, role: RoleSettings):
        self.name, self.role, self.service = service.name, role, service
        self.waiting: dict[str, Request] = {}

    def complete(self, request: Request) -> Completion:
        """Note the request. Raises PendingError always."""
        self.waiting[request.key(self.name)] = request
        raise PendingError


@dataclass
class Job:
    """A batch under way."""

    label: str
    name: str  # the service's own
    role: str
    keys: list[str]
    # By key: reports the cost of a call to the budget.
    settle: dict[str, Callable[[Completion], None]] = field(default_factory=dict)
    hold: ExitStack = field(default_factory=ExitStack)  # what the budget holds back until the job is done


class _Noted(BaseModel):
    """A job as the journal has it."""

    name: str
    role: str
    keys: list[str]


def write_in_waves(
    ledger: Ledger,
    personas: list[Persona],
    settings: DatagenSettings,
    progress: Callable[[Outcome, str], None] = lambda outcome, doing: None,
    *,
    service: Callable[[RoleSettings, str], GenaiBatch] | None = None,
    poll: float = POLL,
) -> Outcome:
    """Write the planned conversations that the journal does not hold yet; see `write_conversations`.

    `progress` hears what is being waited for. Ctrl-C leaves the jobs to the service: the next run finds them.
    Raises AloeError when a role is not played by a batch service, and JobFailedError when a job fails; its calls
    are sent anew by the next run.
    """
    waiting, skips, outcome = unfinished(ledger, personas, settings)
    collectors: dict[str, Collector] = {}

    def model(role: RoleSettings, name: str) -> Collector:
        if service is not None:
            jobs_of_role = service(role, name)
        elif role.entry.batch is not None:
            jobs_of_role = load_class(role.entry.batch)(role, name, on_fault=ledger.count_fault)
        else:
            able = providers_with_batches()
            raise AloeError(f"roles.{name}.provider: conversations.batch needs {able}, not {role.provider}")
        collectors[name] = Collector(jobs_of_role, role)
        return collectors[name]

    cast = Cast(settings.roles, ledger, only=TALKING_ROLES, model=model)
    jobs = _jobs_under_way(ledger)
    tries: Counter[str] = Counter()
    try:
        while waiting and not (outcome.stopping and not jobs):
            progress(outcome, "writing what the answers allow")
            for collector in collectors.values():
                collector.waiting.clear()
            for name, persona in list(waiting.items()):
                try:
                    outcome.count(write_or_skip(ledger, cast, name, persona, settings, skips[name]))
                    del waiting[name]
                except PendingError:
                    continue
                except BudgetError as error:
                    outcome.stop(error)
            _forget_hopeless(collectors.values(), tries, outcome)
            if not outcome.stopping:
                jobs += _submit(ledger, collectors, jobs, tries, outcome)
            if not jobs:
                break
            jobs = _await_one(ledger, collectors, jobs, poll, lambda doing: progress(outcome, doing))
    except KeyboardInterrupt:
        outcome.stopping = True
    outcome.left = len(waiting) - outcome.unreachable
    progress(outcome, "done")
    return outcome


def _forget_hopeless(collectors: Iterable[Collector], tries: Counter[str], outcome: Outcome) -> None:
    outcome.unreachable = 0
    for collector in collectors:
        for key in [key for key in collector.waiting if tries[key] >= TRIES]:
            del collector.waiting[key]
            outcome.unreachable += 1


def _submit(
    ledger: Ledger, collectors: dict[str, Collector], jobs: list[Job], tries: Counter[str], outcome: Outcome
) -> list[Job]:
    """Send what is waiting and in no job yet, as far as the budget goes."""
    known = {key for job in jobs for key in job.keys}
    sent: list[Job] = []
    for role, collector in collectors.items():
        fresh = {key: request for key, request in collector.waiting.items() if key not in known}
        for part in _parts(collector.service, fresh):
            job = Job("", "", role, [])
            try:
                for key, request in part.items():
                    job.settle[key] = job.hold.enter_context(ledger.budget.reserved(collector, request))
                    job.keys.append(key)
            except BudgetError as error:
                outcome.stop(error)
            if job.keys:
                job.label = _label(ledger, role, job.keys)
                # A process killed between submitting and noting it leaves a job that only its label finds.
                job.name = collector.service.find(job.label) or collector.service.submit(
                    [part[key] for key in job.keys], job.label
                )
                ledger.put(JOB, job.label, {"name": job.name, "role": role, "keys": job.keys})
                sent.append(job)
                tries.update(job.keys)
            if outcome.stopping:
                return sent
    return sent


def _label(ledger: Ledger, role: str, keys: Sequence[str]) -> str:
    """A name that follows from the calls, and from how often just these were sent before (and left unanswered)."""
    name = f"aloe-{role}-{hashlib.sha256(' '.join(keys).encode()).hexdigest()[:32]}"
    return next(
        label for label in (f"{name}-{n}" for n in itertools.count()) if ledger.get(f"{JOB}-done", label) is None
    )


def _parts(service: GenaiBatch, requests: dict[str, Request]) -> Iterable[dict[str, Request]]:
    part: dict[str, Request] = {}
    size = 0
    for key, request in sorted(requests.items()):
        more = service.size(request)
        if part and size + more > JOB_BYTES:
            yield part
            part, size = {}, 0
        part[key] = request
        size += more
    if part:
        yield part


def _jobs_under_way(ledger: Ledger) -> list[Job]:
    done = ledger.all(f"{JOB}-done").keys()
    return [
        Job(label, job.name, job.role, job.keys)
        for label, record in ledger.all(JOB).items()
        if label not in done
        for job in [ledger.read(_Noted, JOB, label, record)]
    ]


def _await_one(
    ledger: Ledger, collectors: dict[str, Collector], jobs: list[Job], poll: float, say: Callable[[str], None]
) -> list[Job]:
    """Wait until a job is done and journal its answers; the jobs still under way."""
    while True:
        calls = sum(len(job.keys) for job in jobs)
        say(f"waiting for {calls:,} calls in {len(jobs)} jobs")
        under_way = [job for job in jobs if not _collect(ledger, collectors[job.role], job)]
        if len(under_way) < len(jobs):
            return under_way
        time.sleep(poll)


def _collect(ledger: Ledger, collector: Collector, job: Job) -> bool:
    try:
        completions = collector.service.poll(job.name)
    except JobFailedError:
        # The next run sends these calls again, under another label.
        ledger.put(f"{JOB}-done", job.label, {"answered": 0})
        raise
    if completions is None:
        return False
    for key, completion in completions.items():
        ledger.keep_call(key, collector.name, job.role, completion, 0.0)
        if key in job.settle:
            job.settle[key](completion)
    job.hold.close()
    ledger.put(f"{JOB}-done", job.label, {"answered": len(completions)})
    return True
