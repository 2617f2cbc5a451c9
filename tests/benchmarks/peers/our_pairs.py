"""Our training as a contestant on pairs: the same model and step, every pair as two padded sequences of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from aloe_jax.data.loader import FIELDS, Batch
from aloe_jax.data.packing import pack
from aloe_jax.data.trees import Node, TokenTree
from aloe_jax.training.logprobs import Scores
from aloe_jax.training.stages.dpo import dpo_loss
from aloe_jax.training.totals import Objective, Totals
from tests.benchmarks.peers.our_run import Run
from tests.benchmarks.peers.task import BETA, Pair, Task, batches_by_length, samples, worth
from tests.benchmarks.peers.worker import Answer, Meter, forget_peak, serve, told

BUCKET = 128  # tokens; the sequences' padded lengths are multiples of it
PAIRS = 8  # a step
SCORED = 128  # more tokens than any reply has


class Padded:
    """The same pairs as trainers on pairs have them: two sequences each, padded, grouped by length."""

    def prepare(self, request: Answer) -> Answer:
        """Lay the pairs of the rounds out in batches, with the reference's log-probs."""
        task = Task(**request["task"])
        self.run = Run(task, "dpo")
        batches = batches_by_length(task.pairs(), PAIRS)
        whole = [batch for batch in batches if len(batch) == PAIRS]
        rounds = samples(whole, cost, request["rounds"], max(1, request["pairs"] // PAIRS), task.seed)
        self.rounds = [[self._laid_out(batch) for batch in each] for each in rounds]
        one = self.rounds[0][0]
        policy = self.run.logps(self.run.params, one)[:, 1].reshape(-1, 2)
        loss, _ = dpo_loss(jnp.asarray(policy), jnp.asarray(one["reference"].reshape(-1, 2)), BETA)
        self.run.begin(as_pairs)
        self.done = [worth(each, batches, cost) for each in rounds]
        return {
            "tokens": sum(pair.tokens for each in rounds for batch in each for pair in batch),
            "first": {"loss": float(loss), "pairs": [pair.id for pair in rounds[0][0]]},
        }

    def warm(self, _: Answer) -> Answer:
        """Compile every shape, and take a step of each."""
        shapes = {batch["tokens"].shape: batch for each in self.rounds for batch in each}
        with told(f"compilation of {len(shapes)} shapes and first steps"):
            self.run.warm(list(shapes.values()))
        return {"peak": Meter().read()["peak"], "forgotten": forget_peak()}

    def round(self, request: Answer) -> Answer:
        """The batches of one round."""
        meter = Meter()
        self.run.steps(self.rounds[request["number"]])
        return meter.read() | {"pairs": self.done[request["number"]]}

    def _laid_out(self, pairs: Sequence[Pair]) -> Batch:
        length = bucket(pairs)
        rows = [pack([chain(pair, side)], length)[0] for pair in pairs for side in ("preferred", "rejected")]
        batch = {name: np.concatenate([getattr(row, name) for row in rows]) for name in FIELDS if name != "scored"}
        # One width for all batches, or the same length would be compiled several times.
        widths = [(0, 0), (0, SCORED)]
        batch["scored"] = np.concatenate([np.pad(row.scored, widths)[:, :SCORED] for row in rows])
        return batch | {"reference": self.run.logps(self.run.reference, batch)[:, 1:]}


def as_pairs(objective: Objective) -> Objective:
    """An objective for rows of one reply each, every two of them a pair, from one for rows with several."""

    def of(scores: Scores, batch: Mapping[str, jax.Array]) -> Totals:
        count = scores.replies.shape[0] // 2

        def replies(values: jax.Array) -> jax.Array:  # [2P, 2] -> [P, 3]
            return jnp.pad(values[:, 1].reshape(count, 2), ((0, 0), (1, 0)))

        return objective(
            Scores.of_replies(replies(scores.replies)),
            {
                "pairs": jnp.tile(jnp.array([[[1, 2]]], jnp.int32), (count, 1, 1)),
                "pair_turn": jnp.ones((count, 1), jnp.int32),
                "reply_length": replies(batch["reply_length"]),
                "reference": batch["reference"].reshape(count, 1, 2),
            },
        )

    return of


def chain(pair: Pair, side: str) -> TokenTree:
    """One reply of a pair with its whole prompt."""
    tokens = getattr(pair, side)
    return TokenTree(pair.id, (Node(-1, pair.prompt), Node(0, tokens, len(tokens), id=f"{pair.id}/{side}")), ())


def bucket(pairs: Sequence[Pair]) -> int:
    """The padded length of a batch."""
    return -(-max(pair.length for pair in pairs) // BUCKET) * BUCKET


def cost(pairs: Sequence[Pair]) -> int:
    """Tokens of a batch, padding included."""
    return 2 * len(pairs) * bucket(pairs)


if __name__ == "__main__":
    side = Padded()
    serve({"prepare": side.prepare, "warm": side.warm, "round": side.round})
