"""What a run trains on: the configured data where it is there, else conversations of an assumed shape."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from aloe_jax.data.packing import PackingReport, Rows, pack
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.models.spec import ModelSpec
from aloe_jax.planning.flops import scores
from aloe_jax.rollouts.batch import BatchShape, padded
from aloe_jax.rollouts.personas import read_rollout_personas, steps_of
from aloe_jax.rollouts.settings import RLSettings
from aloe_jax.storage.files import is_remote, reachable
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages import STAGES
from aloe_jax.training.stages.stage import Stage, stage_of
from aloe_jax.training.start import gather_material, load_template
from aloe_jax.training.work import Work, mean_step, times_shown


@dataclass(frozen=True)
class Shape:
    """Conversations that do not exist yet. Lengths are means, drawn evenly between 0.5 and 1.5 times."""

    conversations: int = 3310  # for training: of the published pool
    turns: int = 10
    user_tokens: int = 40  # of a user's message, with what the chat template puts around it
    reply_tokens: int = 60  # of a reply, with its end of turn

    def __str__(self) -> str:
        return (
            f"{self.conversations:,} conversations of {self.turns} turns, {self.user_tokens} tokens a user's message, "
            f"{self.reply_tokens} a reply"
        )


@dataclass(frozen=True)
class Packed:
    """Training rows of one length."""

    rows: Rows
    report: PackingReport
    shown: np.ndarray  # how often an epoch shows a row

    @functools.cached_property
    def scores(self) -> float:
        """See `flops.scores`, with a kernel."""
        return scores(self.rows)


@dataclass(frozen=True)
class Workload:
    """What a step and the run have of the rows; counts of a step are means."""

    packed: Packed
    said: str  # where the conversations come from
    assumed: bool
    steps: int
    trees: float
    tokens: float
    pairs: float
    flops: float  # useful ones, see `Work`
    drawn: tuple[TokenTree, ...] = ()  # the conversations of a step, where the policy draws them
    computed: float = 1.0  # share of a step's rows that are computed
    updates: int = 1  # on the rows of a step

    @property
    def passes(self) -> float:
        """How often the rows of a step are computed."""
        return self.computed * self.updates


def trees_of(shape: Shape, stage: Stage, seed: int = 0) -> list[TokenTree]:
    """Token trees of the assumed shape: every turn a user's message and two replies, one of which is continued.

    In SFT one reply a turn is scored and the others are context only where the conversation went on from them.
    """
    draw = np.random.default_rng(seed)

    def length(mean: int) -> int:
        return max(2, round(mean * draw.uniform(0.5, 1.5)))

    made = []
    for number in range(shape.conversations):
        nodes: list[Node] = []
        pairs: list[Pair] = []
        continued = -1
        for turn in range(shape.turns):
            nodes.append(Node(continued, [0] * length(shape.user_tokens), turn=turn))
            user, replies = len(nodes) - 1, []
            for _ in range(2):
                size = length(shape.reply_tokens)
                replies.append(len(nodes))
                nodes.append(Node(user, [0] * size, scored=size, turn=turn))
            continued = replies[1]
            preferred, rejected = replies if draw.random() < 0.5 else replies[::-1]
            pairs.append(Pair(turn, preferred, rejected))
        tree = TokenTree(f"assumed-{number}", tuple(nodes), tuple(pairs))
        made.append(tree if stage.selection.pairs else tree.keep_replies([pair.preferred for pair in pairs]))
    return made


def drawn_trees(shape: Shape, rl: RLSettings, seed: int = 0) -> list[TokenTree]:
    """A step's conversations as the policy might draw them: at every turn a user's message and a group of replies."""
    draw = np.random.default_rng(seed)

    def length(mean: int) -> int:
        return max(2, round(mean * draw.uniform(0.5, 1.5)))

    made = []
    for number in range(rl.conversations):
        nodes: list[Node] = []
        parent = -1
        for turn in range(rl.turns):
            nodes.append(Node(parent, [0] * length(shape.user_tokens), turn=turn))
            user = len(nodes) - 1
            for _ in range(rl.group):
                size = min(length(shape.reply_tokens), rl.draw.max_new_tokens)
                nodes.append(Node(user, [0] * size, scored=size, turn=turn))
            parent = len(nodes) - 1
        made.append(TokenTree(f"assumed-{number}", tuple(nodes), ()))
    return made


class Conversations:
    """The training data: read where it is there, of the assumed shape where it is not or is drawn; packed once a row
    length."""

    def __init__(self, settings: TrainSettings, shape: Shape) -> None:
        self._packed: dict[int, Packed] = {}
        self.drawn = not STAGES[settings.stage].needs_data
        if self.drawn:
            reply = min(shape.reply_tokens, settings.rl.draw.max_new_tokens)
            self._trees = drawn_trees(replace(shape, reply_tokens=reply), settings.rl)
            self.assumed, self._personas = True, _personas(settings, shape)
            self.said = (
                f"assumed, since the policy draws it: {shape.user_tokens} tokens a user's message, {reply} a reply; "
                f"{self._personas:,} personas to learn from"
            )
            return
        reason = missing(settings)
        self.assumed = bool(reason)
        self.said = (
            f"assumed, since {reason}: {shape}" if reason else f"read from {settings.data.path or 'data.mixture'}"
        )
        self._trees = trees_of(shape, stage_of(settings)) if reason else []

    def workload(self, settings: TrainSettings, spec: ModelSpec) -> Workload:
        """The work of a run with these settings, which differ from the first ones in sizes only."""
        packed = self.packed(settings)
        if self.drawn:
            return self._drawn_workload(settings, spec, packed)
        work, shown = Work.of(packed.rows, spec, settings.model.lora), packed.shown
        tokens, pairs, flops = work.mean_step(shown, settings.data.rows)
        trees = np.array([len(ids) for ids in packed.rows.tree_ids])
        return Workload(
            packed,
            self.said,
            self.assumed,
            steps=settings.steps or settings.epochs * math.ceil(shown.sum() / settings.data.rows),
            trees=mean_step(trees, shown, settings.data.rows),
            tokens=tokens,
            pairs=pairs,
            flops=flops,
        )

    def _drawn_workload(self, settings: TrainSettings, spec: ModelSpec, packed: Packed) -> Workload:
        rl, used = settings.rl, len(packed.rows)
        tokens, _, flops = Work.of(packed.rows, spec, settings.model.lora).over(np.arange(used))
        part = -(-settings.data.rows // settings.data.accumulate)
        return Workload(
            packed,
            self.said,
            self.assumed,
            steps=settings.steps or steps_of(self._personas, rl, settings.epochs),
            trees=rl.conversations,
            tokens=tokens,
            pairs=0.0,
            flops=flops * rl.updates,
            drawn=tuple(self._trees),
            computed=min(1.0, -(-used // part) * part / settings.data.rows),
            updates=rl.updates,
        )

    def longest(self, settings: TrainSettings) -> int:
        """Tokens of the longest conversation: rows must not be shorter, or it would lose turns."""
        return int(self.packed(settings).report.lengths.max())

    def packed(self, settings: TrainSettings) -> Packed:
        """Rows of `data.row_length`."""
        length = settings.data.row_length
        if length not in self._packed:
            if self.drawn:
                rl, data = settings.rl, settings.data
                rows, report = pack(self._trees, length)
                rows = padded(rows, BatchShape(data.rows, length, rl.conversations, rl.groups, rl.group))
                self._packed[length] = Packed(rows, report, np.ones(len(rows)))
            elif self.assumed:
                rows, report = pack(self._trees, length, settings.data.packing)
                self._packed[length] = Packed(rows, report, np.ones(len(rows)))
            else:
                _, template = load_template(settings.model)
                train = gather_material(settings, stage_of(settings), template).train
                self._packed[length] = Packed(train.rows, train.report, times_shown(len(train.rows), train.parts))
        return self._packed[length]


def _personas(settings: TrainSettings, shape: Shape) -> int:
    """Personas to learn from: those that exist, else one a conversation. Raises AloeError where they are too few."""
    rl = settings.rl
    if not rl.personas or not reachable(rl.personas):
        return max(1, shape.conversations - rl.heldout)
    return len(read_rollout_personas(rl, settings.data).training)


def missing(settings: TrainSettings) -> str:
    """What of the data and the tokenizer is missing, "" when all of it is."""
    paths = [source.path for source in settings.data.sources]
    tokenizer = settings.model.tokenizer or settings.model.path or ""
    gone = [path for path in (*paths, tokenizer) if not reachable(path)]
    return f"{gone[0]} is {'not there or cannot be read' if is_remote(gone[0]) else 'missing'}" if gone else ""
