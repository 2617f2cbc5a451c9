"""What commands that ask language models share: limits, and the last line and exit status of what is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from aloe_jax.cli.configured import Shortcut
from aloe_jax.coverage import NOTHING, Coverage, last_line

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
