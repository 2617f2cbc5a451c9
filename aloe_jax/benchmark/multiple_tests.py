"""Holm's correction (1979) of p-values that are read together.

A family is all tests between a run's models: their differences, and their dialogues side by side. Models beside their
own controls are another family, and recipes a third. What compares two models gives its p-value alone; this is done
once, where all tests of a family are known.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloe_jax.benchmark.results import Number, StoredDifference, StoredSideBySide


def holm(p_values: Sequence[Number]) -> list[Number]:
    """Holm's step-down correction, in the given order; None stands for a test that was not made."""
    made = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[Number] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(made):
        largest = corrected[i] = max(largest, min(1.0, (len(made) - rank) * p))
    return corrected


def corrected_together(
    differences: Sequence[StoredDifference], sides: Sequence[StoredSideBySide] = ()
) -> tuple[list[StoredDifference], list[StoredSideBySide]]:
    """The same with `p_holm` for all of these tests as one family; what has no p-value is no test."""
    tests = [*(one.p for one in differences), *(one.p for one in sides)]
    corrected = iter(holm(tests))
    return (
        [one.model_copy(update={"p_holm": next(corrected)}) for one in differences],
        [one.model_copy(update={"p_holm": next(corrected)}) for one in sides],
    )
