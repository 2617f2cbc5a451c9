"""What all commands share: --debug, errors of one line, and exit statuses.

A command is created with `click.command(cls=Command)`, a group with `click.group(cls=CommandGroup)`. Whatever happens
in it then ends in one line and a status: 0 done, 1 it could not be done, 2 it was called wrongly, 130 Ctrl-C.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any  # noqa: TID251  click's own signatures are passed on

import click

from aloe_jax.faults import defect, explain

_DEBUG = "aloe_jax.debug"
INTERRUPTED = 130


def debugging() -> bool:
    """Whether tracebacks are wanted: by --debug, or by ALOE_DEBUG=1 in the environment."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(_DEBUG)) or os.environ.get("ALOE_DEBUG", "0") not in ("", "0")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn every exception into an error of click: one line and exit status 1, with the traceback under --debug.

    Where the reader of the output is gone (`| head`) the command ends without a word, at Ctrl-C with status 130.
    """
    try:
        yield
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        raise _interrupted() from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _discard_output()
            raise click.exceptions.Exit(1) from None
        if debugging():
            traceback.print_exc()
        raise click.ClickException(explain(error) or defect(error)) from None


class Command(click.Command):
    """A command with --debug, whose every end is a status and at most one line of error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())

    def invoke(self, ctx: click.Context) -> object:
        """As click does, with errors of one line."""
        with one_line_errors():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does, with streams that can be written and are flushed in time."""
        if not kwargs.get("standalone_mode", True):
            return super().main(*args, **kwargs)
        return _run(functools.partial(super().main, *args, **kwargs))


class CommandGroup(Command, click.Group):
    """A group of such commands."""

    command_class = Command


class LazyGroup(CommandGroup):
    """A group whose commands are the `main` of modules, imported when they are needed."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **kwargs: Any) -> None:
        """`modules`: subcommand -> module, in the order of the help."""
        super().__init__(*args, **kwargs)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, None where there is none."""
        if cmd_name not in self._modules:
            return None
        command: click.Command = import_module(self._modules[cmd_name]).main
        return command


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
        _print_error(explain(error) or defect(error))
    finally:
        threading.excepthook = before
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        if error.errno != errno.EPIPE:
            _print_error(f"standard output: {error.strerror}")
        status = status or 1
    with suppress(OSError):
        sys.stderr.flush()
    sys.exit(status)


def _interrupted() -> click.exceptions.Exit:
    with suppress(OSError):
        click.echo("Interrupted.", err=True)
    return click.exceptions.Exit(INTERRUPTED)


def _print_error(text: str) -> None:
    with suppress(OSError):
        click.echo(f"Error: {text}", err=True)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    error = failure.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    if debugging():
        with suppress(OSError):
            traceback.print_exception(error)
    _print_error(f"beside the work: {explain(error) or defect(error)}")


# ---------------------------------------------------------------- standard streams: closed, full, or without a reader


def _open_streams() -> None:
    """Open closed streams (`>&-`) on the null device, so that no file gets their number and what is printed to them.

    What the terminal's encoding cannot express is printed escaped: an arrow is no reason to end.
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
    """Whether the pipe that broke is standard output or error and not, say, a connection."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Send what is still buffered to the null device: writing it would fail again when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
