"""Charts as inline SVG: lines with bands over turns, stacked ratings by turn, and the interval of one difference.

Colours come from the page's style sheet, which may be light or dark; every line has the class `e` and its entry's
number as `data-entry`, by which the page's script switches it on and off. Lines are distinguished by colour, by marker
and by dash, so that no one needs all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from scipy.optimize import isotonic_regression

from aloe_jax.benchmark.results import Number

# After Okabe & Ito's palette, darkened (and lightened for dark pages) until text in them has a contrast of 4.5 to its
# ground; `page/style.css` has them as --c0 … --c5 for both.
COLOURS = ("#0072b2", "#b84c00", "#007a58", "#a8438c", "#7a5d00", "#4d57c8")
REFERENCE = "#676d75"
DASHES = ("", "8 4", "2 3", "11 3 3 3")
MARKERS = ("circle", "square", "triangle", "diamond", "cross")
_CONTROL_DASHES = {"persona": "9 4 2 4", "last_message": "2 4"}
_REFERENCE_DASHES = ("2 5", "7 5", "12 5 2 5")
LABEL_GAP = 17.0  # least distance between the labels at the line ends


@dataclass(frozen=True)
class Look:
    """Of one line. `style` is the class that colours it in the page; references and controls have no markers."""

    style: str
    colour: str
    dash: str
    marker: str
    under_test: bool = True  # otherwise it is drawn below the others, without a band


def model_look(index: int) -> Look:
    """Of the model under test number `index`; no two of the first 60 are alike."""
    colour = index % len(COLOURS)
    return Look(f"c{colour}", COLOURS[colour], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)])


def reference_look(index: int) -> Look:
    """Of the reference line number `index`."""
    return Look("ref", REFERENCE, _REFERENCE_DASHES[index % len(_REFERENCE_DASHES)], "", under_test=False)


def control_look(model: Look, sees: str) -> Look:
    """Of a control: its model's colour, with a dash by what it sees."""
    return replace(model, dash=_CONTROL_DASHES[sees], marker="", under_test=False)


@dataclass(frozen=True)
class Line:
    """One curve over turns: values, and the ends of their intervals where there are any."""

    entry: int  # its number in the report
    label: str
    look: Look
    values: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()


@dataclass(frozen=True)
class Frame:
    """Where the parts of a chart are, in its own units, and what its vertical axis spans."""

    least: float
    most: float
    ticks: Sequence[tuple[float, str]]
    turns: int
    width: float = 860.0
    height: float = 430.0
    left: float = 40.0
    right: float = 170.0
    top: float = 14.0
    bottom: float = 48.0
    steps: Sequence[float] = ()  # of training, ascending: the chart is over these `turns` steps, not over turns

    def x(self, turn: int) -> float:
        """Of a turn, 0-based, or of that one of the steps."""
        span = self.width - self.left - self.right
        share = turn / (self.turns - 1) if self.turns > 1 else 0.5
        if self.steps and self.turns > 1:
            share = (self.steps[turn] - self.steps[0]) / (self.steps[-1] - self.steps[0])
        return self.left + 14 + (span - 28) * share

    def across(self, turn: int) -> str:
        """What stands below a turn or a step."""
        return f"{self.steps[turn]:.0f}" if self.steps else f"{turn + 1}"

    def y(self, value: float) -> float:
        """Of a value; what is outside is drawn at the edge."""
        share = (min(max(value, self.least), self.most) - self.least) / (self.most - self.least)
        return self.top + (self.height - self.top - self.bottom) * (1 - share)


def rating_frame(turns: int, lines: int) -> Frame:
    """Of AL(k): the whole scale from 1 to 5, with room for the lines' names."""
    height = max(430.0, 62 + lines * LABEL_GAP)
    return Frame(1, 5, [(level, str(level)) for level in range(1, 6)], turns, height=height)


def small_frame(
    lines: Sequence[Line], turns: int, share: bool, most: Number = None, steps: Sequence[float] = ()
) -> Frame:
    """Of a small chart: round numbers that hold all values and 0, and end at `most` where it is given."""
    values = [value for line in lines for value in line.values if value is not None]
    low = min([0.0, *values])
    high = max([low, *values]) if most is None else most
    if high <= low:
        high = low + (0.1 if share else 1.0)
    step = _round_step((high - low) / 4)
    at = [n * step for n in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]
    digits = max(0, -math.floor(math.log10(step * (100 if share else 1)) + 1e-9))
    ticks = [
        (value, f"{100 * value:.{digits}f}%" if share else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}"))
        for value in at
    ]
    return Frame(at[0], at[-1], ticks, turns, width=380, height=230, left=46, right=12, bottom=40, steps=steps)


