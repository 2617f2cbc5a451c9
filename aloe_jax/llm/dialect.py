"""Which fields of a request a server takes: what it refuses is renamed or left out, once and for all."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from aloe_jax.llm import notices
from aloe_jax.llm.access import Access
from aloe_jax.llm.error_response import ErrorResponse
from aloe_jax.llm.failures import TransientError, garbled, meaning, no_room, refused
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.responses import blocked_prompt
from aloe_jax.llm.settings import RoleSettings

_FILTERED = ("content_filter", "content_policy_violation")  # a prompt that some servers hold back with a 400
# A field that is not taken at all, or not at this value; a value out of range ("must be below 2") is another matter.
_NOT_TAKEN = re.compile(
    r"support|unknown|unrecogni[sz]ed|unexpected|\bextra\b|additional propert|deprecat|disabled|no such|forbidden|"
    r"\bnot\b.{0,20}\b(?:permitted|allowed|enabled|accepted|available|implemented|exist|recogni[sz]ed|found)|"
    r"cannot (?:find|be (?:set|used|specified))|\bonly\b.{0,40}\b(?:allowed|set to|accepted)|"
    r"invalid (?:parameter|argument|field|key|property)|too many states|must alternate|\billegal\b|"
    r"(?:parameter|argument|field|key|property) (?:is )?not valid|(?:not (?:in|part of)|out of) the schema|"
    r"\bmust (?:not be (?:set|used|sent|given|specified|present)|be (?:removed|omitted|absent|left out|unset))\b|"
    r"\b(?:(?:does|do|ca)n['\u2019]t|(?:does|do) not|cannot) (?:take|accept|allow|handle)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Field:
    """A part of the request that a server may refuse.

    `names` finds it in a refusal. `steps` says what is done about it, one refusal after the other; a step that
    changes what is answered is reported to the person who reads it.
    """

    name: str
    names: re.Pattern[str]
    steps: tuple[str, ...]
    shapes: bool = True  # whether it shapes what is answered or what can be repeated
    certain: bool = False  # a refusal that has its name is meant for it, whatever else it says

    def fits(self, refusal: ErrorResponse) -> bool:
        """Whether the refusal is about this field, and not about its value's range."""
        pointed = any(self.names.search(name) for name in refusal.fields)
        if not pointed and not self.names.search(refusal.message):
            return False
        return self.certain or bool(_NOT_TAKEN.search(f"{refusal.message} {refusal.code.replace('_', ' ')}"))


def pattern(text: str) -> re.Pattern[str]:
    """A field's names in any case, as words of their own."""
    return re.compile(rf"(?<![A-Za-z])(?:{text})(?![A-Za-z])", re.IGNORECASE)


# What the protocols have in common.
SEED = Field("seed", pattern("seed"), ("is left out: what is drawn there cannot be drawn again",))
TEMPERATURE = Field(
    "temperature",
    pattern("temperature"),
    (
        "is left out: the server draws at a temperature of its own, so that its answers compare only with others "
        "that were drawn so",
    ),
)
SYSTEM = Field(
    "system message",
    pattern(
        r"(?:system|developer)[ _'\"]*(?:role|instructions?|message|prompt)|"
        r"(?:role|variant)\W{1,4}(?:system|developer)|roles must alternate|only user(?:,| and) assistant roles"
    ),
    ("stands before the prompt instead",),
)

type Steps = Mapping[str, int]  # field -> how many of its steps were taken

_known: dict[tuple[str, str | None, str | None], dict[str, int]] = {}  # by provider, endpoint and model
_learning = threading.Lock()


@dataclass
class Dialect:
    """What the server of one role takes. All roles that speak to the same model at the same address share it."""

    role: RoleSettings
    access: Access
    fields: tuple[Field, ...]
    on_left_out: Callable[[str], None] = field(default=lambda name: None)  # hears the name of a field that shapes

    def steps(self) -> Steps:
        """What was learned so far."""
        with _learning:
            return dict(_known.get(self._server, {}))

    def learn(self, refusal: ErrorResponse, sent: Steps) -> bool:
        """Whether the request, sent after the steps `sent`, may be sent again in another form.

        Each step is taken once a process and reported then, so a server cannot be asked for ever.
        """
        if refusal.status not in (400, 422) or no_room(refusal) or garbled(refusal):
            return False
        for one in self.fields:
            taken = sent.get(one.name, 0)
            if taken >= len(one.steps) or not one.fits(refusal):
                continue
            with _learning:
                known = _known.setdefault(self._server, {})
                new = known.get(one.name, 0) <= taken
                known[one.name] = max(known.get(one.name, 0), taken + 1)
            if new:
                said = f"{one.name}: the server does not take it, so it {one.steps[taken]}"
                notices.report(self.access.message(f"{said} ({self.access.scrub(refusal.message)[:200]})"))
                if one.shapes:
                    self.on_left_out(one.name)
            return True
        return False

    def ask(self, once: Callable[[Steps, float], Completion], timeout: float) -> Completion:
        """The completion of `once`, which makes one request after the steps given to it, in the seconds given.

        All requests together take `timeout` seconds. `once` raises ErrorResponse for an answer with an error; what is
        not mended becomes a TransientError, a GarbledError or an AloeError.
        """
        end = time.monotonic() + timeout
        left = timeout
        while True:
            steps = self.steps()
            try:
                return self.access.clean(once(steps, left))
            except (ErrorResponse, TransientError) as error:
                fault = meaning(self.access, error)
            if not isinstance(fault, ErrorResponse):
                raise fault
            refusal = fault
            if refusal.code in _FILTERED:
                return blocked_prompt(refusal.code, self.access.scrub(refusal.message), 0)
            if not self.learn(refusal, steps):
                break
            left = end - time.monotonic()
            if left <= 0:
                raise TransientError("timeout")
        raise refused(self.access, refusal)

    @property
    def _server(self) -> tuple[str, str | None, str | None]:
        return self.role.provider, self.role.endpoint, self.role.model


class RemoteModel(ABC):
    """A model behind a server, asked in a form that the server takes. A provider says how one request is made."""

    fields: tuple[Field, ...]  # that its servers may refuse

    def __init__(self, role: RoleSettings, access: Access) -> None:
        assert role.model is not None
        self.name, self._role, self._access = role.model, role, access
        self.dialect = Dialect(role, access, self.fields)

    def ask(self, request: Request, timeout: float) -> Completion:
        """Make one attempt. Raises TransientError, GarbledError or AloeError."""
        return self.dialect.ask(partial(self._once, request), timeout)

    @abstractmethod
    def _once(self, request: Request, steps: Steps, timeout: float) -> Completion:
        """The completion of one request, sent after these steps. Raises as `Dialect.ask` wants it."""
