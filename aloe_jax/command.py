"""What all commands share: --config, trailing overrides, --debug, and errors of one line.

A command is made with `click.command(cls=Command)`, a group with `click.group(cls=Group)`. Whatever happens in it then
ends in one line and a status: 0 done, 1 it could not be done, 2 it was called wrongly, 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from aloe_jax.faults import defect, explain
from aloe_jax.settings import Section, load_settings

_DEBUG = "aloe_jax.debug"
INTERRUPTED = 130


def debugging() -> bool:
    """Whether tracebacks are wanted: by --debug, or by ALOE_DEBUG=1 in the environment."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(_DEBUG)) or os.environ.get("ALOE_DEBUG", "0") not in ("", "0")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn every exception into an error of click: one line and exit status 1, with the traceback under --debug.

    A reader that is gone (`| head`) ends the command without a word, Ctrl-C with status 130.
    """
    try:
        yield
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        raise _interrupted() from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _write_nowhere()
            raise click.exceptions.Exit(1) from None
        if debugging():
            traceback.print_exc()
        raise click.ClickException(explain(error) or defect(error)) from None


def _interrupted() -> click.exceptions.Exit:
    with suppress(OSError):
        click.echo("Interrupted.", err=True)
    return click.exceptions.Exit(INTERRUPTED)


# ---------------------------------------------------------------- the command


class Command(click.Command):
    """A command with --debug, whose every end is a status and at most one line of error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, with errors of one line."""
        with one_line_errors():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does, with streams that can be written and are flushed in time."""
        if not kwargs.get("standalone_mode", True):
            return super().main(*args, **kwargs)
        return _run(functools.partial(super().main, *args, **kwargs))


class Group(Command, click.Group):
    """A group of such commands."""

    command_class = Command


def _debug_option() -> click.Option:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.meta[_DEBUG] = True

    return click.Option(
        ["--debug"], is_flag=True, is_eager=True, expose_value=False, callback=remember,
        help="Show the traceback of an error.",
    )  # fmt: skip


def _run(main: Callable[[], object]) -> None:
    """Call click's `main`, which ends in SystemExit, and end with that status or the line on what came instead."""
    _open_streams()
    before, threading.excepthook = threading.excepthook, _thread_failed
    status: str | int | None = 1
    try:
        main()
    except SystemExit as ending:
        status = ending.code
    except KeyboardInterrupt:
        status = _interrupted().exit_code
    except Exception as error:  # outside of every command, as where the error itself cannot be printed
        if debugging():
            traceback.print_exc()
        _last_line(explain(error) or defect(error))
    finally:
        threading.excepthook = before
    try:
        sys.stdout.flush()
    except OSError as error:
        _write_nowhere()
        if error.errno != errno.EPIPE:
            _last_line(f"standard output: {error.strerror}")
        status = status or 1
    with suppress(OSError):
        sys.stderr.flush()
    sys.exit(status)


def _last_line(text: str) -> None:
    with suppress(OSError):
        click.echo(f"Error: {text}", err=True)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    error = failure.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    if debugging():
        with suppress(OSError):
            traceback.print_exception(error)
    _last_line(f"beside the work: {explain(error) or defect(error)}")


# ---------------------------------------------------------------- the streams


def _open_streams() -> None:
    """Give closed streams (`>&-`) somewhere to go, so that no file gets their number and what is printed to them.

    What the terminal's encoding does not have is printed escaped: an arrow is no reason to end.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _reader_is_gone() -> bool:
    """Whether the pipe that broke is one of ours and not, say, a connection."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _write_nowhere() -> None:
    """What still waits to be written would fail again when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# ---------------------------------------------------------------- settings


def configured(
    kind: type[Section], **flags: tuple[str, dict[str, Any]]
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
                return function(load_settings(kind, path, (*overrides, *set_by_flags)), *args, **kwargs)

        for name, (key, arguments) in flags.items():
            option = {**arguments, "help": f"{arguments['help']} Short for {key}=..."}
            run = click.option(f"--{name.replace('_', '-')}", name, default=None, **option)(run)
        return run

    return decorate
