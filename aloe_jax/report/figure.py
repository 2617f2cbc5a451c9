"""The AL(k) curves as a picture for a paper or a README: PNG, PDF or SVG, by the file's ending.

The lines are those of the page. matplotlib draws them, which is not installed by default (`pip install
'aloe-jax[report]'`): a picture needs fonts, antialiasing and a writer per format, and the page must not need them.
"""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from aloe_jax.errors import AloeError
from aloe_jax.report.gathering import Report
from aloe_jax.report.pictures import line_charts
from aloe_jax.report.svg import references_first
from aloe_jax.storage.files import as_path, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FORMATS = (".png", ".pdf", ".svg")
_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "P", "": ""}
_INK, _SOFT, _RULE = "#1d2126", "#5b636d", "#e3e1dc"


def write_figure(report: Report, target: str | Path) -> None:
    """Write the curves with their bands and a legend, whole or not at all.

    Raises AloeError for another ending, and without matplotlib.
    """
    target = as_path(target)
    if target.suffix.lower() not in FORMATS:
        raise AloeError(f"{target}: a figure ends in {', '.join(FORMATS)}")
    matplotlib = _matplotlib()
    # Without the time of writing and without random names, so that the same runs give the same file.
    unsigned = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    ending = target.suffix.lower()
    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "aloe", "font.size": 9, "font.family": "sans-serif"}):
        _draw(report).savefig(drawn, format=ending[1:], dpi=200, metadata=unsigned[ending])
    write_atomically(target, drawn.getvalue())


def _matplotlib() -> ModuleType:
    try:
        import matplotlib
    except ImportError:
        raise AloeError(
            "a figure needs matplotlib: pip install 'matplotlib>=3.10' (the extra `report` of this package); the page "
            "draws the same curves without it"
        ) from None
    return matplotlib


def _draw(report: Report) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn: dict[int, Line2D] = {}
    for line in references_first(line_charts(report)["al"].lines):
        look = line.look
        level, low, high = (
            [math.nan if value is None else value for value in values] for values in (line.values, line.low, line.high)
        )
        turns = range(1, len(level) + 1)
        if look.under_test:
            axes.fill_between(turns, low, high, color=look.colour, alpha=0.14, linewidth=0)
        dash = tuple(float(part) / 1.6 for part in look.dash.split())
        (drawn[line.entry],) = axes.plot(
            turns,
            level,
            color=look.colour,
            linewidth=1.7 if look.under_test else 1.2,
            linestyle=(0, dash) if dash else "-",
            marker=_MARKERS[look.marker],
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    axes.set(xlabel="Turn k", ylabel="Alignment level AL(k)", ylim=(0.9, 5.1), yticks=range(1, 6))
    axes.set_xticks(range(1, report.turns + 1, -(-report.turns // 12)))
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.tick_params(colors=_SOFT, length=0)
    figure.legend(
        [drawn[number] for number in range(len(report.entries))],
        [_plain(entry.label) + ("" if entry.numbers.complete else " (incomplete)") for entry in report.entries],
        loc="outside right upper",
        frameon=False,
        labelcolor=_INK,
        handlelength=3.4,
    )
    said = "Bands: 95% intervals of every turn by itself."
    if report.simulated:
        said += f" Simulated: {report.simulated}."
    figure.supxlabel(_plain(textwrap.fill(said, 120)), fontsize=7, color=_SOFT, x=0.01, ha="left")
    return figure


def _plain(text: str) -> str:
    """Text in which nothing is taken for a formula."""
    return text.replace("$", r"\$")
