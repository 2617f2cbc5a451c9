"""Tunix's DrGRPOLearner (its GRPOLearner with the advantage that all sides take) as a contestant, in its environment.

Every turn is a prompt of its own. Its sampler compiles for one length of prompts, so all are padded to the longest, and
its trainer for one shape; there is no setting for either, but for packing, which is slower here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType
from tunix.models.llama3.model import ModelConfig
from tunix.models.llama3.params import create_model_from_safe_tensors
from tunix.rl.common import compute_per_token_logps
from tunix.rl.grpo.drgrpo_learner import DrGRPOConfig, DrGRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig

from tests.benchmarks.peers.rl_task import Prompt, RLTask, rating
from tests.benchmarks.peers.task import END, PAD
from tests.benchmarks.peers.words import text, tokenizer
from tests.benchmarks.peers.worker import Answer, Gate, Meter, forget_peak, serve, told

WARM = 2  # steps


class Side:
    """What the commands share."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.tokens = 0
        self.rewards: list[float] = []

    def prepare(self, request: Answer) -> Answer:
        """Load the policy and build the learner."""
        task, self.steps = RLTask(**request["task"]), request["steps"]
        self.task = task
        together, size = task.sizes(request["together"], request["batch"])
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
        mesh = jax.make_mesh((jax.device_count(), 1), ("fsdp", "tp"), axis_types=(AxisType.Auto,) * 2)
        policy = create_model_from_safe_tensors(str(task.policy), shape, mesh, dtype=jnp.float32)
        self.prompts, self.words = task.prompts(), tokenizer(task.vocab)
        for prompt in self.prompts:
            assert self.words.encode(text(prompt.tokens)) == list(prompt.tokens), f"{prompt.id}: other tokens"
        longest = -(-max(len(prompt.tokens) for prompt in self.prompts) // 16) * 16
        first = self._check(policy, task.known())
        cluster = RLCluster(
            actor=policy,
            tokenizer=self.words,
            cluster_config=ClusterConfig(
                role_to_mesh={Role.ACTOR: mesh, Role.REFERENCE: mesh, Role.ROLLOUT: mesh},
                rollout_engine="vanilla",
                training_config=RLTrainingConfig(
                    actor_optimizer=optax.adamw(task.learning_rate),
                    eval_every_n_steps=10**9,
                    max_steps=10**9,
                    mini_batch_size=len(self.prompts),
                    train_micro_batch_size=size // task.group,
                    rollout_micro_batch_size=together // task.group,
                ),
                rollout_config=RolloutConfig(
                    max_tokens_to_generate=task.new_tokens,
                    max_prompt_length=longest,
                    kv_cache_size=longest + task.new_tokens,
                    temperature=1.0,
                    top_p=1.0,
                    top_k=None,
                    eos_tokens=[END],
                ),
            ),
        )
        self.learner = DrGRPOLearner(
            rl_cluster=cluster,
            algo_config=DrGRPOConfig(num_generations=task.group, num_iterations=1, beta=0.0, epsilon=0.2),
            reward_fns=self._reward,
        )
        return {
            "tokens": sum(len(prompt.tokens) for prompt in self.prompts),
            "length": longest + task.new_tokens,
            "first": first,
        }

    def _reward(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        self.tokens += sum(len(completion.split()) for completion in completions)
        self.rewards = [float(rating(completion)) for completion in completions]
        return self.rewards

    def _check(self, policy: nnx.Module, prompts: list[Prompt]) -> Answer:
        graph, state = nnx.split(policy)
        losses = []
        for prompt in prompts:
            asked, reply = (jnp.asarray([tokens], jnp.int32) for tokens in (prompt.tokens, prompt.reply))
            logps = compute_per_token_logps(graph, state, asked, reply, PAD, END)
            losses.append(-float(logps.mean()))
        return {"loss": sum(losses) / len(losses), "pairs": [prompt.id for prompt in prompts], "of": "replies"}

    def warm(self, _: Answer) -> Answer:
        """Compile, and take the first steps."""
        with told("compilation and first steps"):
            self.gate.start(lambda: self.learner.train(self._stream()))
            self.gate.run(WARM)
        return {"peak": Meter().read()["peak"], "forgotten": forget_peak()}

    def round(self, _: Answer) -> Answer:
        """The steps of one round."""
        before, meter = self.tokens, Meter()
        self.gate.run(self.steps)
        made, replies = meter.read(), self.steps * self.task.replies
        reward = sum(self.rewards) / len(self.rewards)
        return made | {"replies": replies, "mean_tokens": (self.tokens - before) / replies, "reward": reward}

    def _stream(self) -> Iterator[dict[str, list[str]]]:
        while True:
            if self.gate.closed:
                self.learner.rl_cluster.actor_trainer._throttler.wait_for_all()
            self.gate.step()
            yield {"prompts": [text(prompt.tokens) for prompt in self.prompts]}


if __name__ == "__main__":
    side = Side()
    serve({"prepare": side.prepare, "warm": side.warm, "round": side.round})
