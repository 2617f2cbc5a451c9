"""All dialogues of one candidate: user messages are asked for while replies to others are generated.

A model on this machine's accelerator talks in lanes. A lane is a fixed set of cases that share a session and advance
together; while the accelerator writes the replies of one lane, the users of the other think about theirs. A candidate
without a session (a remote model, a scripted reference line) has a lane for every case, and calls to users and to the
candidate mix freely. Whatever the timing, a message and a reply depend on their own case and seed alone.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aloe_jax.benchmark.dialogue import Candidate, Dialogue, DialogueTurn, Journal, NoReply, Partner
from aloe_jax.conversation import Persona
from aloe_jax.roles import Cast, RoleError, derive_seed, persistent

LANES = 2  # with a session of its own, where users take their time


class Conversing:
    """The dialogues of one candidate. `run` may be called once."""

    def __init__(
        self,
        candidate: Candidate,
        personas: Sequence[Persona],
        cast: Cast,
        journal: Journal,
        *,
        turns: int,
        seed: int,
        concurrency: int,
        waits: bool,
        finished: Callable[[Dialogue, int], None] = lambda dialogue, turn: None,
    ) -> None:
        """`waits` says that user messages take time, so that a model had better work in two lanes.

        `finished` is called with every dialogue and each of its turns (0-based) once it is journaled, from several
        threads, those that were journaled before included.
        """
        self._candidate, self._cast, self._journal = candidate, cast, journal
        self._turns, self._seed, self._finished = turns, seed, finished
        self._concurrency = concurrency
        self._rows, self._lanes = candidate.rows, LANES if waits else 1
        self.dialogues = [Dialogue(persona, journal.read(case, turns)) for case, persona in enumerate(personas)]

    def run(self) -> list[Dialogue]:
        """Let every case come to its last turn.

        A case ends early, with a reason, when its user's message or the candidate's reply cannot be had: its later
        turns have no reply and so no rating. Raises AloeError from cast and candidate; what is finished is kept.
        """
        for dialogue in self.dialogues:
            for turn in range(len(dialogue.exchanges)):
                self._finished(dialogue, turn)
        plan = waves(len(self.dialogues), self._rows, self._lanes)
        size = len(plan[0][0])  # of every session, so that each is computed by what was compiled for the first
        with WorkerPool(self._concurrency) as pool:
            for wave in plan:
                self._talk(pool, wave, size)
        return self.dialogues

    def _talk(self, pool: WorkerPool, wave: Sequence[range], size: int) -> None:
        ready: queue.SimpleQueue[_Lane | Exception] = queue.SimpleQueue()
        lanes = [_Lane(self, cases, self._candidate.partner(size), pool, ready) for cases in wave]
        for lane in lanes:
            lane.go_on()
        talking = len(lanes)
        while talking:
            arrived = ready.get()
            if isinstance(arrived, Exception):
                raise arrived
            if arrived.done:
                talking -= 1
            else:
                arrived.answer()
                arrived.go_on()

    # What a lane needs of its run, for one case.

    def next_message(self, case: int) -> str | RoleError:
        """The user's next message, or why there is none."""
        dialogue = self.dialogues[case]
        persona, turn, history = dialogue.persona, len(dialogue.exchanges), dialogue.history()
        try:
            # The seed leaves the candidate out: the same persona opens the same way for every one of them.
            return persistent(
                lambda s: self._cast.user_message(persona, history, s), self._seed, "user", persona.id, turn
            )
        except RoleError as error:
            return error

    def waiting(self, cases: range) -> list[int]:
        """The cases of a lane that are furthest behind, of those that go on."""
        going = [
            i for i in cases if self.dialogues[i].stopped is None and len(self.dialogues[i].exchanges) < self._turns
        ]
        turn = min((len(self.dialogues[i].exchanges) for i in going), default=0)
        return [i for i in going if len(self.dialogues[i].exchanges) == turn]

    def answer(self, partner: Partner, asked: Sequence[tuple[int, str | RoleError]]) -> None:
        """Let the candidate reply in one turn of some cases, and journal it."""
        for case, message in asked:
            if isinstance(message, RoleError):
                self.dialogues[case].stopped = f"turn {len(self.dialogues[case].exchanges) + 1}: {message}"
        heard = [(case, message) for case, message in asked if isinstance(message, str)]
        if not heard:
            return
        turn = len(self.dialogues[heard[0][0]].exchanges)
        replies = partner.reply(
            [self.dialogues[case] for case, _ in heard],
            [message for _, message in heard],
            [derive_seed(self._seed, self.dialogues[case].persona.id, turn) for case, _ in heard],
        )
        replied = []
        for (case, message), reply in zip(heard, replies, strict=True):
            if isinstance(reply, NoReply):
                self.dialogues[case].stopped = f"turn {turn + 1}: {reply.reason}"
            else:
                replied.append((case, DialogueTurn(message, reply)))
        self._journal.write(turn, replied)
        for case, exchange in replied:
            self.dialogues[case].exchanges.append(exchange)
            self._finished(self.dialogues[case], turn)


class _Lane:
    """Cases that advance together. It puts itself into `ready` when all its users have spoken, and when it is done."""

    def __init__(
        self,
        run: Conversing,
        cases: range,
        partner: Partner,
        pool: WorkerPool,
        ready: queue.SimpleQueue[_Lane | Exception],
    ) -> None:
        self._run, self._cases, self._partner, self._pool, self._ready = run, cases, partner, pool, ready
        self._local = run._rows is not None  # replies come from this machine, one lane at a time
        self._lock = threading.Lock()
        self._asked: list[tuple[int, str | RoleError]] = []
        self._missing = 0
        self.done = False

    def go_on(self) -> None:
        """Ask the users of the next turn."""
        waiting = self._run.waiting(self._cases)
        if not waiting:
            self.done = True
            self._ready.put(self)
            return
        self._asked, self._missing = [], len(waiting)
        for case in waiting:
            self._pool.submit(self._ask, case, failed=self._ready.put)

    def _ask(self, case: int) -> None:
        message = self._run.next_message(case)
        with self._lock:
            self._asked.append((case, message))
            self._missing -= 1
            complete = not self._missing
        if not complete:
            return
        if self._local:
            self._ready.put(self)
        else:  # at once, in the thread that asked the user
            self.answer()
            self.go_on()

    def answer(self) -> None:
        """Reply to the users."""
        self._run.answer(self._partner, sorted(self._asked, key=lambda asked: asked[0]))


class WorkerPool:
    """Threads for calls to remote models. On an error what was not begun is dropped; what was begun is finished."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads)

    def submit(self, function: Callable[..., None], *args: object, failed: Callable[[Exception], None]) -> None:
        """Call the function in a thread, first come, first served; `failed` is called with its exception."""

        def call() -> None:
            try:
                function(*args)
            except Exception as error:
                failed(error)

        self._executor.submit(call)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=kind is not None)


def waves(cases: int, rows: int | None, lanes: int) -> list[list[range]]:
    """Lanes of nearly equal size: waves of at most `rows` cases one after the other, in `lanes` side by side.

    Without `rows`, one wave with a lane for every case.
    """
    if rows is None:
        return [[range(case, case + 1) for case in range(cases)]]
    count = -(-cases // rows)
    width = min(lanes, -(-cases // count))
    size = -(-cases // (count * width))
    parts = [range(start, min(start + size, cases)) for start in range(0, cases, size)]
    return [list(wave) for wave in itertools.batched(parts, width)]
