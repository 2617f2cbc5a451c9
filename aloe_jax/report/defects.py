"""What the report says of cut, empty and repeated replies: shares of every model, and warnings."""

from __future__ import annotations

from aloe_jax.benchmark.defects import defect_warnings
from aloe_jax.benchmark.number_text import percent
from aloe_jax.benchmark.results import StoredReplies
from aloe_jax.report.gathering import Report


def shares(found: StoredReplies | None) -> str:
    """Cut, empty and repeated, in this order; a dash for what is not known, and of how many replies it is not."""
    if found is None:
        return percent(None)
    cut = percent(found.cut)
    if 0 < found.unknown < found.replies:
        cut += f" ({found.unknown:,} of {found.replies:,} unknown)"
    return " / ".join((cut, percent(found.empty), percent(found.repeated)))


def defect_shares(report: Report) -> list[str]:
    """One line with the shares of all models; none where no run has counted them."""
    known = [entry for entry in report.entries if entry.numbers.replies is not None]
    if not known:
        return []
    listed = "; ".join(f"{entry.label} {shares(entry.numbers.replies)}" for entry in known)
    return [f"replies cut / empty / repeated: {listed}"]


def warnings(report: Report) -> list[str]:
    """A line for every model and defect that is too frequent."""
    found: list[str] = []
    for run in report.judged:
        assert run.results is not None
        own = {entry.label: entry.numbers.replies for entry in report.entries if entry.run == run.name}
        sampling = run.results.settings.get("sampling", {})
        found += defect_warnings(own, sampling if isinstance(sampling, dict) else {})
    return found
