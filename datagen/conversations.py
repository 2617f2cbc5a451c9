"""The collaboration of roles that turns a persona into a conversation tree, many conversations at once."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from aloe_jax.conversation import Branch, Conversation, Message, Persona, Turn
from aloe_jax.coverage import Coverage, who_and_why, whole_reason
from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import BudgetError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import PendingError, UnavailableError
from aloe_jax.roles import Cast, RoleError, derive_seed
from datagen.journal import CONVERSATION, SETTINGS, SKIP, journal_path, recorded_skips, same_settings
from datagen.settings import ConversationsSettings, DatagenSettings

TALKING_ROLES = ("user", "inducer", "responder", "verifier")
# A turn that a role spoils is tried again with other seeds, and as often again by every later run; a reply
# equal to its sibling is drawn again.
TURN_ATTEMPTS = 5
REDRAWS = 3
# So many conversations in a row that no model could be reached for end the run.
GIVE_UP = 5


@dataclass
class Outcome:
    """What a run of `write_conversations` did."""

    written: int = 0
    already: int = 0  # finished before this run
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> conversations given up
    reasons: Counter[str] = field(default_factory=Counter)  # the same, for the last line
    unreachable: int = 0  # left for a later run because a model was out of reach
    stopping: bool = False  # interrupted or out of budget, finishing what is in hand
    stopped: str = ""  # the limit that stopped the run
    left: int = 0  # not reached, because the run was stopped

    def count(self, reason: str | None) -> None:
        """Count a conversation as written, or as skipped for a reason."""
        if reason is None:
            self.written += 1
        else:
            self.skipped[whole_reason(reason)] += 1
            self.reasons[who_and_why(reason)] += 1

    def stop(self, limit: BudgetError) -> None:
        """Begin nothing new, because a limit is reached."""
        self.stopping, self.stopped = True, str(limit)

    def coverage(self) -> Coverage:
        """Of the planned conversations, those that are missing by reason."""
        missing = Counter(self.reasons)
        if self.unreachable:
            missing["left because a model was out of reach"] = self.unreachable
        if self.left:
            missing["not begun"] = self.left
        return Coverage("conversations", self.already + self.written + missing.total(), missing)


def plan(personas: list[Persona], count: int, seed: int) -> list[tuple[str, Persona]]:
    """The first `count` conversations as (id, persona): all personas in a seeded order, again and again.

    Ids are PERSONA-NUMBER, for instance p0012-t034-0. A larger count only appends.
    """
    order = list(personas)
    random.Random(derive_seed(seed, "order")).shuffle(order)
    rounds = ((f"{persona.id}-{number}", persona) for number in itertools.count() for persona in order)
    return list(itertools.islice(rounds, count))


Position = Literal["first", "second"]  # in which the verifier read a reply


def write_conversation(
    cast: Cast,
    conversation_id: str,
    persona: Persona,
    wanted: ConversationsSettings,
    seed: int,
    *,
    attempts: int = TURN_ATTEMPTS,
    given_up: Counter[Position] | None = None,
) -> Conversation:
    """Write one conversation; it depends on its arguments only.

    With `wanted.branch` "both", the user answers both replies of the first `branch_depth` turns, so the tree has
    2 to the power of `branch_depth` lines of `wanted.turns` turns.
    `given_up`, if given, gets the pairs of which the verifier preferred the same position in both orders, also those of
    turns that could not be had.
    More attempts never change a conversation that fewer could finish. Raises RoleError when a turn cannot be
    had in `attempts` attempts.
    """
    turns: list[Turn] = []
    given_up = Counter[Position]() if given_up is None else given_up
    lines: deque[tuple[int, Branch] | None] = deque([None])  # the replies from which a line is still to be written
    while lines:
        start = lines.popleft()
        history = [] if start is None else Conversation.model_construct(id="", turns=turns).messages(*start)
        line = [] if start is None else [f"{start[0]}-{start[1]}"]  # part of the seed of a side line's turns
        while len(history) < 2 * wanted.turns:
            depth = len(history) // 2
            turn = _turn(cast, persona, history, wanted, attempts, [seed, conversation_id, *line, depth], given_up)
            if start is not None:
                turn = turn.model_copy(update={"follows": start[0], "after": start[1]})
                start = None
            if wanted.branch == "both" and depth < min(wanted.branch_depth, wanted.turns - 1):
                lines.append((len(turns), "rejected" if turn.continued == "preferred" else "preferred"))
            turns.append(turn)
            history.append({"role": "user", "content": turn.user})
            history.append({"role": "assistant", "content": turn.reply(turn.continued)})
    return Conversation(id=conversation_id, persona=persona, turns=turns)


def _turn(
    cast: Cast,
    persona: Persona,
    history: list[Message],
    wanted: ConversationsSettings,
    attempts: int,
    name: list[str | int],
    all_given_up: Counter[Position],
) -> Turn:
    given_up = Counter[Position]()
    try:
        for attempt in range(attempts):
            try:
                return _attempt(cast, persona, history, wanted, derive_seed(*name, attempt), given_up)
            except RoleError:
                if attempt == attempts - 1:
                    raise
    finally:
        all_given_up.update(given_up)
    raise AssertionError("no attempts")


def _attempt(
    cast: Cast,
    persona: Persona,
    history: list[Message],
    wanted: ConversationsSettings,
    seed: int,
    given_up: Counter[Position],
) -> Turn:
    """One turn. `given_up` counts the pairs of which the verifier preferred the same position in both orders."""
    rng = random.Random(seed)
    user = cast.user_message(persona, history, derive_seed(seed, "user"))
    spoken = [message["content"] for message in history if message["role"] == "user"] + [user]
    path = [*history, {"role": "user", "content": user}]

    def plain(draw: int) -> str:
        return cast.reply(path, None, derive_seed(seed, "plain", draw))

    def hinted_or_plain(again: list[int]) -> str:
        return cast.reply(path, hint, derive_seed(seed, "hinted", *again))

    inferred, hint, first = ("", ""), None, None
    if wanted.hint:
        # The first plain reply needs no hint, so a wave of batched calls can ask for both.
        inferred, first = _both(lambda: cast.infer(persona, spoken, derive_seed(seed, "infer")), lambda: plain(0))
        hint = inferred
    for draw in range(REDRAWS + 1):
        # Equal replies need another plain one only; a verifier in doubt needs another pair.
        again = [draw] if draw and wanted.verify_twice else []
        if draw == 0 and first is not None:
            replies = [hinted_or_plain(again), first]
        else:
            replies = list(_both(partial(hinted_or_plain, again), partial(plain, draw)))
        if replies[0].strip() == replies[1].strip():
            fault = "the two replies are equal"  # no preference between them, so training could not use the pair
            continue
        # The verifier sees the two in random order: judges favour a position.
        flipped = rng.random() < 0.5
        winner = _verify(cast, persona, path, replies, flipped, derive_seed(seed, "verify", *again))
        if not wanted.verify_twice:
            break
        if winner == _verify(cast, persona, path, replies, not flipped, derive_seed(seed, "verify", *again, "swapped")):
            break
        given_up["first" if winner == int(flipped) else "second"] += 1
        fault = "the verifier contradicts itself when the order is swapped"
    else:
        raise RoleError(fault)
    continued: Branch = "preferred" if rng.random() < 0.5 else "rejected"
    hinted: Branch = "preferred" if winner == 0 else "rejected"
    return Turn(
        user=user,
        preferred=replies[winner],
        rejected=replies[1 - winner],
        continued=continued,
        hinted=hinted if wanted.hint else None,
        shown_first="preferred" if winner == int(flipped) else "rejected",
        favoured_first=given_up["first"] if wanted.verify_twice else None,
        favoured_second=given_up["second"] if wanted.verify_twice else None,
        inferred_profile=inferred[0],
        inferred_personality=inferred[1],
    )


def _both[A, B](first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Both results. An answer that is pending does not keep the other question from being asked."""
    try:
        one = first()
    except PendingError:
        second()
        raise
    return one, second()


