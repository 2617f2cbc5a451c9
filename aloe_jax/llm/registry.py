"""The table of providers: what can play a role, what it needs, and which settings it takes.

Choices, defaults, checks and error messages of `roles.provider` follow from it. A provider is one entry here and one
file with its class; a package above this one adds its own by `register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module


@dataclass(frozen=True)
class ProviderEntry:
    """One provider. Classes are named as "module:Class" and imported when a role is first played by them."""

    name: str
    build: str  # remote: Class(role, access), which makes single attempts; otherwise Class(role), which answers itself
    remote: bool = True  # a server answers: keys, prices, attempts, pauses and limits apply
    batch: str | None = None  # Class(role, player, on_fault=...): many calls as one job
    batch_price: float = 1.0  # of a call in a batch, as a share of the price of a single one
    example_model: str | None = None  # None: `model` need not be given
    key_variables: tuple[str, ...] = ()  # environment variables with the key, first one first
    key_at_endpoint: bool = True  # False: where `endpoint` names another server, only `key_variable` gives a key
    any_model_name: bool = False  # False: names of letters, digits and ./:@-_ only
    needs_price: bool = True  # under `max_cost`
    simulated: bool = False  # a script answers, so texts and figures say nothing about language models or people
    google: bool = False  # reaches Google's servers, whose key and address serve for embeddings, too
    roles: tuple[str, ...] = ()  # that it can play; empty: all
    takes: frozenset[str] = frozenset()  # of RESTRICTED
    defaults: Mapping[str, object] = field(default_factory=dict)  # of settings that are not given


RESTRICTED = ("thinking_budget", "project")  # settings of a role that only some providers take

_GOOGLE_KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_GEMINI_MODEL = "gemini-3.5-flash-lite"
_ENTRIES = (
    ProviderEntry(
        "gemini", "aloe_jax.llm.gemini:Gemini", example_model=_GEMINI_MODEL, key_variables=_GOOGLE_KEYS, google=True
    ),
    ProviderEntry(
        "genai", "aloe_jax.llm.genai:Genai", example_model=_GEMINI_MODEL, key_variables=_GOOGLE_KEYS, google=True,
        batch="aloe_jax.llm.batch:GenaiBatch", batch_price=0.5, takes=frozenset(RESTRICTED),
    ),
    ProviderEntry(
        "openai", "aloe_jax.llm.openai:OpenAI", example_model="gpt-5-mini", key_variables=("OPENAI_API_KEY",),
        key_at_endpoint=False, any_model_name=True,
    ),
    ProviderEntry("scripted", "aloe_jax.llm.scripted:Scripted", remote=False, needs_price=False, simulated=True),
)  # fmt: skip
PROVIDERS: dict[str, ProviderEntry] = {entry.name: entry for entry in _ENTRIES}


def register(entry: ProviderEntry) -> None:
    """Add a provider. Raises ValueError when another one has its name."""
    if PROVIDERS.setdefault(entry.name, entry) != entry:
        raise ValueError(f"provider {entry.name}: is already registered with another entry")


def known_provider(name: str) -> str:
    """`name`. Raises ValueError, listing the choices, when no provider has it."""
    if name not in PROVIDERS:
        *first, last = (repr(choice) for choice in sorted(PROVIDERS))
        raise ValueError(f"should be {', '.join(first)} or {last}, not {name!r}")
    return name


def providers_taking(setting: str) -> str:
    """The providers that take a restricted setting, in words."""
    return " or ".join(name for name, entry in PROVIDERS.items() if setting in entry.takes)


def providers_with_batches() -> str:
    """The providers that answer many calls as one job, in words."""
    return " or ".join(name for name, entry in PROVIDERS.items() if entry.batch is not None)


def simulates(provider: str) -> bool:
    """Whether a provider of this name is a simulation. Any name is taken: results may be of another installation."""
    return provider in PROVIDERS and PROVIDERS[provider].simulated


def load_class(path: str) -> type:
    """The class at "module:Class"."""
    module, _, name = path.partition(":")
    found: type = getattr(import_module(module), name)
    return found
