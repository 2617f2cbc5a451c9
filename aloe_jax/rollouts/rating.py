"""Rewards of groups, computed in threads while the conversations go on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from aloe_jax.conversation import Message
from aloe_jax.errors import AloeError
from aloe_jax.roles import RoleError
from aloe_jax.rollouts.drawing import Drawing
from aloe_jax.rollouts.questions import Questions
from aloe_jax.rollouts.rewards import REWARDS, Rewarded
from aloe_jax.rollouts.rollout import Group, Rollout, Sibling
from aloe_jax.rollouts.settings import RewardName, RLSettings

Components = dict[RewardName, float]  # rewards of a reply by name, not weighted


class Rater:
    """Rates replies in threads of its own. As a context manager it ends them."""

    def __init__(self, settings: RLSettings, questions: Questions) -> None:
        self._settings, self._questions, self._weights = settings, questions, settings.weights
        self._threads = ThreadPoolExecutor(settings.concurrency)
        # Those that wait for the user's answer come last.
        self._names = sorted(self._weights, key=lambda name: REWARDS[name].answered)

    def __enter__(self) -> Rater:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, wait: bool = True) -> None:
        """Begin nothing any more; with `wait`, return when what was begun is done."""
        self._threads.shutdown(wait=wait, cancel_futures=True)

    def rate(
        self, rollout: Rollout, history: Sequence[Message], sibling: Sibling, seed: int, answer: Future[str] | None
    ) -> Future[Components]:
        """Begin to rate a reply to `history`; `answer` is the user's to it, where a reward reads that."""
        most, late = self._settings.draw.max_new_tokens, self._settings.late_tokens
        reply = Rewarded(
            rollout.id, rollout.persona, history, sibling.text, len(sibling.tokens), sibling.ended, most, late, seed,
            answer,
        )  # fmt: skip
        return self._threads.submit(self._components, reply)

    def _components(self, reply: Rewarded) -> Components:
        return {name: REWARDS[name].of(self._questions, reply) for name in self._names}

    def earned(self, ratings: Sequence[Sequence[Future[Components]]], drawing: Drawing) -> list[Components]:
        """Of every reply the means over its ratings, waited for: its own, and those of the replies that follow it."""
        done = [[drawing.result(one) for one in of_reply] for of_reply in ratings]
        return [{name: float(np.mean([one[name] for one in of])) for name in self._names} for of in done]

    def weighted(self, components: Components) -> float:
        """The reward of a reply."""
        return sum(self._weights[name] * value for name, value in components.items())

    def reward(
        self, group: Group, ratings: Sequence[Sequence[Future[Components]]], where: str, drawing: Drawing
    ) -> None:
        """Write the rewards of every reply into a group, or why there are none, once they are known.

        `where` names it. Raises AloeError where a reward is not finite, a model is out of reach or the budget spent.
        """
        try:
            group.components = self.earned(ratings, drawing)
        except RoleError as error:
            group.dropped = str(error)
            return
        rewards = np.array([self.weighted(one) for one in group.components])
        if not np.isfinite(rewards).all():
            raise AloeError(f"rl.rewards: a reward of {where} is not finite: {group.components}")
        group.rewards = rewards
