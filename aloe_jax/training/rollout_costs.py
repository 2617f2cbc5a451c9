"""What on-policy training asks of language models, before it asks: calls, tokens and dollars of a step and of a run.

Upper bounds but for repairs and calls that are asked again: conversations can end early, and equal replies of a group
are rated once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from aloe_jax.conversation import Persona
from aloe_jax.llm import cost
from aloe_jax.llm.cost import CostEstimate
from aloe_jax.llm.ledger import Usage
from aloe_jax.llm.settings import RoleSettings, RolesSettings
from aloe_jax.roles import render
from aloe_jax.rollouts.rewards import calls_by_role
from aloe_jax.rollouts.settings import RLSettings
from aloe_jax.training.settings import TrainSettings

WORDS = {"user": cost.USER_WORDS}  # of an answer, by role; others give a reason


@dataclass(frozen=True)
class RolloutCosts:
    """The calls of a step, of a validation and of a watch, by role; `steps` of the run, with the others among them."""

    step: tuple[CostEstimate, ...]
    validation: tuple[CostEstimate, ...]
    steps: int
    every: int  # steps, from one validation to the next; there is one after the last step, too
    watch: tuple[CostEstimate, ...] = ()
    watch_every: int = 1  # as `every`

    @property
    def validations(self) -> int:
        """How many the run has."""
        return self.validated_by(self.steps) if self.validation else 0

    def validated_by(self, step: int) -> int:
        """Validations up to and with that after step number `step`."""
        return self._times(step, self.every)

    def watched_by(self, step: int) -> int:
        """Watches up to and with that after step number `step`."""
        return self._times(step, self.watch_every)

    def _times(self, step: int, every: int) -> int:
        return step // every + (step == self.steps and step % every > 0)

    @property
    def watch_calls(self) -> int:
        """Of one watch."""
        return _calls(self.watch)

    def calls(self, step: int) -> int:
        """Made by the end of step number `step`."""
        return sum(times * _calls(part) for times, part in self._parts(step))

    def dollars(self, step: int) -> float | None:
        """Spent by the end of step number `step`; None without a price."""
        spent = 0.0
        for times, part in self._parts(step):
            if (dollars := _dollars(part)) is None:
                return None
            spent += times * dollars
        return spent

    def _parts(self, step: int) -> list[tuple[int, tuple[CostEstimate, ...]]]:
        """What is asked by the end of step number `step`, and how often."""
        return [
            (step, self.step),
            (self.validated_by(step), self.validation),
            (self.watched_by(step), self.watch),
        ]

    def within(self, max_calls: int | None, max_cost: float | None) -> int:
        """Steps that a budget lets the run finish, of which None does not limit."""
        for step in range(1, self.steps + 1):
            spent = self.dollars(step)
            over = max_cost is not None and spent is not None and spent > max_cost
            if over or (max_calls is not None and self.calls(step) > max_calls):
                return step - 1
        return self.steps

    def lines(self, rl: RLSettings) -> Iterator[str]:
        """What a person reads, a line each."""
        by_role = ", ".join(f"{one.player} {one.calls:,} ({one.model})" for one in self.step)
        yield f"at most a step: {by_role}; {_use(self.step)}"
        if self.validation:
            yield f"at most a validation, of which there are {self.validations:,}: {_use(self.validation)}"
        if self.watch:
            yield f"at most a watch, of which there are {self.watched_by(self.steps):,}: {_use(self.watch)}"
        spent = self.dollars(self.steps)
        yield f"at most in all: {self.calls(self.steps):,} calls, {_money(spent)}; repairs come on top"
        for name, limit in (("max_calls", rl.max_calls), ("max_cost", rl.max_cost)):
            if limit is None:
                continue
            calls, dollars = (rl.max_calls, None) if name == "max_calls" else (None, rl.max_cost)
            steps, shown = self.within(calls, dollars), f"{limit:,}" if name == "max_calls" else f"${limit:,g}"
            verdict = (
                "suffices" if steps >= self.steps else f"ends the run after about {steps:,} of {self.steps:,} steps"
            )
            yield f"rl.{name}: {shown} {verdict}"


def rollout_costs(
    settings: TrainSettings, personas: Sequence[Persona], used: Mapping[str, Usage], steps: int
) -> RolloutCosts:
    """The calls of a run of `steps` steps with such personas, of which there are some.

    `used`: what a journal of the run holds (`Ledger.usage`), which says how long answers are.
    """
    rl = settings.rl

    def asked(roles: RolesSettings, calls: Mapping[str, int]) -> tuple[CostEstimate, ...]:
        return tuple(_asked(roles, calls, personas, used, rl.turns))

    step = asked(settings.roles, calls_by_role(rl, rl.conversations, rl.group))
    validation = asked(settings.roles, calls_by_role(rl, rl.heldout, 1)) if rl.heldout else ()
    if rl.watch is None:
        return RolloutCosts(step, validation, steps, settings.evaluate_every)
    others = rl.watch.roles.others(settings.roles)
    talking = settings.roles.model_copy(update={"user": others.user or settings.roles.user})
    watch = asked(talking, calls_by_role(rl, rl.watch.personas, 1))
    if others.judge is not None:  # rates every reply once
        rating = settings.roles.model_copy(update={"judge": others.judge})
        watch += asked(rating, {"judge": rl.watch.personas * rl.turns})
    return RolloutCosts(step, validation, steps, settings.evaluate_every, watch, rl.watch.every)


def _asked(
    roles: RolesSettings, calls: Mapping[str, int], personas: Sequence[Persona], used: Mapping[str, Usage], turns: int
) -> Iterator[CostEstimate]:
    persona = cost.typical_persona(personas)
    for name, count in calls.items():
        role: RoleSettings = getattr(roles, name)
        prompt = fmean(cost.prose_tokens(render(name, cost.typical_inputs(persona, depth))) for depth in range(turns))
        answer = WORDS.get(name, cost.REASON_WORDS) * cost.TOKENS_PER_WORD
        yield cost.expected_cost(name, role, name, count, (prompt, answer), used)


def _calls(estimates: Sequence[CostEstimate]) -> int:
    return sum(one.calls for one in estimates)


def _dollars(estimates: Sequence[CostEstimate]) -> float | None:
    costs = [one.cost for one in estimates]
    return None if None in costs else sum(cost or 0.0 for cost in costs)


def _use(estimates: Sequence[CostEstimate]) -> str:
    read, written = (sum(getattr(one, name) for one in estimates) for name in ("input_tokens", "output_tokens"))
    return f"{_calls(estimates):,} calls, {read:,} tokens in, {written:,} out, {_money(_dollars(estimates))}"


def _money(dollars: float | None) -> str:
    return "no price (roles.….price)" if dollars is None else f"${dollars:,.2f}"
