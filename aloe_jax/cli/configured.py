"""What commands with settings share: --config FILE, `section.key=value` overrides, options short for a setting.

For commands that ask language models: limits, and the last line and exit status of what is missing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

from aloe_jax.coverage import NOTHING, Coverage, last_line
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


# ---------------------------------------------------------------- commands that ask language models

LIMITED = 3  # exit status of a run that a limit stopped
LIMITS = (
    Shortcut("max_cost", "Stop cleanly before this run spends more dollars.", float),
    Shortcut("max_calls", "Stop cleanly after so many calls of this run.", int),
)


def stop_at_limit(why: str) -> NoReturn:
    """Print which limit stopped the run, and end with its status."""
    click.echo(f"Stopped: {why}. Whatever is finished is kept; the same command goes on from there.", err=True)
    sys.exit(LIMITED)


def end(parts: Sequence[Coverage], unreachable: bool = False) -> None:
    """Print in the last line what is missing, and end with the status for it: 1 where a model was unreachable."""
    line, status = last_line(parts)
    if line:
        click.echo(f"Error: {line}" if status == NOTHING else line, err=True)
        sys.exit(1 if unreachable else status)