def _verify(
    cast: Cast, persona: Persona, path: list[Message], replies: list[str], flipped: bool, seed: int
) -> Literal[0, 1]:
    """Which of `replies` the persona prefers, when shown in this order or flipped."""
    first, second = reversed(replies) if flipped else replies
    return 1 if (cast.verify(persona, path, first, second, seed) == 1) != flipped else 0


def unfinished(
    ledger: Ledger, personas: list[Persona], settings: DatagenSettings
) -> tuple[dict[str, Persona], Counter[str], Outcome]:
    """The planned conversations that the journal does not have, how often they were skipped, and an outcome to fill.

    Raises AloeError on settings other than the recorded ones.
    """
    record_settings(ledger, settings)
    finished = ledger.all(CONVERSATION).keys()
    work = plan(personas, settings.conversations.count, settings.seed)
    waiting = {name: persona for name, persona in work if name not in finished}
    skips = Counter(skip.conversation for skip in recorded_skips(ledger))
    return waiting, skips, Outcome(already=len(work) - len(waiting))


def write_or_skip(
    ledger: Ledger, cast: Cast, name: str, persona: Persona, settings: DatagenSettings, skips: int
) -> str | None:
    """Write one conversation and journal it, or else why it is skipped, which is returned. `skips`: of earlier runs."""
    wanted, attempts, given_up = settings.conversations, TURN_ATTEMPTS * (skips + 1), Counter[Position]()
    try:
        conversation = write_conversation(
            cast, name, persona, wanted, settings.seed, attempts=attempts, given_up=given_up
        )
    except RoleError as error:
        favoured = {f"favoured_{position}": count for position, count in given_up.items()}
        ledger.put(SKIP, f"{name}/{skips}", {"conversation": name, "reason": str(error), **favoured}, replacing=True)
        return str(error)
    ledger.put(CONVERSATION, name, conversation.record())
    return None


