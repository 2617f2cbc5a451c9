"""Names and texts for a terminal, as they are: nothing in them is markup, a picture or a command to the terminal."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from aloe_jax.faults import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def console() -> Console:
    """A console of rich in which "[bold]" is six letters and ":car:" five."""
    from rich.console import Console

    return Console(markup=False, emoji=False)


def shown(text: str) -> str:
    """A text of several lines that does nothing to a terminal: control characters are escaped, but for line and tab."""
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )


def plain(text: str, style: str = "") -> Text:
    """Text for a table or a line, whatever console prints it; control characters are escaped."""
    from rich.text import Text

    return Text(one_line(text), style=style)
