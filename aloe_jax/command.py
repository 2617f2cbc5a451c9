"""What all commands share: --config, trailing overrides, and one-line errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from aloe_jax import config
from aloe_jax.errors import AloeError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn AloeError and a full disk into click errors: one line, exit status 1, no traceback."""
    try:
        yield
    except AloeError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None


def configured(
    kind: type[config.Section], **flags: tuple[str, dict[str, Any]]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a click command: adds --config FILE and `section.key=value` arguments.

    The function receives the resolved settings as its first argument. `flags` are settings with an option of
    their own, as `max_cost=("max_cost", {"help": ...})`: option --max-cost, dotted key, arguments of click.option.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--config", "path", required=True, metavar="FILE", help="YAML file of settings.")
        @click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
        @functools.wraps(function)
        def run(*args: Any, path: str, overrides: tuple[str, ...], **kwargs: Any) -> Any:
            given = {name: kwargs.pop(name) for name in flags}
            set_by_flags = [f"{flags[name][0]}={value}" for name, value in given.items() if value is not None]
            with one_line_errors():
                return function(config.load(kind, path, (*overrides, *set_by_flags)), *args, **kwargs)

        for name, (key, arguments) in flags.items():
            option = {**arguments, "help": f"{arguments['help']} Short for {key}=..."}
            run = click.option(f"--{name.replace('_', '-')}", name, default=None, **option)(run)
        return run

    return decorate
