"""How the lines of a chart are distinguished: by colour, by marker and by dash, so that no one needs all three.

The colours are after Okabe & Ito's palette, darkened (and lightened for dark pages) until text in them has a contrast
of 4.5 to its ground; `page/style.css` has them as --c0 … --c5 for both.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS = ("#0072b2", "#b84c00", "#007a58", "#a8438c", "#7a5d00", "#4d57c8")
REFERENCE = "#676d75"
DASHES = ("", "8 4", "2 3", "11 3 3 3")
MARKERS = ("circle", "square", "triangle", "diamond", "cross")
_REFERENCE_DASHES = ("2 5", "7 5", "12 5 2 5")


@dataclass(frozen=True)
class Look:
    """Of one line. `style` is the class that colours it in the page; a reference has no markers."""

    style: str
    colour: str
    dash: str
    marker: str


def model_look(index: int) -> Look:
    """Of the model under test number `index`; no two of the first 60 are alike."""
    place = index % len(COLOURS)
    return Look(f"c{place}", COLOURS[place], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)])


def reference_look(index: int) -> Look:
    """Of the reference line number `index`."""
    return Look("ref", REFERENCE, _REFERENCE_DASHES[index % len(_REFERENCE_DASHES)], "")
