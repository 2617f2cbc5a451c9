"""Dialogues side by side as rows and lines: what judges prefer, for tables and for a terminal."""

from __future__ import annotations

from aloe_jax.benchmark.number_text import p_value, percent
from aloe_jax.report.differences import LEVEL, JudgedPair
from aloe_jax.report.gathering import Report

HEAD = ("Side by side", "Wins of the second", "Ties", "Wins of the first", "Win rate of the second", "p")


def side_row(side: JudgedPair, report: Report) -> list[str]:
    """Cells under `HEAD`, as plain text."""
    found = side.found
    counts = [str(count) for count in (found.wins, found.ties, found.losses)]
    return [_models(side, report), *counts, _win_rate(side), p_value(found.p_holm)]


def side_line(side: JudgedPair, report: Report) -> str:
    """Such as "side by side one → two: win rate of the second 75.0% (40.0% to 95.0%), p = 0.300, not significant"."""
    p = p_value(side.found.p_holm)
    test = f", p {p if p.startswith('<') else f'= {p}'}" if side.found.p_holm is not None else ""
    clear = side.found.p_holm is None or side.found.p_holm < LEVEL
    shown = f"side by side {_models(side, report)}: win rate of the second {_win_rate(side)}{test}"
    return shown + ("" if clear else ", not significant")


def _models(side: JudgedPair, report: Report) -> str:
    of = f" ({side.run})" if len(report.judged) > 1 else ""
    return f"{side.found.first} → {side.found.second}{of}"


def _win_rate(side: JudgedPair) -> str:
    found = side.found
    ends = "" if found.low is None else f" ({percent(found.low)} to {percent(found.high)})"
    return percent(found.win_rate) + ends
