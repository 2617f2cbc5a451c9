"""Numbers fetched from the devices: logged where they are finite, and the end of the run where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from aloe_jax.data.loader import Loader
from aloe_jax.errors import AloeError
from aloe_jax.parallel import distributed
from aloe_jax.storage.files import write_atomically
from aloe_jax.training.metrics import MetricsLog
from aloe_jax.training.totals import perplexity, read


def read_steps(
    pending: list[tuple[int, Any]], loader: Loader, log: MetricsLog, rate: Any, directory: Path
) -> dict[str, float]:
    """Fetch and log the metrics of the last steps; their means. Stops the run on a loss that is not finite."""
    rows: list[dict[str, float]] = []
    for number, totals in pending:
        values = read(totals)
        if not (np.isfinite(values.get("loss", 0.0)) and np.isfinite(values["grad_norm"])):
            path = directory / f"nonfinite-{number + 1}.json"
            if distributed.is_lead():
                found = {"step": number + 1, "metrics": str(values), "trees": loader.tree_ids(number)}
                write_atomically(path, json.dumps(found, indent=1))
            raise AloeError(
                f"{path}: the loss or gradient of step {number + 1} is not finite; the file names its conversations. "
                "Lower optimizer.learning_rate, or take the conversation out, and run again from the last checkpoint"
            )
        values["learning_rate"] = float(rate(number))
        log.write(number + 1, "train", values)
        rows.append(values)
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    if "nll" in means:
        means["perplexity"] = perplexity(means["nll"])  # a mean of exponentials is another number
    return means


def validated(values: dict[str, float], step: int) -> dict[str, float]:
    """A validation's values. Raises AloeError for a loss that is not finite."""
    if not np.isfinite(values.get("loss", 0.0)):
        raise AloeError(
            f"the validation loss after step {step} is {values['loss']}: the training diverged, and that step is not "
            "saved; lower optimizer.learning_rate and give another output"
        )
    return values
