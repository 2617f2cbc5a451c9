"""Conversations of the policy with simulated users: replies in groups, rated while other conversations go on.

Conversations advance in two waves that take turns in a fixed order: while remote models behind users and judges answer
one wave, the policy replies in the other. What is drawn depends on seeds and messages alone, never on which call came
back first, so that a run that was killed draws the same again and finds its calls in the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import numpy as np

from aloe_jax.conversation import Message, Persona
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.errors import AloeError
from aloe_jax.roles import Cast, RoleError, derive_seed
from aloe_jax.rollouts.drawing import Drawer, Prompt
from aloe_jax.rollouts.lookahead import DrawnGroup, LookAhead
from aloe_jax.rollouts.questions import Questions
from aloe_jax.rollouts.rating import Rater
from aloe_jax.rollouts.rewards import read_answers, roles_of
from aloe_jax.rollouts.rollout import Group, Rollout
from aloe_jax.rollouts.settings import RLSettings
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.session import Session

WAVES = 2


@dataclass
class _Talk:
    """A conversation in progress."""

    rollout: Rollout
    session: Session  # that of its wave
    number: int  # of its conversation there
    message: Future[str] | None = None  # what the user says next
    newest: DrawnGroup | None = None  # whose rewards are not in the rollout yet
    over: bool = False


class RolloutCollector:
    """Draws rollouts with one sampler. As a context manager it ends its threads.

    `length`: tokens that the tree of one rollout may have; a conversation ends before it would have more.
    """

    def __init__(
        self, settings: RLSettings, sampler: Sampler, template: ChatTemplate, cast: Cast, seed: int, length: int
    ) -> None:
        """The template is one that `check_template` accepts."""
        self._settings, self._sampler, self._template = settings, sampler, template
        self._seed, self._length = seed, length
        self._questions = Questions(cast, seed)
        self._threads = ThreadPoolExecutor(settings.concurrency)
        self._drawer = Drawer(settings.draw, sampler, template, length)
        self._rater = Rater(settings, self._questions)
        self._ahead = LookAhead(self._drawer, template, self._rater, self._ask, seed)
        self._answers = read_answers(settings.weights)
        # Where a script answers at once, there is nothing to wait for.
        remote = any(cast.is_remote(role) for role in ("user", *roles_of(settings.weights)))
        self._waves = WAVES if remote else 1

    def __enter__(self) -> RolloutCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)  # first: raters wait for what it answers
        self._rater.__exit__()

    def collect(self, personas: Sequence[Persona], step: int | str, group: int) -> list[Rollout]:
        """One rollout with every persona, with groups of `group` replies; `step` goes into every seed.

        A group of 1, with whose reply nothing is compared, is not looked ahead of. Raises AloeError where a model is
        out of reach, or a reward is not finite. What failed otherwise is in the rollouts: a group without rewards, or
        a conversation that ended early.
        """
        rollouts = [Rollout(f"{step}.{number}.{persona.id}", persona) for number, persona in enumerate(personas)]
        size = -(-len(rollouts) // self._waves)
        waves: list[Iterator[None]] = []
        for start in range(0, len(rollouts), size):
            session = self._sampler.session(size, self._length, forks=group)
            part = rollouts[start : start + size]
            talks = [_Talk(rollout, session, number) for number, rollout in enumerate(part)]
            waves.append(self._converse(talks, group, self._settings.lookahead if group > 1 else 0))
        while waves:
            waves = [wave for wave in waves if next(wave, "over") is None]
        return rollouts

    def _converse(self, wave: Sequence[_Talk], size: int, ahead: int) -> Iterator[None]:
        """All turns of the conversations of a wave; it stops where models have been asked, for others to go on."""
        for talk in wave:
            talk.message = self._ask(talk.rollout, [])
        for turn in range(self._settings.turns):
            yield
            self._reply(wave, turn, size, ahead)
            for depth in range(1, ahead + 1):
                yield
                groups = [talk.newest for talk in wave if talk.newest is not None]
                self._ahead.step(groups, depth, depth < ahead or self._answers)
            for talk in wave:
                if talk.newest is not None:
                    self._go_on(talk, talk.newest)
        yield
        for talk in wave:
            self._take_rewards(talk)

    # ------------------------------------------------------------ one turn of a wave

    def _ask(self, rollout: Rollout, history: Sequence[Message]) -> Future[str]:
        return self._threads.submit(self._questions.user_message, rollout.id, rollout.persona, history)

    def _reply(self, wave: Sequence[_Talk], turn: int, size: int, ahead: int) -> None:
        """Draw a group in every conversation of a wave, and have it rated."""
        stop = self._template.stop[0]
        asked: list[tuple[_Talk, str, list[int]]] = []
        prompts: list[Prompt] = []
        for talk in wave:
            if talk.over or talk.message is None:
                continue
            found = self._prompt(talk.rollout, talk.message, turn, size)
            if isinstance(found, str):
                self._end(talk, found)
                continue
            asked.append((talk, *found))
            seeds = [derive_seed(self._seed, talk.rollout.id, turn, g) for g in range(size)]
            prompts.append(Prompt(talk.number, [*talk.rollout.path(stop), *found[1]], seeds))
        groups = self._drawer.draw(wave[0].session, prompts)
        for (talk, message, own), prompt, drawn in zip(asked, prompts, groups, strict=True):
            self._take_rewards(talk)
            talk.newest = DrawnGroup(talk.rollout, talk.session, message, own, drawn, turn)
            history: list[Message] = [*talk.rollout.history(), {"role": "user", "content": message}]
            self._ahead.begin(talk.newest, history, prompt.tokens, bool(ahead) or self._answers)

    def _prompt(self, rollout: Rollout, said: Future[str], turn: int, size: int) -> tuple[str, list[int]] | str:
        """What the user says, and the tokens from there to the replies; or why the conversation ends."""
        try:
            message = said.result()
        except RoleError as error:
            return f"the user's turn {turn + 1}: {error}"
        try:
            prompt = self._template.continuation([*rollout.history(), {"role": "user", "content": message}])
        except UnstableTemplateError as error:  # which rewrites some replies and not others
            return f"turn {turn + 1}: {error}"
        if (why := self._too_long(rollout, len(prompt), size)) is not None:
            return f"turn {turn + 1} {why}"
        return message, prompt

    def _too_long(self, rollout: Rollout, prompt: int, size: int) -> str | None:
        reply = self._settings.draw.max_new_tokens + 1
        if rollout.size() + prompt + size * reply > self._length:
            return f"might pass the {self._length} tokens of a row"
        if len(rollout.path(self._template.stop[0])) + prompt + reply > self._sampler.max_length:
            return f"might pass the {self._sampler.max_length} tokens of the model's context"
        return None

    def _end(self, talk: _Talk, why: str) -> None:
        self._take_rewards(talk)
        talk.over, talk.rollout.ended = True, why
        talk.session.drop([talk.number])

    def _go_on(self, talk: _Talk, group: DrawnGroup) -> None:
        """Continue from one reply of the newest group, and let the user answer it."""
        continued, numbers = self._continued(group), list(group.drawn.numbers)
        talk.rollout.groups.append(Group(group.user, tuple(group.prompt), group.drawn.siblings, continued))
        talk.number = numbers.pop(continued)
        talk.session.drop(numbers)
        answers = group.line(continued).answers
        if answers:
            talk.message = answers[0]
        elif group.turn + 1 < self._settings.turns:
            talk.message = self._ask(talk.rollout, talk.rollout.history())

    def _continued(self, group: DrawnGroup) -> int:
        """Which sibling the conversation goes on from: for the best one, the ratings are waited for."""
        size = len(group.drawn.siblings)
        if self._settings.continued == "random" or size == 1:
            return Random(f"{self._seed} {group.rollout.id} {group.turn}").randrange(size)
        try:
            earned = self._rater.earned(group.ratings())
        except RoleError:
            return 0
        return int(np.argmax([self._rater.weighted(one) for one in earned]))

    def _take_rewards(self, talk: _Talk) -> None:
        """Wait for the rewards of the newest group, and note them."""
        if (group := talk.newest) is not None:
            where = f"conversation {talk.rollout.id}, turn {group.turn + 1},"
            self._rater.reward(talk.rollout.groups[-1], group.ratings(), where)
            talk.newest = None


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
