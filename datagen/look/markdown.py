"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

NUMERIC = "0123456789-$\u2013"  # how the cells of a column of numbers begin


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; columns of numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    numeric = [all(not cell or cell[0] in NUMERIC for cell in column) for column in zip(*cells, strict=True)]
    rule = ["---:" if right else "---" for right in numeric or [False] * len(heads)]
    return "\n".join(_line(row) for row in [heads, rule, *cells])


def _line(cells: Sequence[str]) -> str:
    # A bar or a line break in a text would end the cell.
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
