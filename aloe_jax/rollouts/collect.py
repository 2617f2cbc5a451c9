"""Conversations of the policy with simulated users: replies in groups, rated while other conversations go on.

Conversations advance in two waves that take turns in a fixed order: while remote models behind users and judges answer
one wave, the policy replies in the other. What is drawn depends on seeds and messages alone, never on which call came
back first, so that a run that was killed draws the same again and finds its calls in the journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from aloe_jax.conversation import Message, Persona
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.errors import AloeError
from aloe_jax.roles import Cast, RoleError, derive_seed
from aloe_jax.rollouts.branching import continued
from aloe_jax.rollouts.drawer import Drawer, Prompt
from aloe_jax.rollouts.drawing import Drawing, EndedError
from aloe_jax.rollouts.lookahead import DrawnGroup, LookAhead
from aloe_jax.rollouts.questions import Questions
from aloe_jax.rollouts.rating import Rater
from aloe_jax.rollouts.rewards import read_answers
from aloe_jax.rollouts.rollout import Group, ReplyPosition, Rollout
from aloe_jax.rollouts.settings import RLSettings
from aloe_jax.rollouts.waves import wave_count
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.sibling_session import SiblingSession


@dataclass
class _Talk:
    """A conversation in progress, or one that branched off from it."""

    rollout: Rollout
    label: str  # for seeds: the rollout's id, and where it branched off
    session: SiblingSession  # that of its wave
    number: int  # of its conversation there
    message: Future[str]  # what the user says next
    after: ReplyPosition | None = None  # the reply that this answers
    newest: DrawnGroup | None = None  # whose rewards are not in the rollout yet


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
        self._answers = read_answers(settings.weights)
        self._waves = wave_count(settings, cast.is_remote)
        self._drawing = Drawing()

    def __enter__(self) -> RolloutCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_threads(wait=True)

    def _end_threads(self, wait: bool) -> None:
        self._questions.end()  # of what is under way, too, no further call begins
        self._threads.shutdown(wait=wait, cancel_futures=True)  # first: raters wait for what it answers
        self._rater.end(wait)

    def collect(
        self, personas: Sequence[Persona], step: int | str, group: int, drawing: Drawing | None = None
    ) -> list[Rollout]:
        """One rollout with every persona, with groups of `group` replies; `step` goes into every seed.

        With groups of 1, whose reply is compared with none, conversations do not branch or look ahead. Raises AloeError
        where a model is out of reach, or a reward is not finite, and EndedError where `drawing` is asked to end: calls
        that were not begun are then never made, and nothing can be collected any more. What failed otherwise is in the
        rollouts: a group without rewards, or a conversation that ended early.
        """
        self._drawing = drawing or Drawing()
        rollouts = [Rollout(f"{step}.{number}.{persona.id}", persona) for number, persona in enumerate(personas)]
        size = -(-len(rollouts) // self._waves)
        waves: list[Iterator[None]] = []
        for start in range(0, len(rollouts), size):
            waves.append(self._converse(rollouts[start : start + size], size, group))
        try:
            while waves:
                waves = [wave for wave in waves if next(wave, "over") is None]
        except EndedError:
            self._end_threads(wait=False)
            raise
        return rollouts

    def _converse(self, rollouts: Sequence[Rollout], room: int, size: int) -> Iterator[None]:
        """All turns of the conversations of a wave; it stops where models have been asked, for others to go on.

        `room`: conversations of the largest wave, so that all have sessions of one shape.
        """
        turns, depths = self._settings.turns, self._settings.lookahead if size > 1 else 0
        lines = self._settings.lines(turns - 1) if size > 1 else 1
        session = self._sampler.sibling_session(room, size, self._length, forks=lines)
        beside = self._sampler.session(room * lines, self._length, forks=size) if depths else None
        ahead = LookAhead(
            self._drawer, self._template, self._rater, self._ask, self._seed, beside, self._drawing
        )  # fmt: skip
        wave = [
            _Talk(rollout, rollout.id, session, number, self._ask(rollout, []))
            for number, rollout in enumerate(rollouts)
        ]
        for turn in range(turns):
            yield
            self._drawing.turn(turn, turns, len(wave))
            self._reply(wave, turn, size, ahead, bool(depths) or self._answers)
            for depth in range(1, depths + 1):
                yield
                groups = [talk.newest for talk in wave if talk.newest is not None]
                ahead.step(groups, depth, depth < depths or self._answers)
            wave = self._go_on([talk for talk in wave if talk.newest is not None], ahead)
        yield
        for talk in wave:
            self._take_rewards(talk)

    # ------------------------------------------------------------ one turn of a wave

    def _ask(self, rollout: Rollout, history: Sequence[Message]) -> Future[str]:
        return self._threads.submit(self._questions.user_message, rollout.id, rollout.persona, history)

    def _reply(self, wave: Sequence[_Talk], turn: int, size: int, ahead: LookAhead, answered: bool) -> None:
        """Draw a group in every conversation of a wave, and have it rated."""
        stop = self._template.stop[0]
        asked: list[tuple[_Talk, str, list[int]]] = []
        prompts: list[Prompt] = []
        taken: Counter[str] = Counter()  # tokens that the groups of this turn may have, by rollout
        for talk in wave:
            found = self._prompt(talk, turn, size, taken[talk.rollout.id])
            if isinstance(found, str):
                self._end(talk, found)
                continue
            asked.append((talk, *found))
            taken[talk.rollout.id] += self._most(len(found[1]), size)
            seeds = [derive_seed(self._seed, talk.label, turn, g) for g in range(size)]
            prompts.append(Prompt(talk.number, [*talk.rollout.tokens(talk.after, stop), *found[1]], seeds))
        groups = self._drawer.groups(wave[0].session, prompts, self._drawing) if wave else []
        for (talk, message, own), prompt, siblings in zip(asked, prompts, groups, strict=True):
            self._take_rewards(talk)
            talk.newest = DrawnGroup(talk.rollout, talk.label, message, talk.after, own, siblings, turn)
            history: list[Message] = [*talk.rollout.messages(talk.after), {"role": "user", "content": message}]
            ahead.begin(talk.newest, history, prompt.tokens, answered)

    def _prompt(self, talk: _Talk, turn: int, size: int, taken: int) -> tuple[str, list[int]] | str:
        """What the user says, and the tokens from there to the replies; or why the conversation ends."""
        try:
            message = self._drawing.result(talk.message)
        except RoleError as error:
            return f"the user's turn {turn + 1}: {error}"
        try:
            said: Message = {"role": "user", "content": message}
            prompt = self._template.continuation([*talk.rollout.messages(talk.after), said])
        except UnstableTemplateError as error:  # which rewrites some replies and not others
            return f"turn {turn + 1}: {error}"
        if (why := self._too_long(talk, len(prompt), size, taken)) is not None:
            return f"turn {turn + 1} {why}"
        return message, prompt

    def _most(self, prompt: int, size: int) -> int:
        """Tokens of a group, at most."""
        return prompt + size * (self._settings.draw.max_new_tokens + 1)

    def _too_long(self, talk: _Talk, prompt: int, size: int, taken: int) -> str | None:
        if talk.rollout.size() + taken + self._most(prompt, size) > self._length:
            return f"might pass the {self._length} tokens of a row"
        path = len(talk.rollout.tokens(talk.after, self._template.stop[0]))
        if path + self._most(prompt, 1) > self._sampler.max_length:
            return f"might pass the {self._sampler.max_length} tokens of the model's context"
        return None

    def _end(self, talk: _Talk, why: str) -> None:
        self._take_rewards(talk)
        talk.rollout.ended = why
        talk.session.drop([talk.number])

    def _go_on(self, wave: Sequence[_Talk], ahead: LookAhead) -> list[_Talk]:
        """Continue from replies of the newest groups, and let users answer: the conversations, and new branches."""
        talks: list[_Talk] = []
        main: dict[int, int] = {}  # by conversation of the session, the reply that it goes on with
        for talk in wave:
            group, rollout = talk.newest, talk.rollout
            assert group is not None
            taken = continued(group, self._settings, self._rater, self._seed, self._drawing)
            ahead.end(group)
            group.number = len(rollout.groups)
            rollout.groups.append(Group(group.user, tuple(group.prompt), group.siblings, taken, talk.after, group.turn))
            numbers = [talk.number, *talk.session.fork(talk.number, len(taken) - 1)]
            talk.session.extend([group.siblings[g].tokens for g in taken[1:]], among=numbers[1:])
            main[talk.number] = taken[0]
            branches = [talk, *(replace(talk, label=f"{talk.label} {group.turn}/{g}", newest=None) for g in taken[1:])]
            for one, number, g in zip(branches, numbers, taken, strict=True):
                one.number, one.after = number, (group.number, g)
                if answers := group.line(g).answers:
                    one.message = answers[0]
                elif group.turn + 1 < self._settings.turns:
                    one.message = self._ask(rollout, rollout.messages(one.after))
            talks += branches
        if wave:
            wave[0].session.choose(main)
        return talks

    def _take_rewards(self, talk: _Talk) -> None:
        """Wait for the rewards of the newest group, and note them."""
        if (group := talk.newest) is not None:
            where = f"conversation {talk.rollout.id}, turn {group.turn + 1},"
            self._rater.reward(talk.rollout.groups[group.number], group.ratings(), where, self._drawing)
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
