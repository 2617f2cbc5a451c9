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
from aloe_jax.rollouts.drawing import Drawer, DrawnSiblings, Prompt
from aloe_jax.rollouts.rating import Components, Rater
from aloe_jax.rollouts.rollout import Rollout, closed
from aloe_jax.sampling.session import Session

Ask = Callable[[Rollout, Sequence[Message]], Future[str]]  # what the user says next


@dataclass
class Followed:
    """A reply of a group with what follows it."""

    sibling: int  # which reply of the group: of equal ones the first
    number: int  # its conversation in the session
    history: list[Message]  # up to its newest reply
    tokens: list[int]  # of that path
    ratings: list[Future[Components]]  # of the reply and those that follow it
    answers: list[Future[str]]  # of the user to them


@dataclass
class DrawnGroup:
    """The newest group of a conversation, while its rewards are computed."""

    rollout: Rollout
    label: str  # of the branch, for seeds: the rollout's id on the main line
    session: Session
    user: str
    prompt: list[int]  # from the end of the reply before it
    drawn: DrawnSiblings
    turn: int
    lines: dict[tuple[str, int, bool], Followed] = field(default_factory=dict)  # by what rewards read of a reply
    at_end: bool = False  # nothing more is looked at
    number: int = -1  # of the group in its rollout, once it is there

    def line(self, sibling: int) -> Followed:
        """That of a reply."""
        return self.lines[self.drawn.siblings[sibling].looks]

    def ratings(self) -> list[list[Future[Components]]]:
        """Of every reply its own and those of the replies that follow it."""
        return [self.line(g).ratings for g in range(len(self.drawn.siblings))]


class LookAhead:
    """Continues the replies of groups, and has what follows them rated."""

    def __init__(self, drawer: Drawer, template: ChatTemplate, rater: Rater, ask: Ask, seed: int) -> None:
        self._drawer, self._template, self._rater, self._ask, self._seed = drawer, template, rater, ask, seed

    def begin(self, group: DrawnGroup, history: Sequence[Message], path: Sequence[int], answered: bool) -> None:
        """Rate the replies of a group to `history` and, with `answered`, let the user answer them.

        `path`: the tokens up to where the replies begin.
        """
        for g, (number, sibling) in enumerate(zip(group.drawn.numbers, group.drawn.siblings, strict=True)):
            if sibling.looks not in group.lines:
                line = group.lines[sibling.looks] = Followed(g, number, list(history), list(path), [], [])
                self._add(group, line, DrawnSiblings([number], (sibling,)), answered, ())

    def step(self, groups: Sequence[DrawnGroup], depth: int, answered: bool) -> None:
        """One further reply after every reply of these groups, of one session, once its user has spoken."""
        prompts: list[Prompt] = []
        asked: list[tuple[DrawnGroup, Followed]] = []
        for group in groups:
            found = self._prompts(group, depth)
            prompts += found
            asked += [(group, line) for line in group.lines.values()] if found else []
        if not prompts:
            return
        drawn = self._drawer.draw(groups[0].session, prompts)
        for (group, line), prompt, one in zip(asked, prompts, drawn, strict=True):
            line.history.append({"role": "user", "content": line.answers[-1].result()})
            line.tokens = list(prompt.tokens)
            self._add(group, line, one, answered, ("ahead", depth))

    def _add(
        self, group: DrawnGroup, line: Followed, drawn: DrawnSiblings, answered: bool, named: tuple[str | int, ...]
    ) -> None:
        """Have a reply rated that comes next in a line, and answered."""
        (sibling,), before, rollout = drawn.siblings, list(line.history), group.rollout
        line.history.append({"role": "assistant", "content": sibling.text})
        line.tokens += closed(sibling, self._template.stop[0])
        answer = self._ask(rollout, list(line.history)) if answered else None
        if answer is not None:
            line.answers.append(answer)
        seed = derive_seed(self._seed, "reward", group.label, group.turn, line.sibling, *named)
        line.ratings.append(self._rater.rate(rollout, before, sibling, seed, answer))

    def _prompts(self, group: DrawnGroup, depth: int) -> list[Prompt]:
        """Those of all lines of a group; none where one of them has no answer or no room: they end together."""
        if group.at_end:
            return []
        prompts: list[Prompt] = []
        try:
            for line in group.lines.values():
                said: Message = {"role": "user", "content": line.answers[-1].result()}
                tokens = [*line.tokens, *self._template.continuation([*line.history, said])]
                seed = derive_seed(self._seed, group.label, group.turn, line.sibling, "ahead", depth)
                prompts.append(Prompt(line.number, tokens, (seed,)))
        except (RoleError, UnstableTemplateError) as error:
            group.at_end = True
            failed: Future[Components] = Future()
            failed.set_exception(RoleError(f"looking {depth} ahead: {error}"))
            line.ratings.append(failed)
            return []
        group.at_end = any(len(prompt.tokens) > self._drawer.room for prompt in prompts)
        return [] if group.at_end else prompts
