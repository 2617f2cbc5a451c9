"""A conversation with a model in a terminal: lines that are answered, and commands that begin with a slash."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from aloe_jax.errors import AloeError
from aloe_jax.faults import defect, explain, one_line
from aloe_jax.sampling.talk import Talk
from aloe_jax.storage.files import make_directory, write_atomically
from aloe_jax.terminal import shown

type Describe = Callable[[Sequence[str]], str]  # the user's messages -> the persona they play, as text

HELP = """\
/undo        take the last exchange back
/reset       begin anew
/save FILE   write the conversation: one JSON object of messages; appended where FILE ends in .jsonl
/persona     the persona given by --persona, and what of it your messages have revealed
/help        this
/quit        leave, as Ctrl-D does; Ctrl-C stops a reply"""


def converse(talk: Talk, describe: Describe) -> None:
    """Read lines and answer them until Ctrl-D or /quit; `describe` returns what /persona prints."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  line editing and history, where it is there
    if isinstance(sys.stdin, io.TextIOWrapper):  # a byte that is no text comes as a lone surrogate
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            line = input("you> ").strip()
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D or /quit leaves)")
            continue
        except EOFError:
            click.echo()
            return
        if any("\ud800" <= character <= "\udfff" for character in line):
            click.echo(f"(that line holds bytes that are not text in {sys.stdin.encoding}; it was not sent)")
            continue
        if line == "/quit":
            return
        if line:
            respond(line, talk, describe)


def respond(line: str, talk: Talk, describe: Describe) -> None:
    """Do or answer one line. What goes wrong is printed and the conversation stays; a reader that is gone ends it."""
    try:
        if line.startswith("/"):
            command(line, talk, describe)
        else:
            answer(talk, line)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        click.echo("\n(stopped)")
    except Exception as error:
        click.echo(f"({explain(error) or defect(error)})")


def answer(talk: Talk, line: str) -> None:
    """Print the reply as it comes, and why it ended when that was not its own end."""
    pieces = talk.say(line)
    click.echo("model> ", nl=False)
    try:
        for piece in pieces:
            click.echo(shown(piece), nl=False)
            sys.stdout.flush()
        click.echo()
    except KeyboardInterrupt:
        pieces.close()
        click.echo("\n(stopped; what was said so far stays: /undo takes it back)")
    except AloeError as error:
        click.echo(f"({error}: /undo, /reset)")
    else:
        if talk.ended == "length":
            click.echo(
                f"(the reply is cut: the conversation has all {talk.sampler.max_length} tokens; /undo or /reset)"
            )
        elif talk.ended == "max_new_tokens":
            click.echo(f"(the reply is cut at --max-new-tokens {talk.sampling.max_new_tokens})")


def command(line: str, talk: Talk, describe: Describe) -> None:
    """Do what a line that begins with a slash says."""
    name, _, argument = line.partition(" ")
    match name, argument.strip():
        case "/undo", "":
            click.echo("(taken back)" if talk.undo() else "(there is nothing to take back)")
        case "/reset", "":
            talk.reset()
            click.echo("(a new conversation)")
        case "/save", "":
            click.echo("(/save FILE: give a file)")
        case "/save", file:
            click.echo(save(talk, Path(file)))
        case "/persona", "":
            click.echo(describe([m["content"] for m in talk.messages if m["role"] == "user"]))
        case "/help", "":
            click.echo(HELP)
        case _:
            click.echo(f"({line}: no such command; /help lists them)")


def save(talk: Talk, file: Path) -> str:
    """Write the conversation in the format of chats; returns what to print about it."""
    if not talk.exchanges:
        return "(nothing has been said yet)"
    text = json.dumps({"messages": talk.messages}, ensure_ascii=False) + "\n"
    try:
        file = file.expanduser()
        make_directory(file.parent)
        before = file.read_bytes() if file.suffix == ".jsonl" and file.exists() else b""
        if before and not before.endswith(b"\n"):  # a last line that was cut, or written by hand
            before += b"\n"
        write_atomically(file, before + text.encode())
    except KeyboardInterrupt:
        return f"\n({file}: not saved; what was there before is as it was)"
    except (OSError, ValueError, RuntimeError, AloeError) as error:  # RuntimeError: ~nobody has no home
        return f"({file}: not saved: {explain(error) or one_line(str(error))})"
    return f"({file}: {talk.exchanges} exchange{'s' if talk.exchanges > 1 else ''})"
