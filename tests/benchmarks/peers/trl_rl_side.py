"""TRL's GRPOTrainer as a contestant; runs in its environment.

One training run lasts from the first round to the last, held between rounds, as in trl_side.py. Every turn is a prompt
of its own. Prompts come in order of their turns, so that those that are generated from together are about as long.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tests.benchmarks.peers.rl_task import Prompt, RLTask, rating
from tests.benchmarks.peers.trl_side import Hold
from tests.benchmarks.peers.words import text, tokenizer
from tests.benchmarks.peers.worker import Answer, Gate, Meter, forget_peak, serve, told


class Side:
    """What the commands share: a trainer in the making, then running."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.tokens = 0
        self.rewards: list[float] = []

    def prepare(self, request: Answer) -> Answer:
        """Build the trainer and check its tokens."""
        self.task, self.steps = RLTask(**request["task"]), request["steps"]
        prompts, words = self.task.prompts(), tokenizer(self.task.vocab)
        together, size = self.task.sizes(request["together"], request["batch"])
        arguments = GRPOConfig(
            output_dir=tempfile.mkdtemp(prefix="trl-"),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=self.task.replies // size,
            generation_batch_size=together,
            max_steps=10**6,
            num_generations=self.task.group,
            max_completion_length=self.task.new_tokens,
            shuffle_dataset=False,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            beta=0.0,
            epsilon=0.2,
            epsilon_high=0.28,
            loss_type="dr_grpo",
            scale_rewards="none",
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
            bf16=False,
            use_cpu=True,
            learning_rate=self.task.learning_rate,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
        )
        self.trainer = GRPOTrainer(
            model=str(self.task.policy),
            reward_funcs=self._reward,
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": text(prompt.tokens)} for prompt in prompts]),
            processing_class=words,
            callbacks=[Hold(self.gate)],
        )
        for prompt in prompts:
            assert words(text(prompt.tokens))["input_ids"] == list(prompt.tokens), f"{prompt.id}: other tokens"
        return {
            "tokens": sum(len(prompt.tokens) for prompt in prompts),
            "length": max(len(prompt.tokens) for prompt in prompts),
            "first": self._check(self.task.known()),
            "threads": torch.get_num_threads(),
        }

    def _reward(self, completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        self.tokens += sum(map(len, completion_ids))
        self.rewards = [float(rating(completion)) for completion in completions]
        return self.rewards

    def _check(self, prompts: list[Prompt]) -> Answer:
        losses = []
        with torch.no_grad():
            for prompt in prompts:
                ids = torch.tensor([[*prompt.tokens, *prompt.reply]])
                found = self.trainer._get_per_token_logps_and_entropies(
                    self.trainer.model, ids, torch.ones_like(ids), len(prompt.reply)
                )
                losses.append(-float(found[0].mean()))
        return {"loss": sum(losses) / len(losses), "pairs": [prompt.id for prompt in prompts], "of": "replies"}

    def warm(self, _: Answer) -> Answer:
        """Start the run and take its first step."""
        with told("first step"):
            self.gate.start(self.trainer.train)
            self.gate.run(1)
        return {"peak": Meter().read()["peak"], "forgotten": forget_peak()}

    def round(self, _: Answer) -> Answer:
        """The steps of one round."""
        before, meter = self.tokens, Meter()
        self.gate.run(self.steps)
        made, replies = meter.read(), self.steps * self.task.replies
        reward = sum(self.rewards) / len(self.rewards)
        return made | {"replies": replies, "mean_tokens": (self.tokens - before) / replies, "reward": reward}


if __name__ == "__main__":
    side = Side()
    serve({"prepare": side.prepare, "warm": side.warm, "round": side.round})
