"""The AL(k) curves as inline SVG. Colours come from the page's style sheet: it may be light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from aloe_jax.benchmark.metrics import Array

COLOURS = 6  # .c0 … .c5 in report.html; more lines than that repeat them with another marker

_WIDTH, _HEIGHT = 860.0, 430.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 170.0, 14.0, 48.0
_LABEL_GAP = 17.0  # least distance between the labels at the line ends
_MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Line:
    """One curve: AL with its interval, [K] each, NaN where a turn has no rating."""

    name: str
    al: Array
    low: Array
    high: Array
    reference: bool
    index: int  # of the colour and the marker


def line_class(reference: bool, index: int) -> str:
    """The style class that colours a line, its label and its table row."""
    return "ref" if reference else f"c{index % COLOURS}"


def alignment_chart(lines: Sequence[Line]) -> str:
    """An SVG of all lines over turns 1..K on the fixed scale 1–5, each labelled at its end."""
    turns = len(lines[0].al)
    names = ", ".join(line.name for line in lines)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="Alignment level by turn: {escape(names)}">',
        *_axes(turns),
    ]
    ordered = sorted(lines, key=lambda line: not line.reference)  # reference lines lie below the models'
    parts += [_band(line) for line in ordered if not line.reference]
    parts += [_curve(line) for line in ordered]
    parts += _labels(ordered)
    parts += [_column(turn, turns) for turn in range(turns)]
    return "\n".join([*parts, "</svg>"])


def _x(turn: int, turns: int) -> float:
    span = _WIDTH - _LEFT - _RIGHT
    return _LEFT + 14 + (span - 28) * (turn / (turns - 1) if turns > 1 else 0.5)


def _y(level: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (5.0 - level) / 4.0


def _axes(turns: int) -> list[str]:
    right = _WIDTH - _RIGHT
    parts = []
    for level in range(1, 6):
        y = _y(level)
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 10:g}" y="{y + 4:.1f}" text-anchor="end">{level}</text>')
    step = math.ceil(turns / 12)
    for turn in range(0, turns, step):
        x, y = _x(turn, turns), _HEIGHT - _BOTTOM + 20
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y:g}" text-anchor="middle">{turn + 1}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="axis" x="{middle:g}" y="{_HEIGHT - 6:g}" text-anchor="middle">Turn</text>')
    return parts


def _runs(line: Line) -> list[list[int]]:
    """Turns with a rating, split where one is missing."""
    runs: list[list[int]] = [[]]
    for turn, level in enumerate(line.al):
        if math.isnan(level):
            runs.append([])
        else:
            runs[-1].append(turn)
    return [run for run in runs if run]


def _band(line: Line) -> str:
    turns, shapes = len(line.al), []
    for rated in _runs(line):
        run = [turn for turn in rated if not math.isnan(line.low[turn])]  # no interval from a single case
        edge = [(turn, line.high[turn]) for turn in run] + [(turn, line.low[turn]) for turn in reversed(run)]
        points = " ".join(f"{_x(turn, turns):.1f},{_y(level):.1f}" for turn, level in edge)
        shapes.append(f'<polygon points="{points}"/>' if points else "")
    return f'<g class="band {line_class(line.reference, line.index)}">{"".join(shapes)}</g>'


def _curve(line: Line) -> str:
    turns, shapes = len(line.al), []
    for run in _runs(line):
        points = " ".join(f"{_x(turn, turns):.1f},{_y(line.al[turn]):.1f}" for turn in run)
        shapes.append(f'<polyline points="{points}"/>')
        if not line.reference or len(run) == 1:
            shapes += [_marker(line.index, _x(turn, turns), _y(line.al[turn])) for turn in run]
    return f'<g class="curve {line_class(line.reference, line.index)}">{"".join(shapes)}</g>'


def _marker(index: int, x: float, y: float) -> str:
    match _MARKERS[index % len(_MARKERS)]:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        case "square":
            return f'<rect x="{x - 3.7:.1f}" y="{y - 3.7:.1f}" width="7.4" height="7.4"/>'
        case "triangle":
            corners = [(x, y - 5.2), (x + 4.8, y + 3.6), (x - 4.8, y + 3.6)]
        case _:
            corners = [(x, y - 5.4), (x + 5.4, y), (x, y + 5.4), (x - 5.4, y)]
    return '<polygon points="{}"/>'.format(" ".join(f"{a:.1f},{b:.1f}" for a, b in corners))


def _labels(lines: Sequence[Line]) -> list[str]:
    """Names at the line ends, moved apart where they would overlap, with a leader back to their line."""
    ends = [(line, _runs(line)[-1][-1]) for line in lines if _runs(line)]
    ends.sort(key=lambda end: _y(end[0].al[end[1]]))
    places = _spread([_y(line.al[turn]) for line, turn in ends])
    parts, x = [], _WIDTH - _RIGHT + 14
    for (line, turn), place in zip(ends, places, strict=True):
        start, y = _x(turn, len(line.al)), _y(line.al[turn])
        kind = line_class(line.reference, line.index)
        leader = f"M{start + 8:.1f} {y:.1f} L{x - 4:.1f} {place:.1f}"
        text = escape(line.name if len(line.name) <= 22 else line.name[:21] + "…")
        parts.append(
            f'<g class="label {kind}"><path d="{leader}"/><text x="{x:g}" y="{place + 4:.1f}">{text} '
            f'<tspan class="value">{line.al[turn]:.2f}</tspan></text></g>'
        )
    return parts


def _spread(wanted: Sequence[float]) -> list[float]:
    """Places at least _LABEL_GAP apart and inside the chart, as near as may be to `wanted` (ascending)."""
    groups: list[list[float]] = []  # [sum of what its members want at their first member's place, members]
    for place in wanted:
        groups.append([place, 1])
        while len(groups) > 1 and _start(groups[-2]) + groups[-2][1] * _LABEL_GAP > _start(groups[-1]):
            total, members = groups.pop()
            groups[-1][0] += total - members * groups[-1][1] * _LABEL_GAP
            groups[-1][1] += members
    return [_start(group) + i * _LABEL_GAP for group in groups for i in range(int(group[1]))]


def _start(group: Sequence[float]) -> float:
    first = group[0] / group[1]
    highest = _HEIGHT - _BOTTOM - (group[1] - 1) * _LABEL_GAP
    return max(_TOP, min(first, highest))


def _column(turn: int, turns: int) -> str:
    """The area over one turn that the page's script listens on, with a line to show there."""
    x, width = _x(turn, turns), (_WIDTH - _LEFT - _RIGHT) / turns
    height = _HEIGHT - _TOP - _BOTTOM
    return (
        f'<g class="column" data-turn="{turn}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP:g}" '
        f'y2="{_HEIGHT - _BOTTOM:g}"/><rect x="{x - width / 2:.1f}" y="{_TOP:g}" width="{width:.1f}" '
        f'height="{height:g}"/></g>'
    )
