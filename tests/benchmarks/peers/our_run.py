"""All that the benchmark calls of our training code: what `aloe_jax.training.loop` puts together, without its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from aloe_jax.data.loader import Batch
from aloe_jax.models.opening import load_pretrained, open_model
from aloe_jax.parallel.distributed import place
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.training import host_memory
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.start import build_model
from aloe_jax.training.step import logps_step, new_state, train_step
from aloe_jax.training.totals import Objective, read
from tests.benchmarks.peers.task import BETA, LEARNING_RATE, Task

host_memory.use_one_arena()  # before JAX starts its threads, as a run does


class Run:
    """Model, reference and step of one stage, on all devices."""

    def __init__(self, task: Task, stage: str):
        self.settings = TrainSettings.model_validate(
            {
                "stage": stage,
                "output": task.directory,
                "model": {"path": str(task.reference), "unroll": task.layers},
                "data": {"path": task.directory, "rows": jax.device_count()},
                "optimizer": {"learning_rate": LEARNING_RATE, "warmup_steps": 0, "schedule": "constant"},
                "dpo": {"beta": BETA},
            }
        )
        self.turns = task.turns
        self.mesh = make_mesh(self.settings.mesh)
        jax.set_mesh(self.mesh)
        self.graph, self.reference, self.frozen = build_model(
            self.settings, open_model(self.settings.model).spec(), self.mesh
        )
        policy = load_pretrained(task.policy, mesh=self.mesh)
        self.params: Any = nnx.to_pure_dict(nnx.split(policy, nnx.Param)[1])
        self._logps = logps_step(self.graph, self.mesh, self.frozen)

    def logps(self, params: Any, batch: Batch) -> np.ndarray:
        """Reply log-probs [B, R] under some parameters."""
        return np.asarray(self._logps(params, place(batch, self.mesh)))

    def begin(self, wrapped: Callable[[Objective], Objective] | None = None) -> None:
        """Compile nothing yet, but take over the policy; `wrapped` changes the stage's objective."""
        objective: Objective = stage_of(self.settings).objective(self.turns)
        optimizer = MasterCopies(make_optimizer(self.settings.optimizer, steps=10**6))
        self.state = new_state(self.params, optimizer, self.mesh)
        del self.params, self.reference  # the first step donates the one; nothing needs the other
        objective = wrapped(objective) if wrapped else objective
        self._step = train_step(self.graph, objective, optimizer, self.state, self.mesh, self.frozen)

    def warm(self, batches: Sequence[Batch]) -> None:
        """Compile what these need and take a step on each; from then on memory is kept as a run keeps it."""
        self.steps(batches)
        host_memory.keep_freed()

    def steps(self, batches: Sequence[Batch]) -> list[dict[str, float]]:
        """Updates one after the other; their metrics, fetched at the end as a run does at every tenth step."""
        totals = []
        for batch in batches:
            self.state, found = self._step(self.state, place(batch, self.mesh))
            totals.append(found)
        jax.block_until_ready(self.state)
        return [read(each) for each in totals]
