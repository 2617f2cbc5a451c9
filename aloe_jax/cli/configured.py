"""--config FILE, trailing `section.key=value` overrides, and options that are short for a setting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click

from aloe_jax.settings import Section, load_settings


@dataclass(frozen=True)
class Shortcut:
    """An option that is short for the setting `key`: --max-rows for `data.max_rows`."""

    key: str
    help: str
    type: click.ParamType | type | None = None
    sets: str | None = None  # an option without a value sets this

    @property
    def name(self) -> str:
        """The option as a parameter of a function."""
        return self.key.rpartition(".")[2]

    def option(self) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """As click has it."""
        decorate = functools.partial(click.option, f"--{self.name.replace('_', '-')}", self.name, default=None)
        text = f"{self.help} Short for {self.key}=..."
        return decorate(help=text, type=self.type) if self.sets is None else decorate(help=text, flag_value=self.sets)


def configured(
    kind: type[Section],
    *shortcuts: Shortcut,
    instead: Mapping[str, type[Section]] | None = None,
    required: bool = True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate the function of a click command, which gets the settings of `kind` as its first argument.

    `instead`: options under which the settings are of another kind. Not `required`: without --config all settings have
    their defaults.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @click.option("--config", "path", required=required, metavar="FILE", help="YAML file of settings.")
        @click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
        @functools.wraps(function)
        def run(*, path: str | None, overrides: tuple[str, ...], **options: object) -> None:
            given = {shortcut.key: options.pop(shortcut.name) for shortcut in shortcuts}
            by_option = [f"{key}={value}" for key, value in given.items() if value is not None]
            chosen = next((other for option, other in (instead or {}).items() if options[option]), kind)
            function(load_settings(chosen, path, (*overrides, *by_option)), **options)

        decorated: Callable[..., None] = run
        for shortcut in reversed(shortcuts):
            decorated = shortcut.option()(decorated)
        return decorated

    return decorate
