"""Holm's correction for all tests that a run makes of its models: of their differences, and side by side."""

from __future__ import annotations

from collections.abc import Sequence

from aloe_jax.benchmark.comparison import holm
from aloe_jax.benchmark.results import StoredDifference, StoredSideBySide


def corrected_together(
    differences: Sequence[StoredDifference], sides: Sequence[StoredSideBySide]
) -> tuple[list[StoredDifference], list[StoredSideBySide]]:
    """The same with `p_holm` for all of these tests as one family; what has no p-value is no test."""
    tests = [*(one.p for one in differences), *(one.p for one in sides)]
    corrected = iter(holm(tests))
    return (
        [one.model_copy(update={"p_holm": next(corrected)}) for one in differences],
        [one.model_copy(update={"p_holm": next(corrected)}) for one in sides],
    )
