"""Settings of language models in roles: which model, how it is reached and what it costs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from aloe_jax.llm.registry import PROVIDERS, RESTRICTED, ProviderEntry, known_provider, providers_taking
from aloe_jax.ranges import LARGEST, Positive, Several, Temperature
from aloe_jax.settings import Section


class Price(Section):
    """What a model costs, in US dollars per million tokens; thinking counts as output."""

    input: Annotated[float, Field(ge=0, le=1e9)]
    output: Annotated[float, Field(ge=0, le=1e9)]

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars for so many tokens."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


Provider = Annotated[str, AfterValidator(known_provider)]  # a name in the table of registry.py


class RoleSettings(Section):
    """Which language model plays a role, and how it is reached."""

    provider: Provider = "gemini"
    model: str | None = None  # as the provider names it; for `policy`, one of our runs or a Hugging Face directory
    temperature: Temperature = 0.8
    max_output_tokens: Positive = 8192  # thinking included; a provider may have a default of its own
    thinking_budget: Annotated[int, Field(ge=0, le=LARGEST)] | None = None  # genai only; None: the model's own
    endpoint: str | None = None  # base URL of another server; required by `openai` unless it is OpenAI's own
    key_variable: str | None = None  # environment variable with the key; None: the provider's usual ones
    project: str | None = None  # genai: a Google Cloud project makes it Vertex AI, with `location`
    location: str = "global"
    timeout: Annotated[float, Field(gt=0, le=86_400)] = (
        120.0  # seconds for one attempt, from the first byte to the last
    )
    attempts: Several = 8  # of one call while the server is overloaded or cannot be reached
    # Seconds that a server may ask to wait before the next attempt; where it asks for more the run ends.
    longest_wait: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    price: Price | None = None

    @model_validator(mode="before")
    @classmethod
    def _provider_defaults(cls, values: object) -> object:
        if isinstance(values, dict) and (entry := PROVIDERS.get(str(values.get("provider")))):
            return {**entry.defaults, **values}
        return values

    @field_validator("endpoint")
    @classmethod
    def _without_secrets(cls, endpoint: str | None) -> str | None:
        # Settings are written beside every run's results. The message must not repeat what it refuses.
        if endpoint is None:
            return None
        if re.search(r"[\x00-\x20\x7f]", endpoint):
            raise ValueError("there is a space or a line break in the address")
        rest = endpoint.partition("://")[2] or endpoint
        if "@" in rest:
            raise ValueError(
                "a user name or a password stands in the address, which is saved with every run; leave out what is "
                "before the @, and give the name of an environment variable with the key as key_variable"
            )
        if "?" in rest or "#" in rest:
            raise ValueError(
                "the address has a query (?...), which is saved with every run and not sent to the server; leave it "
                "out, and give the name of an environment variable with the key as key_variable"
            )
        return endpoint

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, variable: str | None) -> str | None:
        if variable is not None and (
            not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) or variable.startswith(("AIza", "gsk_", "hf_"))
        ):
            raise ValueError(
                "is no name of an environment variable; put the key itself into the environment, under a name such as "
                "MY_KEY, and give that name"
            )
        return variable

    @model_validator(mode="after")
    def _taken(self) -> RoleSettings:
        for key in RESTRICTED:
            if getattr(self, key) is not None and key not in self.entry.takes:
                raise ValueError(f"{key}: only provider {providers_taking(key)} takes it, not {self.provider}")
        return self

    @property
    def entry(self) -> ProviderEntry:
        """What there is to know of the provider."""
        return PROVIDERS[self.provider]

    def shaping(self) -> dict[str, str | float | int | None]:
        """The settings that decide what the role says; the rest decides only how and how fast it is reached."""
        if self.entry.simulated:
            return {"model": self.provider, "temperature": self.temperature}
        return {"model": self.model, "temperature": self.temperature, "thinking_budget": self.thinking_budget}


class SteadyRole(RoleSettings):
    """A role that judges: the same question gets the same answer, where nothing else is set."""

    temperature: Temperature = 0.0


def shared_by_roles(values: object, roles: Iterable[str]) -> object:
    """A section of these roles in which settings given directly hold for every role that does not give its own."""
    if not isinstance(values, dict):
        return values
    shared = {key: value for key, value in values.items() if key in RoleSettings.model_fields}
    if not shared:
        return values
    resolved = {key: value for key, value in values.items() if key not in shared}
    for name in roles:
        own = resolved.get(name, {})
        if isinstance(own, dict):
            resolved[name] = shared | own
    return resolved


class RolesSettings(Section):
    """The cast: who writes personas, talks, infers, replies, verifies and judges.

    A setting of a role given directly under `roles` (`roles.model: …`) holds for every role that does not give
    its own.
    """

    persona_writer: RoleSettings = RoleSettings()
    user: RoleSettings = RoleSettings()
    inducer: RoleSettings = RoleSettings()
    responder: RoleSettings = RoleSettings()
    verifier: SteadyRole = SteadyRole()
    judge: SteadyRole = SteadyRole()

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: object) -> object:
        return shared_by_roles(values, cls.model_fields)
