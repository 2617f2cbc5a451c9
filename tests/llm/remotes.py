"""Language models of every provider on a server of a test's own."""

import itertools

from aloe_jax.llm.limits import Limits
from aloe_jax.llm.protocol import Request
from aloe_jax.llm.providers import backend
from aloe_jax.llm.retry import Persistent
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import PreferredReply
from tests.clock import Clock

PROVIDERS = ("gemini", "genai", "openai")
KEY = "k3y-Xq7vWm2Zt9-Rb4Yn8Lc1"
_numbers = itertools.count()


def role_at(provider: str, url: str, **settings) -> RoleSettings:
    """A role at that server. Every model has a name of its own, so that nothing is known about it."""
    given = {
        "provider": provider,
        "model": f"m{next(_numbers)}",
        "endpoint": url + ("/v1" if provider == "openai" else ""),
        "key_variable": "MY_KEY",
        "attempts": 2,
        "timeout": 5.0,
        "temperature": 0.0,
    }
    return RoleSettings.model_validate(given | settings)


class Asked:
    """A persistent model of a role at a server, on a clock of its own."""

    def __init__(self, provider: str, url: str, **settings) -> None:
        self.role = role_at(provider, url, **settings)
        self.clock, self.faults = Clock(), []
        self.llm = Persistent(
            backend(self.role, "judge"),
            self.role,
            Limits(clock=self.clock, wait=self.clock.wait),
            on_fault=lambda model, role, fault: self.faults.append(fault),
            sleep=self.clock.sleep,
            draw=lambda low, high: 0.25,
        )

    def complete(self, **changed):
        """The completion of a request."""
        schema = PreferredReply.model_json_schema()
        given = {"system": "You know a person.", "prompt": "Which reply?", "temperature": 0.0, "seed": 7}
        return self.llm.complete(Request(role="judge", inputs={}, schema=schema, **given | changed))