def write_conversations(
    ledger: Ledger,
    cast: Cast,
    personas: list[Persona],
    settings: DatagenSettings,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Write the planned conversations that the journal does not have yet, `concurrency` at once.

    Each is journaled when it is finished; which ones and what they say does not depend on concurrency or on
    earlier runs that were killed. A conversation that a role spoils is skipped, counted, and tried again by
    the next run. On Ctrl-C, and when the ledger's budget is spent, the conversations in hand go as far as they
    can and `left` counts the others. Raises AloeError when a model refuses to be asked or has been out of reach
    for GIVE_UP calls in a row, and on settings other than the recorded ones.
    """
    waiting, skips, outcome = unfinished(ledger, personas, settings)
    progress(outcome)
    stop, lock = threading.Event(), threading.Lock()
    unreachable_in_a_row = 0

    def write(name: str, persona: Persona) -> None:
        nonlocal unreachable_in_a_row
        if stop.is_set():
            return
        try:
            reason = write_or_skip(ledger, cast, name, persona, settings, skips[name])
            with lock:
                outcome.count(reason)
                unreachable_in_a_row = 0
        except BudgetError as error:
            stop.set()
            outcome.stop(error)
        except UnavailableError:
            with lock:
                outcome.unreachable += 1
                unreachable_in_a_row += 1
                if unreachable_in_a_row >= GIVE_UP:
                    stop.set()
                    raise
        except BaseException:
            stop.set()  # before another thread begins what would fail alike
            raise

    with ThreadPoolExecutor(settings.conversations.concurrency, thread_name_prefix="conversation") as threads:
        futures = [threads.submit(write, *item) for item in waiting.items()]
        try:
            for future in as_completed(futures):
                future.result()
                progress(outcome)
        except KeyboardInterrupt:
            outcome.stopping = True
            progress(outcome)
        finally:
            stop.set()
            threads.shutdown(wait=True, cancel_futures=True)
    outcome.left = len(waiting) - outcome.written - outcome.skipped.total() - outcome.unreachable
    progress(outcome)
    return outcome


def recorded_conversations(ledger: Ledger, personas: list[Persona], settings: DatagenSettings) -> list[Conversation]:
    """The planned conversations that are finished, in the order of the plan.

    Raises AloeError naming the conversation whose record is not valid.
    """
    path = journal_path(settings)
    finished = ledger.all(CONVERSATION)
    if not finished:
        raise AloeError(
            f"{path}: holds no conversations yet; run `python -m datagen conversations --config FILE` first"
        )
    ids = [conversation_id for conversation_id, _ in plan(personas, settings.conversations.count, settings.seed)]
    return [
        Conversation.parse(finished[conversation_id], f"{path} conversation {conversation_id}")
        for conversation_id in ids
        if conversation_id in finished
    ]


def record_settings(ledger: Ledger, settings: DatagenSettings) -> None:
    """Note what the conversations are written with. Raises AloeError when earlier ones were written otherwise."""
    shaping = _shaping(settings)
    recorded = ledger.get(SETTINGS, "conversations")
    if recorded is None:
        ledger.put(SETTINGS, "conversations", shaping)
    else:
        same_settings(journal_path(settings), "conversations", recorded, shaping)


def _shaping(settings: DatagenSettings) -> dict[str, object]:
    """The settings that decide what a conversation says, by dotted name."""
    shaping: dict[str, object] = {"seed": settings.seed}
    for key in ("turns", "hint", "verify_twice", "branch", "branch_depth"):
        shaping[f"conversations.{key}"] = getattr(settings.conversations, key)
    for role in TALKING_ROLES:
        for key, value in getattr(settings.roles, role).shaping().items():
            shaping[f"roles.{role}.{key}"] = value
    return shaping
