"""From a role's settings to the language model that plays it."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from aloe_jax.errors import AloeError
from aloe_jax.llm.access import Access
from aloe_jax.llm.limits import Limits
from aloe_jax.llm.protocol import LLM
from aloe_jax.llm.registry import load_class
from aloe_jax.llm.retry import Backend, FaultHook, Persistent
from aloe_jax.llm.settings import RoleSettings


def language_model(role: RoleSettings, name: str, on_fault: FaultHook | None = None) -> LLM:
    """The model that `role.provider` names, for the role `name` ("user", "judge" ...).

    `on_fault` is called with (model, role, fault) for every attempt that failed. Raises AloeError when no call could
    succeed: no model, no key, an address that is none, a role that the provider does not play, or limits other than
    those of another role that speaks to the same model.
    """
    check_role(role, name)
    if role.entry.remote:
        return Persistent(backend(role, name), role, shared_limits(role, name), on_fault=on_fault)
    model: LLM = load_class(role.entry.build)(role)
    return model


def check_role(role: RoleSettings, name: str, priced: bool = False) -> None:
    """Raise AloeError where a role cannot be played, as far as its settings say it: keys are not looked for.

    `priced`: whether it needs a price, because dollars are limited.
    """
    entry = role.entry
    if entry.roles and name not in entry.roles:
        raise AloeError(f"roles.{name}.provider: {entry.name} plays the {' and the '.join(entry.roles)} only")
    if role.model is None and entry.example_model is not None:
        raise AloeError(
            f"roles.{name}.model: provider {entry.name} needs a model, for example {entry.example_model}; "
            "roles.provider=scripted simulates one offline"
        )
    if priced:
        check_price(role, name)


def check_price(role: RoleSettings, name: str) -> None:
    """Raise AloeError where a limit of dollars could not be kept for want of a price."""
    if role.price is None and role.entry.needs_price:
        raise AloeError(
            f"roles.{name}.price: max_cost needs the price of every model; "
            "give input and output in dollars per million tokens"
        )


def backend(role: RoleSettings, name: str) -> Backend:
    """What makes one attempt at a call to a remote model. Raises AloeError as `language_model` does."""
    made: Backend = load_class(role.entry.build)(role, Access(role, name))
    return made


# ---------------------------------------------------------------- limits

_limits: WeakValueDictionary[tuple[str, str | None, str | None], Limits] = WeakValueDictionary()
_first: dict[tuple[str, str | None, str | None], str] = {}  # the role that brought a model's limits in
_lock = threading.Lock()


def shared_limits(role: RoleSettings, name: str) -> Limits:
    """The limits of the model that `role` speaks to: one object for all roles that speak to it, while any lives.

    Raises AloeError when another of them gives that model other limits.
    """
    model = role.provider, role.model, role.endpoint
    asked = role.requests_per_minute, role.tokens_per_minute
    with _lock:
        limits = _limits.get(model)
        if limits is None:
            limits = _limits[model] = Limits(*asked)
            _first[model] = name
        given = limits.requests_per_minute, limits.tokens_per_minute
        if given != asked:
            raise AloeError(
                f"roles.{name}: requests_per_minute={asked[0]} and tokens_per_minute={asked[1]}, but "
                f"roles.{_first[model]} gives {role.model} {given[0]} and {given[1]}; a model's limits are shared by "
                "all roles that speak to it, so give them the same"
            )
    return limits
