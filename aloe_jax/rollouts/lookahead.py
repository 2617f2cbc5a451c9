"""Looking ahead: what follows each reply of a group, of which only the rewards count (CollabLLM, arXiv 2502.00640).

Every distinct reply of a group is continued on its own: the user answers it, the policy replies once, and so on. What
these replies earn counts for the reply that they follow. Replies of one group are continued equally far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from aloe_jax.conversation import Message
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.roles import RoleError, derive_seed
from aloe_jax.rollouts.drawer import Drawer, Prompt
from aloe_jax.rollouts.drawing import Drawing
from aloe_jax.rollouts.rating import Components, Rater
from aloe_jax.rollouts.rollout import ReplyPosition, Rollout, Sibling, closed
from aloe_jax.sampling.session import Session

Ask = Callable[[Rollout, Sequence[Message]], Future[str]]  # what the user says next


@dataclass
class Followed:
    """A reply of a group with what follows it."""

    sibling: int  # which reply of the group: of equal ones the first
    history: list[Message]  # up to its newest reply
    tokens: list[int]  # of that path
    ratings: list[Future[Components]] = field(default_factory=list)  # of the reply and those that follow it
    answers: list[Future[str]] = field(default_factory=list)  # of the user to them
    number: int | None = None  # its conversation in the session, once something follows


@dataclass
class DrawnGroup:
    """The newest group of a conversation, while its rewards are computed."""

    rollout: Rollout
    label: str  # of the branch, for seeds: the rollout's id on the main line
    user: str
    after: ReplyPosition | None  # the reply before it
    prompt: list[int]  # from there to where replies begin
    siblings: tuple[Sibling, ...]
    turn: int
    lines: dict[tuple[str, int, bool], Followed] = field(default_factory=dict)  # by what rewards read of a reply
    at_end: bool = False  # nothing more is looked at
    number: int = -1  # of the group in its rollout, once it is there

    def line(self, sibling: int) -> Followed:
        """That of a reply."""
        return self.lines[self.siblings[sibling].looks]

    def ratings(self) -> list[list[Future[Components]]]:
        """Of every reply its own and those of the replies that follow it."""
        return [self.line(g).ratings for g in range(len(self.siblings))]


class LookAhead:
    """Continues the replies of groups, and has what follows them rated. Of one wave of conversations.

    `session` is its own: there what the groups of a conversation have in common is read once, and goes on from group to
    group. None where nothing follows.
    """

    def __init__(
        self,
        drawer: Drawer,
        template: ChatTemplate,
        rater: Rater,
        ask: Ask,
        seed: int,
        session: Session | None,
        drawing: Drawing,
    ) -> None:
        self._drawer, self._template, self._rater, self._ask, self._seed = drawer, template, rater, ask, seed
        self._session, self._drawing = session, drawing
        self._free = [] if session is None else session.numbers
        self._paths: dict[str, int] = {}  # by label of a branch, the conversation of its first lines in the session

    def begin(self, group: DrawnGroup, history: Sequence[Message], path: Sequence[int], answered: bool) -> None:
        """Rate the replies of a group to `history` and, with `answered`, let the user answer them.

        `path`: the tokens up to where the replies begin.
        """
        for g, sibling in enumerate(group.siblings):
            if sibling.looks not in group.lines:
                line = group.lines[sibling.looks] = Followed(g, list(history), list(path))
                self._add(group, line, sibling, answered, ())

    def step(self, groups: Sequence[DrawnGroup], depth: int, answered: bool) -> None:
        """One further reply after every reply of these groups, once its user has spoken."""
        assert self._session is not None
        prompts: list[Prompt] = []
        asked: list[tuple[DrawnGroup, Followed]] = []
        for group in groups:
            found = self._prompts(self._session, group, depth)
            prompts += found
            asked += [(group, line) for line in group.lines.values()] if found else []
        if not prompts:
            return
        drawn = self._drawer.single(self._session, prompts, self._drawing)
        for (group, line), prompt, sibling in zip(asked, prompts, drawn, strict=True):
            line.history.append({"role": "user", "content": self._drawing.result(line.answers[-1])})
            line.tokens = list(prompt.tokens)
            self._add(group, line, sibling, answered, ("ahead", depth))

    def end(self, group: DrawnGroup) -> None:
        """What follows the replies of a group is not gone on with. The first line's row is the next group's."""
        numbers = [line.number for line in list(group.lines.values())[1:] if line.number is not None]
        if self._session is not None and numbers:
            self._session.drop(numbers)

    def _add(
        self, group: DrawnGroup, line: Followed, sibling: Sibling, answered: bool, named: tuple[str | int, ...]
    ) -> None:
        """Have a reply rated that comes next in a line, and answered."""
        before, rollout = list(line.history), group.rollout
        line.history.append({"role": "assistant", "content": sibling.text})
        line.tokens += closed(sibling, self._template.stop[0])
        answer = self._ask(rollout, list(line.history)) if answered else None
        if answer is not None:
            line.answers.append(answer)
        seed = derive_seed(self._seed, "reward", group.label, group.turn, line.sibling, *named)
        line.ratings.append(self._rater.rate(rollout, before, sibling, seed, answer))

    def _prompts(self, session: Session, group: DrawnGroup, depth: int) -> list[Prompt]:
        """Those of all lines of a group; none where one of them has no answer or no room: they end together."""
        if group.at_end:
            return []
        found: list[tuple[list[int], int]] = []
        try:
            for line in group.lines.values():
                said: Message = {"role": "user", "content": self._drawing.result(line.answers[-1])}
                tokens = [*line.tokens, *self._template.continuation([*line.history, said])]
                seed = derive_seed(self._seed, group.label, group.turn, line.sibling, "ahead", depth)
                found.append((tokens, seed))
        except (RoleError, UnstableTemplateError) as error:
            group.at_end = True
            failed: Future[Components] = Future()
            failed.set_exception(RoleError(f"looking {depth} ahead: {error}"))
            line.ratings.append(failed)
            return []
        group.at_end = any(len(tokens) > self._drawer.room for tokens, _ in found)
        if group.at_end:
            return []
        self._separate(session, group)
        prompts: list[Prompt] = []
        for line, (tokens, seed) in zip(group.lines.values(), found, strict=True):
            assert line.number is not None
            prompts.append(Prompt(line.number, tokens, (seed,)))
        return prompts

    def _separate(self, session: Session, group: DrawnGroup) -> None:
        """Give every line a conversation of its own, which begins with what the group has in common."""
        lines = list(group.lines.values())
        if lines[0].number is not None:
            return
        if group.label not in self._paths:
            self._paths[group.label] = self._free.pop(0)
        path = self._paths[group.label]
        common = [*group.rollout.tokens(group.after, self._template.stop[0]), *group.prompt]
        session.replace(path, common)
        for line, number in zip(lines, [path, *session.fork(path, len(lines) - 1)], strict=True):
            line.number = number
