"""Numbers as the report writes them, in the page, in tables and on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aloe_jax.benchmark.results import Number, StoredEstimate

MINUS, UNDEFINED = "\N{MINUS SIGN}", "\N{EN DASH}"

DIGITS = {"average": 2, "ir": 3, "n_ir": 3, "r2": 2, "final": 2}  # of each number of the benchmark
NAMES = {"average": "Average AL", "ir": "IR", "n_ir": "N-IR", "r2": "R²", "final": "AL at the last turn"}


def number(value: Number, digits: int = 2) -> str:
    """A dash where it is undefined; a real minus sign, and none before a zero."""
    if value is None or math.isnan(value):
        return UNDEFINED
    return _without_negative_zero(f"{value:.{digits}f}").replace("-", MINUS)


def signed(value: Number, digits: int = 2) -> str:
    """With its sign; zero has none."""
    if value is None or math.isnan(value):
        return UNDEFINED
    text = _without_negative_zero(f"{value:+.{digits}f}")
    return (text.removeprefix("+") if not text.strip("+0.") else text).replace("-", MINUS)


def percent(value: Number, digits: int = 1) -> str:
    """A share; never rounded up to 100% nor down to 0%."""
    if value is None or math.isnan(value):
        return UNDEFINED
    if value in (0.0, 1.0):
        return f"{value:.0%}"
    least = 0.1**digits
    return f"{min(max(100 * value, least), 100 - least):.{digits}f}%"


def interval(low: Number, high: Number, digits: int = 2, sign: bool = False) -> str:
    """`low to high`, nothing where there is none."""
    if low is None or high is None:
        return ""
    form = signed if sign else number
    return f"{form(low, digits)} to {form(high, digits)}"


def p_value(p: Number) -> str:
    """As papers print it."""
    if p is None or math.isnan(p):
        return UNDEFINED
    return "< 0.001" if p < 0.001 else f"{min(p, 0.999):.3f}" if p < 0.9995 else "1"


def p_equation(p: Number) -> str:
    """Such as `p = 0.012` or `p < 0.001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") or text == UNDEFINED else f"p = {text}"


def spread(estimate: StoredEstimate, digits: int) -> tuple[str, str] | None:
    """How far the interval's ends are below and above the printed value, in its digits; None without an interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    value = round(estimate.value, digits)
    below, above = value - round(estimate.low, digits), round(estimate.high, digits) - value
    return f"{abs(below):.{digits}f}", f"{abs(above):.{digits}f}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def counted(count: int, one: str, many: str = "") -> str:
    """`1 case`, `1,200 cases`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]


def _without_negative_zero(text: str) -> str:
    return text.replace("-", "") if not text.strip("-0.") else text
