"""The agreement of judges and people for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aloe_jax.benchmark.number_text import UNDEFINED, interval, number, signed
from aloe_jax.benchmark.rating.figures import INTERVALS, Agreed, Agreements, PeopleAgreement
from aloe_jax.benchmark.results import StoredEstimate
from aloe_jax.terminal import plain

_CAVEAT = (
    "* the judge favours or disfavours this model: the interval does not hold 0. People who rate carelessly, or shun "
    "the ends of the scale, make a judge seem to favour the best model and disfavour the worst."
)


def tables(found: PeopleAgreement) -> Group:
    """Raters, agreement in both ways, judge against people by model, and what is missing."""
    return Group(*_parts(found))


def _parts(found: PeopleAgreement) -> Iterator[RenderableType]:
    if found.simulated:
        yield plain(f"simulated in the runs: {', '.join(found.simulated)}", style="yellow")
    yield Text(f"{found.items} replies of {found.cases} cases; {INTERVALS}")
    yield _raters(found)
    yield Text("Agreement, replies counted as they fall in the runs", style="bold")
    yield _agreement(found.in_runs)
    yield Text("Agreement, replies as drawn: evenly over the judge's ratings", style="bold")
    yield _agreement(found.as_drawn)
    yield _models(found)
    yield Text(_CAVEAT)
    for name, bias in found.bias.items():
        yield plain(f"{name} less people: {_signed(bias)}")
    for line in found.missing:
        yield plain(f"missing: {line}", style="yellow")


def _raters(found: PeopleAgreement) -> Table:
    table = Table("rater", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("rated", "passed", "missing", "mean", "seconds", "Spearman"):
        table.add_column(name, justify="right")
    checked = any(one.checks is not None for one in found.raters)
    if checked:
        table.add_column("checks")
    for one in found.raters:
        cells = [str(one.rated), str(one.passed), str(one.missing), number(one.mean, 1), number(one.seconds, 0)]
        cells.append(number(one.spearman))
        if checked and one.checks is not None:
            share = one.checks.told_apart
            shown = "too few" if share is None else f"{share:.0%}"
            cells.append(f"{shown}: careless?" if one.checks.attentive is False else shown)
        table.add_row(plain(one.rater), *cells)
    return table


def _agreement(found: Agreements) -> Table:
    table = Table("of", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("n", "alpha", "Spearman"):
        table.add_column(name, justify="right")
    _row(table, "people with each other", found.people)
    for one in found.judges:
        _row(table, f"{one.judge}: one person", one.with_one)
        _row(table, f"{one.judge}: people's mean", one.with_mean)
    return table


def _row(table: Table, name: str, agreed: Agreed) -> None:
    table.add_row(plain(name), str(agreed.units), _range(agreed.alpha), _range(agreed.spearman))


def _models(found: PeopleAgreement) -> Table:
    table = Table("model", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("n", "people", "judge", "judge less people", "more than for others"):
        table.add_column(name, justify="right")
    for one in found.models:
        favour = _signed(one.favour) if one.favour else UNDEFINED
        clear = one.favour is not None and not _holds_zero(one.favour)
        cells = (str(one.items), number(one.people.value), number(one.judge.value), _signed(one.bias))
        table.add_row(plain(f"{one.model} *" if clear else one.model), *cells, favour, style="bold" if clear else "")
    return table


def _holds_zero(estimate: StoredEstimate) -> bool:
    return estimate.low is None or estimate.high is None or estimate.low <= 0 <= estimate.high


def _range(estimate: StoredEstimate) -> str:
    ends = interval(estimate.low, estimate.high)
    return number(estimate.value) + (f" ({ends})" if ends else "")


def _signed(estimate: StoredEstimate) -> str:
    ends = interval(estimate.low, estimate.high, sign=True)
    return signed(estimate.value) + (f" ({ends})" if ends else "")
