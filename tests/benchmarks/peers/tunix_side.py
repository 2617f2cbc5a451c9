"""Tunix's DPOTrainer as a contestant; runs in its environment.

Its trainer compiles one step for one shape, so every prompt is padded to the longest, and computes the reference's
log-probs in every step; it has no setting for either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from tunix.models.llama3.model import ModelConfig
from tunix.models.llama3.params import create_model_from_safe_tensors
from tunix.sft.dpo.dpo_trainer import DPOTrainer, DPOTrainingConfig, TrainingInput, dpo_loss_fn

from tests.benchmarks.peers.task import BETA, LEARNING_RATE, PAD, Pair, Task, batches_shuffled, samples
from tests.benchmarks.peers.worker import Answer, Gate, Meter, forget_peak, serve, told

WARM = 2  # steps


class Side:
    """What the commands share."""

    def __init__(self) -> None:
        self.gate = Gate()

    def prepare(self, request: Answer) -> Answer:
        """Load policy and reference, pad the pairs."""
        task = Task(**request["task"])
        shape = ModelConfig(
            num_layers=task.layers,
            vocab_size=task.vocab,
            embed_dim=task.width,
            hidden_dim=task.feed_forward,
            num_heads=task.query_heads,
            head_dim=task.head_size,
            num_kv_heads=task.kv_heads,
            rope_theta=int(task.rope_theta),
            norm_eps=task.norm_eps,
        )
        # Its models name the axes fsdp and tp; pairs lie along fsdp.
        self.mesh = jax.make_mesh((jax.device_count(), 1), ("fsdp", "tp"), axis_types=(AxisType.Auto,) * 2)
        policy, reference = (
            create_model_from_safe_tensors(str(directory), shape, self.mesh, dtype=jnp.float32)
            for directory in (task.policy, task.reference)
        )
        pairs = task.pairs()
        self.prompt = -(-max(len(pair.prompt) for pair in pairs) // 64) * 64
        self.reply = -(-max(len(reply) for pair in pairs for reply in (pair.preferred, pair.rejected)) // 16) * 16
        size = request["batch"]
        whole = batches_shuffled(pairs, size, task.seed)
        # All batches are padded alike and cost the same, so any will do.
        rounds = samples(whole, lambda batch: 0, request["rounds"], max(1, request["pairs"] // size), task.seed)
        self.batches = [*(rounds[0][0],) * WARM, *(batch for each in rounds for batch in each)]
        self.steps, self.items = len(rounds[0]), {"pairs": len(rounds[0]) * size}
        self.trainer = DPOTrainer(
            model=policy,
            ref_model=reference,
            optimizer=optax.adamw(LEARNING_RATE),
            training_config=DPOTrainingConfig(eval_every_n_steps=10**9, beta=BETA),
        )
        return {
            "tokens": sum(pair.tokens for batch in self.batches for pair in batch),
            "length": self.prompt + self.reply,
            "first": self._check(),
        }

    def _check(self) -> Answer:
        with self.mesh:
            example = self.trainer._prepare_inputs(self._padded(self.batches[0]))
            loss, _ = dpo_loss_fn(self.trainer.model, example, "dpo", BETA)
        return {"loss": float(loss), "pairs": [pair.id for pair in self.batches[0]]}

    def warm(self, _: Answer) -> Answer:
        """Compile (the second step is compiled anew), and take the first steps."""
        with told("compilation and first steps"):
            self.gate.start(self._train)
            self.gate.run(WARM)
        return {"peak": Meter().read()["peak"], "forgotten": forget_peak()}

    def round(self, _: Answer) -> Answer:
        """The steps of one round."""
        meter = Meter()
        self.gate.run(self.steps)
        return meter.read() | self.items

    def _train(self) -> None:
        with self.mesh:
            self.trainer.train(self._stream())

    def _stream(self) -> Iterator[TrainingInput]:
        for batch in self.batches:
            self._pass()
            yield self._padded(batch)
        self._pass()

    def _pass(self) -> None:
        if self.gate.closed:
            self.trainer._throttler.wait_for_all()  # steps are computed while the next ones are made
        self.gate.step()

    def _padded(self, batch: Sequence[Pair]) -> TrainingInput:
        prompts = np.full((len(batch), self.prompt), PAD, np.int32)
        replies = np.full((2, len(batch), self.reply), PAD, np.int32)
        prompt_mask, reply_mask = np.zeros(prompts.shape, np.int32), np.zeros(replies.shape, np.int32)
        for row, pair in enumerate(batch):
            prompts[row, self.prompt - len(pair.prompt) :] = pair.prompt
            prompt_mask[row, self.prompt - len(pair.prompt) :] = 1
            for side, tokens in enumerate((pair.preferred, pair.rejected)):
                replies[side, row, : len(tokens)] = tokens
                reply_mask[side, row, : len(tokens)] = 1
        return TrainingInput(
            prompt_ids=prompts,
            prompt_mask=prompt_mask,
            chosen_ids=replies[0],
            chosen_mask=reply_mask[0],
            rejected_ids=replies[1],
            rejected_mask=reply_mask[1],
        )


if __name__ == "__main__":
    side = Side()
    serve({"prepare": side.prepare, "warm": side.warm, "round": side.round})
