"""Conversations of the policy with simulated users: replies in groups, rated while other conversations go on.

Conversations advance in two waves that take turns in a fixed order: while remote models behind users and judges answer
one wave, the policy replies in the other. What is drawn depends on seeds and messages alone, never on which call came
back first, so that a run that was killed draws the same again and finds its calls in the journal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

import numpy as np

from aloe_jax.conversation import Message, Persona
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.errors import AloeError
from aloe_jax.roles import Cast, RoleError, derive_seed, persistent
from aloe_jax.rollouts.rewards import REWARDS, Rewarded
from aloe_jax.rollouts.rollout import Group, Rollout, Sibling
from aloe_jax.rollouts.settings import RewardName, RLSettings
from aloe_jax.rollouts.waves import wave_count
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.session import Session


@dataclass
class _Talk:
    """A conversation in progress."""

    rollout: Rollout
    session: Session  # that of its wave
    number: int  # of its conversation there
    message: Future[str] | None = None  # what the user says next
    rated: list[Future[dict[RewardName, float]]] = field(default_factory=list)  # of the newest group, by sibling
    over: bool = False


class RolloutCollector:
    """Draws rollouts with one sampler. As a context manager it ends its threads.

    `length`: tokens that the tree of one rollout may have; a conversation ends before it would have more.
    """

    def __init__(
        self, settings: RLSettings, sampler: Sampler, template: ChatTemplate, cast: Cast, seed: int, length: int
    ) -> None:
        """The template is one that `check_template` accepts."""
        self._settings, self._sampler, self._template, self._cast = settings, sampler, template, cast
        self._seed, self._length = seed, length
        self._threads = ThreadPoolExecutor(settings.concurrency)
        self._judging = ThreadPoolExecutor(settings.concurrency)
        self._waves = wave_count(settings, cast.is_remote)

    def __enter__(self) -> RolloutCollector:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._threads, self._judging):
            pool.shutdown(wait=True, cancel_futures=True)

    def collect(self, personas: Sequence[Persona], step: int | str, group: int) -> list[Rollout]:
        """One rollout with every persona, with groups of `group` replies; `step` goes into every seed.

        Raises AloeError where a model is out of reach, or a reward is not finite. What failed otherwise is in the
        rollouts: a group without rewards, or a conversation that ended early.
        """
        rollouts = [Rollout(f"{step}.{number}.{persona.id}", persona) for number, persona in enumerate(personas)]
        size = -(-len(rollouts) // self._waves)
        waves: list[list[_Talk]] = []
        for start in range(0, len(rollouts), size):
            session = self._sampler.session(size, self._length, forks=group)
            part = rollouts[start : start + size]
            waves.append([_Talk(rollout, session, number) for number, rollout in enumerate(part)])
        for wave in waves:
            self._ask_users(wave)
        for turn in range(self._settings.turns):
            for wave in waves:
                self._reply(wave, turn, group)
        for talk in itertools.chain.from_iterable(waves):
            self._take_rewards(talk)
        return rollouts

    # ------------------------------------------------------------ one turn of a wave

    def _ask_users(self, wave: Sequence[_Talk]) -> None:
        for talk in wave:
            if not talk.over:
                talk.message = self._threads.submit(self._user_message, talk.rollout, talk.rollout.history())

    def _user_message(self, rollout: Rollout, history: Sequence[Message]) -> str:
        turn = len(history) // 2
        return persistent(
            lambda seed: self._cast.user_message(rollout.persona, history, seed),
            self._seed, "user", rollout.id, turn, again=False,
        )  # fmt: skip

    def _reply(self, wave: Sequence[_Talk], turn: int, size: int) -> None:
        """Draw a group in every conversation of a wave, have it rated, and let the users speak again."""
        asked: list[tuple[_Talk, str, list[int]]] = []
        for talk in wave:
            if talk.over or talk.message is None:
                continue
            try:
                message = talk.message.result()
            except RoleError as error:
                self._end(talk, f"the user's turn {turn + 1}: {error}")
                continue
            history: list[Message] = [*talk.rollout.history(), {"role": "user", "content": message}]
            try:
                prompt = self._template.continuation(history)
            except UnstableTemplateError as error:  # which rewrites some replies and not others
                self._end(talk, f"turn {turn + 1}: {error}")
                continue
            if (why := self._too_long(talk.rollout, len(prompt), size)) is not None:
                self._end(talk, f"turn {turn + 1} {why}")
                continue
            asked.append((talk, message, prompt))
        groups = self._draw(asked, turn, size)
        for (talk, message, prompt), (numbers, siblings) in zip(asked, groups, strict=True):
            history = [*talk.rollout.history(), {"role": "user", "content": message}]
            self._take_rewards(talk)
            talk.rated = self._rate(talk.rollout, history, siblings, turn)
            continued = self._continued(talk, turn, size)
            talk.rollout.groups.append(Group(message, tuple(prompt), siblings, continued))
            talk.number = numbers.pop(continued)
            talk.session.drop(numbers)
        if turn + 1 < self._settings.turns:
            self._ask_users([talk for talk, _, _ in asked])

    def _too_long(self, rollout: Rollout, prompt: int, size: int) -> str | None:
        reply = self._settings.draw.max_new_tokens + 1
        if rollout.size() + prompt + size * reply > self._length:
            return f"might pass the {self._length} tokens of a row"
        if len(rollout.path(self._template.stop[0])) + prompt + reply > self._sampler.max_length:
            return f"might pass the {self._sampler.max_length} tokens of the model's context"
        return None

    def _end(self, talk: _Talk, why: str) -> None:
        talk.over, talk.rollout.ended = True, why
        talk.session.drop([talk.number])

    def _draw(
        self,
        asked: Sequence[tuple[_Talk, str, list[int]]],
        turn: int,
        size: int,
    ) -> list[tuple[list[int], tuple[Sibling, ...]]]:
        """The siblings of every conversation, with their numbers in the session. A group's prompt is read once."""
        if not asked:
            return []
        stop, draw, session = self._template.stop, self._settings.draw, asked[0][0].session
        numbers: list[int] = []
        seeds: list[int] = []
        for talk, _, prompt in asked:
            session.replace(talk.number, [*talk.rollout.path(stop[0]), *prompt])
        for talk, _, _ in asked:
            numbers += [talk.number, *session.fork(talk.number, size - 1)]
            seeds += [derive_seed(self._seed, talk.rollout.id, turn, g) for g in range(size)]
        made = session.replies(
            draw.max_new_tokens, draw.temperature, draw.top_k, draw.top_p, seeds, stop, among=numbers, logps=True
        )
        siblings = [
            Sibling(
                tuple(reply.tokens), tuple(reply.logps or ()), self._template.decode(reply.tokens),
                reply.reason == "stop",
            )
            for reply in made
        ]  # fmt: skip
        parts = [slice(start, start + size) for start in range(0, len(numbers), size)]
        return [(numbers[part], tuple(siblings[part])) for part in parts]

    # ------------------------------------------------------------ rewards

    def _rate(
        self, rollout: Rollout, history: Sequence[Message], siblings: Sequence[Sibling], turn: int
    ) -> list[Future[dict[RewardName, float]]]:
        """Futures of the rewards of every sibling; the same text in a group is rated once."""
        begun: dict[tuple[str, int], Future[dict[RewardName, float]]] = {}
        for g, sibling in enumerate(siblings):
            key = sibling.text, len(sibling.tokens)
            if key not in begun:
                seed = derive_seed(self._seed, "reward", rollout.id, turn, g)
                most = self._settings.draw.max_new_tokens
                reply = Rewarded(rollout.persona, history, sibling.text, len(sibling.tokens), most, seed)
                begun[key] = self._judging.submit(self._components, reply)
        return [begun[sibling.text, len(sibling.tokens)] for sibling in siblings]

    def _components(self, reply: Rewarded) -> dict[RewardName, float]:
        def of(name: RewardName) -> Callable[[int], float]:
            return lambda seed: REWARDS[name].of(self._cast, reply._replace(seed=seed))

        return {name: persistent(of(name), reply.seed, name, again=False) for name in self._settings.rewards}

    def _continued(self, talk: _Talk, turn: int, size: int) -> int:
        """Which sibling the conversation goes on from: for the best one, the ratings are waited for."""
        if self._settings.continued == "random" or size == 1:
            return Random(f"{self._seed} {talk.rollout.id} {turn}").randrange(size)
        try:
            earned = [self._weighted(one.result()) for one in talk.rated]
        except RoleError:
            return 0
        return int(np.argmax(earned))

    def _take_rewards(self, talk: _Talk) -> None:
        """Wait for the rewards of the newest group, and note them."""
        if not talk.rated:
            return
        group, rated, talk.rated = talk.rollout.groups[-1], talk.rated, []
        try:
            group.components = [one.result() for one in rated]
        except RoleError as error:
            group.dropped = str(error)
            return
        rewards = np.array([self._weighted(one) for one in group.components])
        if not np.isfinite(rewards).all():
            raise AloeError(
                f"rl.rewards: a reward of conversation {talk.rollout.id}, turn {len(talk.rollout.groups)}, is not "
                f"finite: {group.components}"
            )
        group.rewards = rewards

    def _weighted(self, components: dict[RewardName, float]) -> float:
        return sum(self._settings.rewards[name] * value for name, value in components.items())


def check_template(template: ChatTemplate) -> None:
    """Raise AloeError where a chat template rewrites what was said before, so that no tree can be drawn from it."""
    history: list[Message] = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Good morning."},
        {"role": "user", "content": "And now?"},
    ]
    try:
        template.continuation(history)
    except UnstableTemplateError as error:
        raise AloeError(
            f"{error}, so that replies cannot be drawn and learned from in one tree; train with a model whose template "
            "keeps them"
        ) from None
