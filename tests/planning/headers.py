"""Plans in the headers of published configs: how a line reads, and how it is written anew.

    python -m tests.planning.headers configs/dpo/llama3_8b.yaml ...   # all lines of a file, a minute or two a TPU each
    python -m tests.planning.headers --only v5e:4x4 configs/*/*_7b.yaml

A TPU's line comes from the compiled step, a GPU's from formulas, marked with ~.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

# Topology, GiB a chip, MFU with exchanges hidden and not, minutes, what to add to the settings.
PLANNED = re.compile(
    r"#   (?P<topology>\w+:[\dx]+) +(?P<estimated>~?) *(?P<memory>[\d.]+) GiB +(?P<mfu>\d+)% +(?P<serial>\d+)% +"
    r"(?P<minutes>[\d.]+) min *(?P<overrides>.*)"
)


def written(plan, overrides):
    """The line of a plan."""
    mark = " " if plan.demand.source == "compiled" else "~"
    figures = f"{plan.peak / 2**30:5.1f} GiB  {plan.mfu:3.0%}  {plan.mfu_serial:3.0%}  {plan.seconds / 60:4.1f} min"
    return f"#   {plan.subject.where.text:<10}{mark}{figures}  {overrides}".rstrip()


def renewed(path, line, compiles=True):
    """A header's line with the figures of today."""
    from aloe_jax.parallel.chips import read_topology
    from aloe_jax.planning.plan import Subject, compile_plan, estimate_plan, sizes_of
    from aloe_jax.planning.workload import Conversations, Shape
    from aloe_jax.settings import load_settings
    from aloe_jax.training.settings import TrainSettings

    settings = load_settings(TrainSettings, path, shlex.split(line["overrides"]))
    where = read_topology(line["topology"])
    subject = Subject(settings, *sizes_of(settings), where, Conversations(settings, Shape()))
    plan = compile_plan(subject) if compiles and where.chip.is_tpu else estimate_plan(subject)
    return written(plan, line["overrides"])


def main(arguments):
    only = arguments[1] if arguments[:1] == ["--only"] else None
    for name in arguments[2:] if only else arguments:
        path = Path(name)
        for old in path.read_text().splitlines():
            line = PLANNED.fullmatch(old)
            if line is None or only not in (None, line["topology"]):
                continue
            new = renewed(path, line)
            path.write_text(path.read_text().replace(old + "\n", new + "\n"))
            print(f"{path}: {new}", flush=True)


if __name__ == "__main__":
    from aloe_jax.parallel.topology import BESIDE

    os.environ["JAX_PLATFORMS"] = "cpu"
    if BESIDE.exists():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(BESIDE))
    main(sys.argv[1:])
