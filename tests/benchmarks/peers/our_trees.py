"""Our training as a contestant: conversations as token trees, several in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from aloe_jax.data.bins import best_row_length
from aloe_jax.data.loader import Batch, Loader, evaluation_batches
from aloe_jax.data.packing import Rows, pack
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.training.stages.dpo import dpo_loss
from tests.benchmarks.peers.our_run import Run
from tests.benchmarks.peers.task import BETA, Conversation, Task
from tests.benchmarks.peers.worker import Answer, Meter, forget_peak, serve, told

LONGEST = 4096  # tokens: longer rows are no faster, and a step on them keeps more


class Trees:
    """Conversations as token trees, several in a row."""

    def prepare(self, request: Answer) -> Answer:
        """Pack the trees and compute all log-probs of the reference, and of the policy for `check`."""
        task, self.stage = Task(**request["task"]), request["kind"]
        trees = [tree_of(conversation) for conversation in task.draw()]
        if self.stage == "sft":
            trees = [tree.keep_replies([pair.preferred for pair in tree.pairs]) for tree in trees]
        self.rows = packed(trees)
        self.run = Run(task, self.stage)
        self.policy = self._by_id(self._logps(self.run.params))
        extra: Batch = {}
        if self.stage == "dpo":
            found = self._logps(self.run.reference)
            self.reference = self._by_id(found)
            extra["reference"] = np.stack([logps[pairs] for logps, pairs in zip(found, self.rows.pairs, strict=True)])
        self.loader = Loader(self.rows, self.run.settings.data.rows, task.seed).with_arrays(extra)
        self.taken = 0
        self.targets = {
            id: int(self.rows.reply_length[row, number + 1]) for id, (row, number) in self._places().items()
        }
        self.run.begin()
        return {
            "tokens": int(self.rows.length.sum()),
            "rows": len(self.rows),
            "length": self.rows.tokens.shape[1],
            "fill": float(self.rows.length.sum() / self.rows.tokens.size),
            "targets": sum(self.targets.values()),
            "pairs": int((self.rows.pair_turn > 0).sum()),
        }

    def check(self, request: Answer) -> Answer:
        """The loss of given pairs under the policy's first weights."""
        ids = request["pairs"]
        if self.stage == "sft":
            names = [f"{id}/preferred" for id in ids]
            return {"loss": -sum(self.policy[id] for id in names) / sum(self.targets[id] for id in names)}
        policy, reference = (
            jnp.asarray([[table[f"{id}/{side}"] for side in ("preferred", "rejected")] for id in ids])
            for table in (self.policy, self.reference)
        )
        return {"loss": float(dpo_loss(policy, reference, BETA)[0])}

    def warm(self, _: Answer) -> Answer:
        """Compile, and take the first step."""
        with told("compilation and first step"):
            self.run.warm(self._next(1))
        return {"peak": Meter().read()["peak"], "forgotten": forget_peak()}

    def round(self, _: Answer) -> Answer:
        """A pass over all rows, but for those that would not fill a batch: they come in the next round."""
        meter = Meter()
        batches = self._next(len(self.rows) // self.loader.size)
        self.run.steps(batches)
        done = {"pairs": sum(int((batch["pair_turn"] > 0).sum()) for batch in batches)}
        if self.stage == "sft":
            done = {"targets": sum(int(batch["reply_length"].sum()) for batch in batches)}
        return meter.read() | done

    def _next(self, count: int) -> list[Batch]:
        self.taken += count
        return [self.loader.batch(at) for at in range(self.taken - count, self.taken)]

    def _places(self) -> dict[str, tuple[int, int]]:
        return {id: (row, number) for row, ids in enumerate(self.rows.reply_ids) for number, id in enumerate(ids)}

    def _logps(self, params: Any) -> np.ndarray:
        """Of every reply under these parameters, [rows, R]."""
        batches = evaluation_batches(self.rows, self.run.settings.data.rows)
        return np.concatenate([self.run.logps(params, batch) for batch in batches])[: len(self.rows)]

    def _by_id(self, logps: np.ndarray) -> dict[str, float]:
        return {id: float(logps[row, number + 1]) for id, (row, number) in self._places().items()}


def tree_of(conversation: Conversation) -> TokenTree:
    """A conversation depth first: at every turn the reply that ends there, then the one that goes on."""
    nodes: list[Node] = []
    pairs: list[Pair] = []
    parent = -1
    for number, turn in enumerate(conversation.turns):
        nodes.append(Node(parent, turn.user, turn=number))
        prompt = len(nodes) - 1
        places: dict[str, int] = {}
        for side in ("rejected", "preferred") if turn.preferred_continued else ("preferred", "rejected"):
            tokens = getattr(turn, side)
            places[side] = parent = len(nodes)
            nodes.append(Node(prompt, tokens, len(tokens), number, f"{conversation.id}/{number}/{side}"))
        pairs.append(Pair(number, places["preferred"], places["rejected"]))
    return TokenTree(conversation.id, tuple(nodes), tuple(pairs))


def packed(trees: Sequence[TokenTree]) -> Rows:
    """Rows of the length up to LONGEST that fits the trees best, as a dry run tells a person."""
    best = best_row_length([np.array([tree.length for tree in trees])], LONGEST)
    if best is None:
        raise ValueError(f"a tree is longer than {LONGEST} tokens")
    return pack(trees, best[0])[0]


if __name__ == "__main__":
    side = Trees()
    serve({"prepare": side.prepare, "check": side.check, "warm": side.warm, "round": side.round})
