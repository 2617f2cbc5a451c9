"""The collaboration of roles that turns a persona into a conversation tree, many conversations at once."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aloe_jax import config
from aloe_jax.conversation import Branch, Conversation, Message, Persona, Turn
from aloe_jax.errors import AloeError
from datagen.journal import CONVERSATION, SETTINGS, SKIP, journal_path, same_settings

if TYPE_CHECKING:
    from aloe_jax.llm.ledger import Ledger

# A turn that a role spoils is tried again with other seeds, and as often again by every later run; a reply
# equal to its sibling is drawn again.
TURN_ATTEMPTS = 2
REDRAWS = 3


class Players(Protocol):
    """What a conversation needs of the cast; see `aloe_jax.roles.Cast`."""

    def user_message(self, persona: Persona, history: list[Message], seed: int) -> str: ...  # noqa: D102
    def infer(self, persona: Persona, user_messages: list[str], seed: int) -> tuple[str, str]: ...  # noqa: D102
    def reply(self, history: list[Message], hint: tuple[str, str] | None, seed: int) -> str: ...  # noqa: D102
    def verify(  # noqa: D102
        self, persona: Persona, history: list[Message], first: str, second: str, seed: int
    ) -> int: ...


@dataclass
class Outcome:
    """What a run of `write_conversations` did."""

    written: int = 0
    already: int = 0  # finished before this run
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> conversations given up
    stopping: bool = False  # interrupted, finishing what is in hand
    left: int = 0  # not reached, because the run was interrupted


def plan(personas: list[Persona], count: int, seed: int) -> list[tuple[str, Persona]]:
    """The first `count` conversations as (id, persona): all personas in a seeded order, again and again.

    Ids are PERSONA-NUMBER, for instance p0012-t034-0. A larger count only appends.
    """
    from aloe_jax.roles import derive_seed

    order = list(personas)
    random.Random(derive_seed(seed, "order")).shuffle(order)
    rounds = ((f"{persona.id}-{number}", persona) for number in itertools.count() for persona in order)
    return list(itertools.islice(rounds, count))


def write_conversation(
    cast: Players,
    conversation_id: str,
    persona: Persona,
    turns: int,
    seed: int,
    *,
    attempts: int = TURN_ATTEMPTS,
) -> Conversation:
    """Write one conversation; it depends on its arguments only.

    More attempts never change a conversation that fewer could finish. Raises RoleError when a turn cannot be
    had in `attempts` attempts.
    """
    from aloe_jax.roles import RoleError, derive_seed

    history: list[Message] = []
    done: list[Turn] = []
    while len(done) < turns:
        for attempt in range(attempts):
            try:
                turn = _turn(cast, persona, history, derive_seed(seed, conversation_id, len(done), attempt))
                break
            except RoleError:
                if attempt == attempts - 1:
                    raise
        done.append(turn)
        history.append({"role": "user", "content": turn.user})
        history.append({"role": "assistant", "content": turn.reply(turn.continued)})
    return Conversation(id=conversation_id, persona=persona, turns=done)


def _turn(cast: Players, persona: Persona, history: list[Message], seed: int) -> Turn:
    from aloe_jax.roles import RoleError, derive_seed

    rng = random.Random(seed)
    user = cast.user_message(persona, history, derive_seed(seed, "user"))
    spoken = [message["content"] for message in history if message["role"] == "user"] + [user]
    inferred = cast.infer(persona, spoken, derive_seed(seed, "infer"))
    path = [*history, {"role": "user", "content": user}]
    hinted = cast.reply(path, inferred, derive_seed(seed, "hinted"))
    for draw in range(REDRAWS + 1):
        plain = cast.reply(path, None, derive_seed(seed, "plain", draw))
        if plain.strip() != hinted.strip():
            break
    else:
        # Equal replies carry no preference, so training could not use the pair.
        raise RoleError("the replies with and without the hint are equal")
    # The verifier sees the two in random order: judges favour a position.
    replies = [hinted, plain]
    flipped = rng.random() < 0.5
    first, second = reversed(replies) if flipped else replies
    winner = cast.verify(persona, path, first, second, derive_seed(seed, "verify"))
    hint_won = (winner == 0) != flipped
    continued: Branch = "preferred" if rng.random() < 0.5 else "rejected"
    return Turn(
        user=user,
        preferred=hinted if hint_won else plain,
        rejected=plain if hint_won else hinted,
        continued=continued,
        hinted="preferred" if hint_won else "rejected",
        inferred_profile=inferred[0],
        inferred_personality=inferred[1],
    )


def write_conversations(
    ledger: Ledger,
    cast: Players,
    personas: list[Persona],
    settings: config.Datagen,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Write the planned conversations that the journal does not hold yet, `concurrency` at once.

    Each is journaled when it is finished; which ones and what they say does not depend on concurrency or on
    earlier runs that were killed. A conversation that a role spoils is skipped, counted, and tried again by
    the next run. On Ctrl-C the conversations in hand are finished and `left` counts the others.
    Raises AloeError when a model cannot be reached and on settings other than the recorded ones.
    """
    wanted = settings.conversations
    shaping = _shaping(settings)
    recorded = ledger.get(SETTINGS, "conversations")
    if recorded is None:
        ledger.put(SETTINGS, "conversations", shaping)
    else:
        same_settings(journal_path(settings), "conversations", recorded, shaping)

    finished = ledger.all(CONVERSATION).keys()
    skips = Counter(record["conversation"] for record in ledger.all(SKIP).values())
    work = plan(personas, wanted.count, settings.seed)
    waiting = [item for item in work if item[0] not in finished]
    outcome = Outcome(already=len(work) - len(waiting))
    progress(outcome)
    stop = threading.Event()
    lock = threading.Lock()

    def write(item: tuple[str, Persona]) -> None:
        from aloe_jax.roles import RoleError

        if stop.is_set():
            return
        conversation_id, persona = item
        earlier = skips[conversation_id]
        attempts = TURN_ATTEMPTS * (earlier + 1)
        try:
            conversation = write_conversation(
                cast, conversation_id, persona, wanted.turns, settings.seed, attempts=attempts
            )
        except RoleError as error:
            record = {"conversation": conversation_id, "reason": str(error)}
            ledger.put(SKIP, f"{conversation_id}/{earlier}", record)
            with lock:
                outcome.skipped[short_reason(str(error))] += 1
        else:
            ledger.put(CONVERSATION, conversation_id, conversation.model_dump())
            with lock:
                outcome.written += 1

    with ThreadPoolExecutor(wanted.concurrency, thread_name_prefix="conversation") as threads:
        futures = [threads.submit(write, item) for item in waiting]
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
    outcome.left = len(waiting) - outcome.written - outcome.skipped.total()
    progress(outcome)
    return outcome


def short_reason(reason: str) -> str:
    """What skips are counted by: the role and the fault, without the answer that was at fault."""
    return reason.partition(",")[0]


def recorded_conversations(ledger: Ledger, personas: list[Persona], settings: config.Datagen) -> list[Conversation]:
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


def _shaping(settings: config.Datagen) -> dict[str, Any]:
    """The settings that decide what a conversation says, by dotted name."""
    shaping: dict[str, Any] = {"seed": settings.seed, "conversations.turns": settings.conversations.turns}
    for role in ("user", "inducer", "responder", "verifier"):
        for key, value in getattr(settings.roles, role).model_dump().items():
            shaping[f"roles.{role}.{key}"] = value
    return shaping
