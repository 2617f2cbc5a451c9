"""Talk to a model in the terminal: `python -m aloe_jax.chat`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aloe_jax.command import Command, one_line_errors
from aloe_jax.errors import AloeError
from aloe_jax.faults import defect, explain, one_line
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling.settings import SamplingSettings
from aloe_jax.storage.files import make_directory, write_atomically
from aloe_jax.terminal import shown

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from aloe_jax.conversation import Persona
    from aloe_jax.sampling.talk import Talk

HELP = """\
/undo        take the last exchange back
/reset       begin anew
/save FILE   write the conversation: one JSON object of messages; appended where FILE ends in .jsonl
/persona     the persona given by --persona, and what of it your messages have told
/help        this
/quit        leave, as Ctrl-D does; Ctrl-C stops a reply"""


@click.command(cls=Command)
@click.option("--checkpoint", required=True, metavar="DIR", help="A run directory or a Hugging Face directory.")
@click.option("--system", metavar="TEXT", help="A system message.")
@click.option("--temperature", default=0.7, show_default=True, help="0: always the likeliest token.")
@click.option("--top-k", default=0, show_default=True, help="Draw among so many likeliest tokens; 0: among all.")
@click.option("--top-p", default=0.95, show_default=True, help="Draw among the likeliest that hold this probability.")
@click.option("--min-p", default=0.0, show_default=True, help="Leave out what is below this share of the likeliest.")
@click.option("--repetition-penalty", default=1.0, show_default=True, help="Above 1: repeats become less likely.")
@click.option("--max-new-tokens", default=512, show_default=True, help="The longest reply.")
@click.option("--max-length", default=4096, show_default=True, help="The longest conversation, in tokens.")
@click.option(
    "--cache",
    type=click.Choice(["compute", "bfloat16", "int8"]),
    default="compute",
    show_default=True,
    help="How keys and values are held.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of parameters and activations.",
)
@click.option("--devices", default=1, show_default=True, help="Devices that share the model; 0: all.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--persona",
    "persona_at",
    metavar="PATH[:ID]",
    help="A persona to play: a data set or JSONL file of personas, and which (default: the first).",
)
def main(
    checkpoint: str, system: str | None, seed: int, devices: int, persona_at: str | None, **sampling: object
) -> None:
    """Talk to a model in the terminal; /help there tells the commands.

    The model does not see the persona of --persona: it is for you, to play and to look up with /persona.

    Example: python -m aloe_jax.chat --checkpoint runs/demo/dpo
    """
    with one_line_errors():
        settings = read_settings(sampling)
        persona = None if persona_at is None else read_persona(persona_at)
        click.echo(f"loading {checkpoint} ...", err=True)
        from aloe_jax.sampling.loading import load_sampler
        from aloe_jax.sampling.talk import Talk

        mesh = shared_by(devices)
        sampler, template = load_sampler(checkpoint, settings.max_length, 1, settings.cache, settings.dtype, mesh)
        talk = Talk(sampler, template, settings, system, seed)
        click.echo("/help tells the commands; the first reply takes longer, while the model is compiled", err=True)
        converse(talk, persona)


def shared_by(devices: int) -> Mesh | None:
    """A mesh over the first so many devices (0: all) that share the model; None where that is only one."""
    import jax

    from aloe_jax.parallel.mesh import make_mesh

    here = jax.devices()
    if not 0 <= devices <= len(here):
        raise AloeError(f"--devices {devices}: {len(here)} are here")
    taken = here[: devices or len(here)]
    return make_mesh(MeshSettings(fsdp=1, tensor=-1), taken) if len(taken) > 1 else None


def converse(talk: Talk, persona: Persona | None) -> None:
    """Read lines and answer them until Ctrl-D or /quit."""
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
            respond(line, talk, persona)


def respond(line: str, talk: Talk, persona: Persona | None) -> None:
    """Do or answer one line. What goes wrong is printed and the conversation stays; a reader that is gone ends it."""
    try:
        if line.startswith("/"):
            command(line, talk, persona)
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


def command(line: str, talk: Talk, persona: Persona | None) -> None:
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
            click.echo(describe(persona, [m["content"] for m in talk.messages if m["role"] == "user"]))
        case "/help", "":
            click.echo(HELP)
        case _:
            click.echo(f"({line}: no such command; /help tells them)")


def save(talk: Talk, file: Path) -> str:
    """Write the conversation in the format of chats; returns what to tell about it."""
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


def read_settings(values: dict[str, object]) -> SamplingSettings:
    """Raises AloeError naming the option that has no valid value."""
    from pydantic import ValidationError

    from aloe_jax.conversation import first_fault

    try:
        return SamplingSettings.model_validate({**values, "rows": 1})
    except ValidationError as error:
        raise AloeError(f"--{first_fault(error).replace('_', '-')}") from None


def read_persona(at: str) -> Persona:
    """The persona at PATH[:ID]. Raises AloeError when there is none of that id."""
    from aloe_jax.data.dataset import read_personas
    from aloe_jax.storage.files import as_path

    path, _, wanted = (at, "", "") if as_path(at).exists() else at.rpartition(":")
    personas = read_personas(path or at)
    for persona in personas:
        if not wanted or persona.id == wanted:
            return persona
    raise AloeError(f"--persona: {path} has no persona {wanted}; it has {', '.join(p.id for p in personas[:5])} ...")


def describe(persona: Persona | None, messages: list[str]) -> str:
    """The persona, its facts marked by whether the user's messages hold their words."""
    if persona is None:
        return "(no persona: give one with --persona PATH[:ID])"
    from aloe_jax.benchmark.facts import facts_of
    from aloe_jax.speech import sentences

    told = facts_of("overlap", persona, messages, "").revealed
    facts = [f"  [{'x' if fact in told else ' '}] {fact}" for fact in sentences(persona.profile)]
    return "\n".join(
        [
            f"{persona.id}: [x] told so far, by the words that your messages share with a fact; no more is meant by it",
            *facts,
            "  character, which shows in the tone and is not marked:",
            *(f"      {trait}" for trait in sentences(persona.personality)),
        ]
    )


if __name__ == "__main__":
    main()
