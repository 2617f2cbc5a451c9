"""Controls: a model under test once more, seeing the persona, or the newest message alone.

They are read beside their model and compete with none. What a model gains over itself without history is what it owes
to the history; what it lacks to itself with the persona in its prompt is what it could still infer.
"""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.comparison import compare
from aloe_jax.benchmark.results import StoredDifference
from aloe_jax.benchmark.settings import CandidateSettings


def control_of(name: str, models: Mapping[str, CandidateSettings]) -> str | None:
    """Of which of the models under test `name` is a control; None where it is none, or its model is not there."""
    control = models[name]
    if control.sees == "history":
        return None
    source = control.path, control.remote
    return next((other for other, one in models.items() if one.under_test and (one.path, one.remote) == source), None)


def control_differences(
    tables: Mapping[str, ArrayLike],
    models: Mapping[str, CandidateSettings],
    bootstrap: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
    design: CaseDesign | None = None,
) -> list[StoredDifference]:
    """Every model under test against its own controls, of ratings [N cases, K turns] by name.

    The value is that of the one that sees more minus that of the one that sees less, so `second` is the model where
    the control sees the last message only, and the control where that sees the persona. Uncorrected: they are a family
    of their own, so that controls take nothing from the tests between models.
    """
    found = []
    for control in tables:
        if (model := control_of(control, models)) is None:
            continue
        first, second = (control, model) if models[control].sees == "last_message" else (model, control)
        by_statistic = compare(tables[first], tables[second], bootstrap, permutations, seed, design)
        found += [one.model_copy(update={"first": first, "second": second}) for one in by_statistic.values()]
    return found