def line_chart(lines: Sequence[Line], frame: Frame, title: str) -> str:
    """An SVG of all lines over turns 1..K, or over steps; named at their ends where the frame leaves room for it.

    A line breaks where a turn is missing; over steps, which other lines may have and it not, it goes on.
    """
    ordered = references_first(lines)
    named = frame.right > 100
    small = "" if named else " small"
    return "\n".join(
        [
            f'<svg class="chart{small}" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" '
            f'aria-label="{escape(title)}">',
            *_axes(frame),
            *(_band(line, frame) for line in ordered if line.look.under_test and line.low),
            *(_curve(line, frame) for line in ordered),
            *(_labels(ordered, frame) if named else ()),
            *(_column(turn, frame) for turn in range(frame.turns)),
            "</svg>",
        ]
    )


def references_first(lines: Sequence[Line]) -> list[Line]:
    """In the order in which they are drawn: reference lines and controls are below the models'."""
    return sorted(lines, key=lambda line: line.look.under_test)


def stacked_chart(counts: Sequence[Sequence[int]], due: int, title: str) -> str:
    """Ratings 1–5 of every turn as shares of those that are due, the lowest at the bottom; gaps stay open."""
    turns = len(counts)
    frame = Frame(
        0, 1, [(0, "0%"), (0.5, "50%"), (1, "100%")], turns, width=380, height=210, left=46, right=12, bottom=40
    )
    span = frame.width - frame.left - frame.right
    width = span / max(turns, 1)
    parts = [f'<svg class="chart small" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" '
             f'aria-label="{escape(title)}">', *_axes(frame, across=False)]  # fmt: skip

    def rectangle(style: str, left: float, top: float, bottom: float) -> str:
        height = max(bottom - top - 0.8, 0.4)
        return f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" width="{width * 0.82:.1f}" height="{height:.1f}"/>'

    for turn, given in enumerate(counts):
        left, below = frame.left + width * (turn + 0.09), 0.0
        for rating, count in enumerate(given, 1):
            share = count / due if due else 0.0
            top, bottom = frame.y(below + share), frame.y(below)
            below += share
            if count:
                parts.append(rectangle(f"r{rating}", left, top, bottom))
            if bottom - top > 13 and width > 20:
                middle = left + width * 0.41
                parts.append(
                    f'<text class="r{rating}" x="{middle:.1f}" y="{(top + bottom) / 2 + 4:.1f}" '
                    f'text-anchor="middle">{rating}</text>'
                )
        if below < 1 - 1e-9:
            top, bottom = frame.y(1), frame.y(below)
            parts.append(rectangle("gap", left, top, bottom))
        if turn % math.ceil(turns / 12) == 0:
            parts.append(_turn_tick(left + width * 0.41, turn, frame))
    parts.append(_axis_title(frame))
    return "\n".join([*parts, "</svg>"])


def difference_chart(value: Number, low: Number, high: Number, span: tuple[float, float], strong: bool) -> str:
    """A difference with its interval, on a scale over `span`, which holds 0 and is shared by a column of a table."""
    width, height, (least, most) = 132.0, 20.0, span

    def x(at: float) -> float:
        return 8 + (width - 16) * ((min(max(at, least), most) - least) / (most - least) if most > least else 0.5)

    parts = [
        f'<svg class="forest{" strong" if strong else ""}" viewBox="0 0 {width:g} {height:g}" aria-hidden="true">',
        f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="1" y2="{height - 1:g}"/>',
    ]
    if low is not None and high is not None:
        parts.append(f'<line class="span" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="10" y2="10"/>')
        parts += [f'<line class="span" x1="{x(e):.1f}" x2="{x(e):.1f}" y1="6.5" y2="13.5"/>' for e in (low, high)]
    if value is not None:
        parts.append(f'<circle cx="{x(value):.1f}" cy="10" r="4.2"/>')
    return "".join([*parts, "</svg>"])


def swatch(look: Look) -> str:
    """A piece of a line as it is drawn in the charts, for tables and legends."""
    mark = _marker(look.marker, 17, 7) if look.marker else ""
    dash = f' stroke-dasharray="{look.dash}"' if look.dash else ""
    return (
        f'<svg class="swatch {look.style}" viewBox="0 0 34 14" aria-hidden="true">'
        f'<line x1="1" x2="33" y1="7" y2="7"{dash}/>{mark}</svg>'
    )


