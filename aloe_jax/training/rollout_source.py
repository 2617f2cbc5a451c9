"""Batches that the policy draws itself: before every step it talks to simulated users with its newest weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache, partial
from pathlib import Path
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from aloe_jax.conversation import Persona
from aloe_jax.data.loader import Batch
from aloe_jax.data.packing import Rows
from aloe_jax.data.people import People, shared_people
from aloe_jax.data.template import ChatTemplate
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.llm.budget import Budget, BudgetError
from aloe_jax.llm.ledger import Ledger, Usage
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.llm.providers import check_role
from aloe_jax.models.spec import ModelSpec, Parameters
from aloe_jax.roles import Cast
from aloe_jax.rollouts.batch import BatchShape, batch_of
from aloe_jax.rollouts.collect import RolloutCollector, check_template
from aloe_jax.rollouts.drawing import Drawing, EndedError
from aloe_jax.rollouts.personas import read_rollout_personas, steps_of
from aloe_jax.rollouts.rewards import roles_of
from aloe_jax.rollouts.rollout import Rollout
from aloe_jax.rollouts.self_preference import self_preference_warnings
from aloe_jax.rollouts.statistics import missing, statistics
from aloe_jax.rollouts.watch import Watch, check_watch, watch_casts
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.storage.mirror import Mirror
from aloe_jax.training.base import base_name
from aloe_jax.training.callback import Callback, NoBatchError, Reached
from aloe_jax.training.fit import check_fit
from aloe_jax.training.policy_losses import needs_reference
from aloe_jax.training.program import TrainingProgram
from aloe_jax.training.reporting import Reporting
from aloe_jax.training.rollout_costs import rollout_costs
from aloe_jax.training.rollout_limits import check_lengths
from aloe_jax.training.rollout_validation import RolloutValidation
from aloe_jax.training.rollout_watch import RolloutWatch
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.source import Source, SourceSummary
from aloe_jax.training.stages.stage import Stage, StartingModel
from aloe_jax.training.step_clock import StepClock, StepTime
from aloe_jax.training.totals import Totals
from aloe_jax.training.work import Work

JOURNAL = "journal.sqlite"
MINUTE = 60.0  # seconds
MANY = 100  # replies by which a reward is known to be the same for all


class RolloutSource(Source):
    """Rollouts with the personas of `rl.personas`, a step's drawn with the weights after the step before it."""

    def __init__(
        self, settings: TrainSettings, stage: Stage, spec: ModelSpec, template: ChatTemplate, mesh: Mesh
    ) -> None:
        """Raises AloeError where settings, model and personas do not fit, before a call is paid for."""
        self._settings, self._spec, self._template = settings, spec, template
        rl = settings.rl
        if jax.process_count() > 1:
            raise AloeError("stage: rl draws its conversations in one process; run it on one host")
        if (why := spec.uncached()) is not None:
            raise AloeError(f"model: no reply can be drawn from it: {why}")
        check_template(template)
        check_lengths(settings, spec, template)
        self._roles = ("user", *roles_of(rl.weights))
        for role in self._roles:
            check_role(getattr(settings.roles, role), role, priced=rl.max_cost is not None)
        if rl.watch is not None:
            check_watch(rl, rl.watch, settings.roles)
        personas = read_rollout_personas(rl, settings.data)
        self._personas, self._heldout = personas.training, personas.heldout
        self.shape = BatchShape(
            settings.data.rows,
            settings.data.row_length,
            rl.conversations,
            rl.groups,
            rl.group,
            settings.data.accumulate,
        )
        self.rows, self.size, self.turns = self.shape.example(), settings.data.rows, rl.turns
        check_fit(settings, spec, [self.rows], mesh.shape["data"] * mesh.shape["fsdp"])
        self._scope = ExitStack()
        self._params: Parameters | None = None
        self._sampler: Sampler | None = None
        self._reference: Parameters | None = None
        self._values: dict[int, dict[str, float]] = {}
        self._works: dict[int, tuple[int, int, float]] = {}
        self._clock = StepClock()

    def __enter__(self) -> RolloutSource:
        """Open the journal and look for the keys of all models, before the weights are loaded.

        Of a run in a bucket the journal is a database on this disk, and the bucket gets a copy every minute.
        """
        settings, rl = self._settings, self._settings.rl
        with ExitStack() as scope:
            mirror = scope.enter_context(Mirror(settings.output, begins=(JOURNAL,), every=MINUTE))
            self._ledger = Ledger(mirror.local / JOURNAL, budget=Budget(rl.max_cost, rl.max_calls))
            self._cast = Cast(settings.roles, scope.enter_context(self._ledger), only=self._roles)
            if rl.watch is not None:
                self._watching = watch_casts(rl, rl.watch, settings.roles, self._ledger)
            scope.callback(self._clock.close)
            self._scope = scope.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads that ask models, and close the journal."""
        self._scope.close()

    # ------------------------------------------------------------ what a person reads

    def summary(self, spec: ModelSpec, settings: TrainSettings) -> SourceSummary:
        """Upper bounds: conversations end early where they are full, and equal replies are rated once."""
        rl = settings.rl
        replies = rl.conversations * rl.groups * rl.group
        groups = f"{rl.turns} turns" if rl.groups == rl.turns else f"{rl.groups} groups over {rl.turns} turns"
        used: dict[str, Usage] = {}
        if (journal := Path(settings.output, JOURNAL)).is_file():
            with Ledger(journal, writing=False) as ledger:
                used = ledger.usage()
        costs = rollout_costs(settings, self._personas, used, settings.steps or self.steps())
        text = (
            f"{len(self._personas)} personas; a step is {rl.conversations} conversations x {groups} x "
            f"{rl.group} replies = {replies:,} replies"
        )
        for sentence in self_preference_warnings(rl, settings.roles, base_name(settings.model.path)):
            text += f"\nwarning: {sentence}"
        tokens = float(self.size * settings.data.row_length)
        flops = float(3 * spec.forward_flops(int(tokens), int(tokens) * settings.data.row_length // 4))
        passes = rl.conversations / len(self._personas)
        people = shared_people(People.of(self._personas), People.of(self._heldout))
        validation = f"{len(self._heldout)} held-out personas every {settings.evaluate_every} steps\n{people}"
        if rl.watch is not None:
            others = rl.watch.roles.others(settings.roles)
            named = " and ".join(f"another {name}" for name in ("judge", "user") if getattr(others, name) is not None)
            validation += (
                f"\nwatched every {rl.watch.every} steps with {rl.watch.personas} of them and {named}: at most "
                f"{costs.watch_calls:,} calls each time"
            )
        return SourceSummary(text, validation, tokens, 0.0, flops, passes, {}, tuple(costs.lines(rl)))

    def steps(self) -> int:
        """Those in which every persona talks `epochs` times."""
        return steps_of(len(self._personas), self._settings.rl, self._settings.epochs)

    # ------------------------------------------------------------ drawing

    def begin(self, model: StartingModel) -> None:
        """Build the sampler around the weights."""
        settings, rl = self._settings, self._settings.rl
        graph, params, frozen = model.parts
        if needs_reference(rl):  # of adapters a small copy: with new ones the model is the frozen one
            self._reference = jax.tree.map(jnp.copy, params)
        self._token_logps, self._note = model.token_logps, model.note
        self._new_drawing = lambda: Drawing(model.ending, lambda: self._ledger.in_flight)
        sampler = Sampler(
            nnx.merge(graph, params, *frozen), max_length=settings.data.row_length, rows=rl.draw.rows,
            cache=rl.draw.cache,
        )  # fmt: skip
        self._sampler = sampler
        self._collector = self._scope.enter_context(
            RolloutCollector(rl, sampler, self._template, self._cast, settings.seed, settings.data.row_length)
        )
        if rl.watch is not None:
            self._watch = self._scope.enter_context(
                Watch(rl, self._watching, sampler, self._template, settings.seed, settings.data.row_length)
            )

    def personas(self, step: int) -> list[Persona]:
        """Those of batch `step`: all in turn, in an order by seed and pass."""
        count, size = len(self._personas), self._settings.rl.conversations
        found: list[Persona] = []
        for at in range(step * size, (step + 1) * size):
            epoch, index = divmod(at, count)
            found.append(self._personas[_order(self._settings.seed, epoch, count)[index]])
        return found

    def batch(self, step: int, share: slice) -> Batch:
        """Draw the conversations of batch `step` with the newest weights."""
        rl, drawing = self._settings.rl, self._new_drawing()
        with self._display.part("drawing", drawing.describe):
            try:
                rollouts = self._draw(self.personas(step), step, rl.group, drawing)
            except EndedError as error:  # the step is discarded; its calls are in the journal
                raise NoBatchError(str(error), failed=False, signalled=True) from None
            except (BudgetError, UnavailableError) as error:
                raise NoBatchError(str(error), failed=isinstance(error, UnavailableError)) from None
            return self._learnable(rollouts, step, share, drawing)

    def _draw(self, personas: Sequence[Persona], step: int | str, group: int, drawing: Drawing) -> list[Rollout]:
        """One rollout with every persona, of the newest weights; see `RolloutCollector.collect`."""
        self._renew(drawing)
        return self._collector.collect(personas, step, group, drawing)

    def _renew(self, drawing: Drawing) -> None:
        """Let the sampler have the newest weights."""
        drawing.check()
        assert self._params is not None and self._sampler is not None
        with drawing.phase("generating"):
            self._sampler.update(self._params)

    def _learnable(self, rollouts: list[Rollout], step: int, share: slice, drawing: Drawing) -> Batch:
        """The batch of these rollouts; what is known of them is kept for the readings of the step."""
        rl = self._settings.rl
        if lacking := missing(rollouts):
            self._note(f"step {step + 1}: {lacking}")
        if all(group.rewards is None for rollout in rollouts for group in rollout.groups):
            raise NoBatchError(f"step {step + 1}: no reply could be rewarded: {lacking}", failed=True)
        rows, batch = batch_of(rollouts, self.shape, self._template.stop[0], rl.advantage, rl.overlong == "mask")
        if self._reference is not None:
            with drawing.phase("reference"):
                batch["reference_logps"] = self._reference_logps(rows, batch)
        if step == 0:
            _check_variance(rollouts)
        self._works[step] = self._work(rows)
        self._values[step] = statistics(rollouts, rl.turns, rl.groups)
        found = {name: values[share] for name, values in batch.items()}
        replies = sum(len(group.siblings) for rollout in rollouts for group in rollout.groups)
        self._clock.drawn(step, drawing.began, drawing.spans, replies)
        return found

    def _reference_logps(self, rows: Rows, batch: Batch) -> np.ndarray:
        """Of every token [N, T] under the starting model."""
        assert self._reference is not None
        scored = np.asarray(self._token_logps(self._reference, batch))  # [N, S]
        found = np.zeros(rows.tokens.shape, np.float32)
        np.put_along_axis(found, rows.scored, scored, axis=1)
        return np.where(rows.reply > 0, found, 0.0).astype(np.float32)

    def _work(self, rows: Rows) -> tuple[int, int, float]:
        made = Work.of(rows, self._spec, self._settings.model.lora)
        tokens, pairs, flops = made.over(np.arange(len(rows)))
        return tokens, pairs, flops * self._settings.rl.updates

    # ------------------------------------------------------------ what a run asks of a batch

    def work(self, step: int) -> tuple[int, int, float]:
        """Of the updates alone, not of drawing."""
        return self._works.pop(step, (0, 0, 0.0))

    def conversations(self, step: int) -> list[str]:
        """Ids of the rollouts: step, number and persona."""
        return [f"{step}.{number}.{persona.id}" for number, persona in enumerate(self.personas(step))]

    def statistics(self, step: int) -> Mapping[str, float]:
        """Rewards and coverage."""
        return self._values.pop(step, {})

    def dispatched(self, step: int, totals: Totals) -> None:
        """See `StepClock`."""
        self._clock.dispatched(step, totals)

    def time(self, step: int) -> StepTime | None:
        """Drawing, waiting for calls, training."""
        return self._clock.read(step)

    @cached_property
    def _fingerprint(self) -> dict[str, JSON]:
        ids = hashlib.sha256(
            json.dumps([persona.model_dump() for persona in (*self._personas, *self._heldout)]).encode()
        ).hexdigest()[:16]
        return {"seed": self._settings.seed, "personas": ids, "rl.conversations": self._settings.rl.conversations}

    def position(self, step: int) -> dict[str, JSON]:
        """The step, and what it refers to."""
        return {"step": step, "fingerprint": self._fingerprint}

    def resume(self, position: Mapping[str, JSON]) -> int:
        """The step to go on with. Raises AloeError where the personas, their number a step or the seed changed."""
        step = position["step"]
        assert isinstance(step, int)
        if position["fingerprint"] != self._fingerprint:
            raise AloeError(
                f"the personas, rl.conversations or the seed changed since step {step} was saved: "
                f"{position['fingerprint']} then, {self._fingerprint} now; restore them, or give a new output (a run "
                "that an earlier version began learned from others of the profiles held out, too: it goes on with "
                "data.validation_by=conversation)"
            )
        return step

    def callbacks(self, program: TrainingProgram, mesh: Mesh, steps: int, reporting: Reporting) -> Sequence[Callback]:
        """Following the weights, validation with held-out personas, and the watch."""
        every, turns = self._settings.evaluate_every, self._settings.rl.turns
        self._display = reporting.display
        found: list[Callback] = [_Follow(self)]
        if self._heldout:
            found.append(RolloutValidation(every, steps, turns, self._converse, reporting))
        if (watch := self._settings.rl.watch) is not None:
            found.append(RolloutWatch(watch.every, steps, partial(self._watched, watch.personas), reporting))
        return found

    def _watched(self, count: int) -> dict[str, float]:
        """See `Watch.talk`; with the newest weights."""
        drawing = self._new_drawing()
        with self._display.part("watching", drawing.describe):
            self._renew(drawing)
            return self._watch.talk(self._heldout[:count], drawing)

    def _converse(self) -> list[Rollout]:
        """Conversations of the newest weights with held-out personas."""
        drawing = self._new_drawing()
        with self._display.part("validating", drawing.describe):
            return self._draw(self._heldout, "validation", 1, drawing)

    def follow(self, params: Parameters) -> None:
        """Draw with these weights from now on."""
        self._params = params


def _check_variance(rollouts: Sequence[Rollout]) -> None:
    """Raise AloeError where all of many replies earned the same: there is nothing to learn from, nor will there be."""
    rewards = [group.rewards for rollout in rollouts for group in rollout.groups if group.rewards is not None]
    earned = np.concatenate(rewards)
    if len(earned) >= MANY and np.ptp(earned) == 0:
        raise AloeError(
            f"rl.rewards: all {len(earned):,} replies of the first step earn the same reward, {earned[0]:g}, so there "
            "is nothing to learn; look at the judge's answers in journal.sqlite, give it another model (roles.judge), "
            "or start from a model that replies better"
        )


class _Follow(Callback):
    def __init__(self, source: RolloutSource) -> None:
        self._source = source

    def after(self, reached: Reached) -> None:
        self._source.follow(reached.state["params"])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    return Random(f"{seed} {epoch}").sample(range(count), count)
