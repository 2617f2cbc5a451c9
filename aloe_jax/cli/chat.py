"""`aloe chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import Shortcut, configured
from aloe_jax.errors import AloeError
from aloe_jax.models.settings import DType
from aloe_jax.sampling.settings import CacheType, ChatSettings

if TYPE_CHECKING:
    from aloe_jax.conversation import Persona


def _shortcut(key: str, text: str, kind: click.ParamType | type) -> Shortcut:
    return Shortcut(key, f"{text} [{ChatSettings.model_fields[key].default}]", kind)


@click.command(cls=Command)
@configured(
    ChatSettings,
    _shortcut("temperature", "0: always the likeliest token.", float),
    _shortcut("top_k", "Draw among so many likeliest tokens; 0: among all.", int),
    _shortcut("top_p", "Draw among the likeliest that hold this probability.", float),
    _shortcut("min_p", "Leave out what is below this share of the likeliest.", float),
    _shortcut("repetition_penalty", "Above 1: repeats become less likely.", float),
    _shortcut("max_new_tokens", "The longest reply.", int),
    _shortcut("max_length", "The longest conversation, in tokens.", int),
    _shortcut("cache", "How keys and values are stored.", click.Choice(get_args(CacheType))),
    _shortcut("dtype", "Of parameters and activations.", click.Choice(get_args(DType))),
    required=False,
)
@click.option("--checkpoint", required=True, metavar="DIR", help="A run directory or a Hugging Face directory.")
@click.option("--system", metavar="TEXT", help="A system message.")
@click.option("--devices", default=1, show_default=True, help="Devices that share the model; 0: all.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--persona",
    "persona_at",
    metavar="PATH[:ID]",
    help="A persona to play: a data set or JSONL file of personas, and which (default: the first).",
)
def main(
    settings: ChatSettings, checkpoint: str, system: str | None, seed: int, devices: int, persona_at: str | None
) -> None:
    """Talk to a model in the terminal; /help there lists the commands.

    The model does not see the persona of --persona: it is for you, to play and to look up with /persona.

    Example: python -m aloe_jax.chat --checkpoint runs/demo/dpo
    """
    persona = None if persona_at is None else read_persona(persona_at)
    click.echo(f"loading {checkpoint} ...", err=True)
    from aloe_jax.sampling.console import converse
    from aloe_jax.sampling.loading import load_sampler, shared_by
    from aloe_jax.sampling.talk import Talk

    mesh = shared_by(devices)
    sampler, template = load_sampler(checkpoint, settings.max_length, 1, settings.cache, settings.dtype, mesh)
    talk = Talk(sampler, template, settings, system, seed)
    click.echo("/help lists the commands; the first reply takes longer, while the model is compiled", err=True)
    converse(talk, functools.partial(describe, persona))


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


def describe(persona: Persona | None, messages: Sequence[str]) -> str:
    """The persona, its facts marked by whether the user's messages hold their words."""
    if persona is None:
        return "(no persona: give one with --persona PATH[:ID])"
    from aloe_jax.benchmark.automatic import facts_of
    from aloe_jax.speech import sentences

    revealed = facts_of("overlap", persona, messages, "").revealed
    facts = [f"  [{'x' if fact in revealed else ' '}] {fact}" for fact in sentences(persona.profile)]
    return "\n".join(
        [
            f"{persona.id}: [x] revealed so far, by words that your messages share with a fact; no more is meant by it",
            *facts,
            "  character, which shows in the tone and is not marked:",
            *(f"      {trait}" for trait in sentences(persona.personality)),
        ]
    )