def _axes(frame: Frame, across: bool = True) -> list[str]:
    right = frame.width - frame.right
    parts = []
    for value, text in frame.ticks:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{frame.left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{frame.left - 8:g}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    if across:
        step = math.ceil(frame.turns / (7 if frame.steps else 12))
        parts += [_turn_tick(frame.x(turn), turn, frame) for turn in range(0, frame.turns, step)]
        parts.append(_axis_title(frame))
    return parts


def _turn_tick(x: float, turn: int, frame: Frame) -> str:
    y = frame.height - frame.bottom + 17
    return f'<text class="tick" x="{x:.1f}" y="{y:g}" text-anchor="middle">{frame.across(turn)}</text>'


def _axis_title(frame: Frame) -> str:
    middle, title = (frame.left + frame.width - frame.right) / 2, "Step" if frame.steps else "Turn"
    return f'<text class="axis" x="{middle:g}" y="{frame.height - 5:g}" text-anchor="middle">{title}</text>'


def _parts(values: Sequence[Number]) -> list[list[int]]:
    """Turns with a value, split where one is missing."""
    parts: list[list[int]] = [[]]
    for turn, value in enumerate(values):
        if value is None:
            parts.append([])
        else:
            parts[-1].append(turn)
    return [part for part in parts if part]


def _group(line: Line, kind: str, shapes: str) -> str:
    return f'<g class="e {kind} {line.look.style}" data-entry="{line.entry}">{shapes}</g>'


def _band(line: Line, frame: Frame) -> str:
    shapes = []
    for part in _parts([low if value is not None else None for low, value in zip(line.low, line.values, strict=True)]):
        edge = [(turn, line.high[turn]) for turn in part] + [(turn, line.low[turn]) for turn in reversed(part)]
        points = " ".join(f"{frame.x(turn):.1f},{frame.y(level):.1f}" for turn, level in edge if level is not None)
        shapes.append(f'<polygon points="{points}"/>')
    return _group(line, "band", "".join(shapes))


def _curve(line: Line, frame: Frame) -> str:
    shapes = []
    dash = f' stroke-dasharray="{line.look.dash}"' if line.look.dash else ""
    known = [turn for turn, value in enumerate(line.values) if value is not None]
    for part in [known] if frame.steps and known else _parts(line.values):
        at = [(frame.x(turn), frame.y(line.values[turn] or 0.0)) for turn in part]
        shapes.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}"{dash}/>')
        if line.look.marker or len(part) == 1:
            shapes += [_marker(line.look.marker or "circle", x, y) for x, y in at]
    return _group(line, "curve", "".join(shapes))


def _marker(kind: str, x: float, y: float) -> str:
    match kind:
        case "circle":
            return f'<circle class="m" cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>'
        case "square":
            return f'<rect class="m" x="{x - 3.8:.1f}" y="{y - 3.8:.1f}" width="7.6" height="7.6"/>'
        case "triangle":
            corners = [(x, y - 5.4), (x + 5, y + 3.8), (x - 5, y + 3.8)]
        case "diamond":
            corners = [(x, y - 5.6), (x + 5.6, y), (x, y + 5.6), (x - 5.6, y)]
        case _:  # cross
            a, b = 1.7, 5.0
            corners = [
                (x + dx, y + dy)
                for dx, dy in (
                    *((-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)),
                    *((a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)),
                )
            ]
    return f'<polygon class="m" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}"/>'


def _labels(lines: Sequence[Line], frame: Frame) -> list[str]:
    """Names at the line ends, moved away from each other where they would overlap, with a leader back to their line."""
    ends = []
    for line in lines:
        if parts := _parts(line.values):
            turn = parts[-1][-1]
            ends.append((line, turn, frame.y(line.values[turn] or 0.0)))
    ends.sort(key=lambda end: end[2])
    at = spread([y for _, _, y in ends], frame)
    found, x = [], frame.width - frame.right + 14
    for (line, turn, y), height in zip(ends, at, strict=True):
        text = escape(line.label if len(line.label) <= 17 else line.label[:16] + "…")
        found.append(
            _group(
                line,
                "label",
                f'<path d="M{frame.x(turn) + 8:.1f} {y:.1f} L{x - 4:.1f} {height:.1f}"/>'
                f'<text x="{x:g}" y="{height + 4:.1f}">{text} '
                f'<tspan class="value">{line.values[turn]:.2f}</tspan></text>',
            )
        )
    return found


def spread(wanted: Sequence[float], frame: Frame) -> list[float]:
    """Positions at least LABEL_GAP from each other and inside the chart, as near as may be to `wanted` (ascending)."""
    if not wanted:
        return []
    gaps = LABEL_GAP * np.arange(len(wanted))
    firsts = isotonic_regression(np.array(wanted) - gaps).x  # where the first label would be, were there no gaps
    lowest = frame.height - frame.bottom - gaps[-1]
    return [float(at) for at in np.maximum(frame.top, np.minimum(firsts, lowest)) + gaps]


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, … (times a power of ten)."""
    size = 10.0 ** math.floor(math.log10(least))
    return next(size * step for step in (1, 2, 5, 10) if size * step >= least * (1 - 1e-9))


def _column(turn: int, frame: Frame) -> str:
    """The area over one turn that the page's script listens on, with a line to show there."""
    x, height = frame.x(turn), frame.height - frame.top - frame.bottom
    width = (frame.width - frame.left - frame.right) / frame.turns
    if frame.steps and frame.turns > 1:  # as wide as the nearer neighbour allows
        width = min(abs(frame.x(other) - x) for other in (turn - 1, turn + 1) if 0 <= other < frame.turns)
    return (
        f'<g class="column" data-turn="{turn}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top:g}" '
        f'y2="{frame.height - frame.bottom:g}"/><rect x="{x - width / 2:.1f}" y="{frame.top:g}" width="{width:.1f}" '
        f'height="{height:g}"/></g>'
    )
