"""TRL's DPOTrainer and SFTTrainer as contestants; runs in their environment.

One training run lasts from the first round to the last: a callback lets it go on for the steps of a round and holds
it in between, so what is metered is the trainer's own loop with all that belongs to a step.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tests.benchmarks.peers.task import (
    BETA,
    LEARNING_RATE,
    Pair,
    Task,
    batches_by_length,
    batches_shuffled,
    padded_tokens,
    samples,
    worth,
)
from tests.benchmarks.peers.words import text, tokenizer
from tests.benchmarks.peers.worker import Answer, Gate, Meter, forget_peak, serve, told

DEFAULT_BATCH = 8  # transformers' own per_device_train_batch_size
UPDATE = 8  # pairs an update, for every setting that we choose


class Hold(TrainerCallback):
    """Takes a training run through the gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.gate.step()


class Side:
    """What the commands share: a trainer in the making, then running."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.directory = tempfile.mkdtemp(prefix="trl-")

    def prepare(self, request: Answer) -> Answer:
        """Build the trainer, check its tokens, load the policy's weights over the reference's."""
        self.task = Task(**request["task"])
        found = self._dpo(request) if request["kind"] == "dpo" else self._sft(request)
        self.trainer.model.load_state_dict(load_file(self.task.policy / "model.safetensors"), strict=True)
        return found | {"first": self._check(), "threads": torch.get_num_threads()}

    def _dpo(self, request: Answer) -> Answer:
        pairs, best = self.task.pairs(), request["best"]
        size = request["batch"] if best else DEFAULT_BATCH
        batches = batches_by_length(pairs, size) if best else batches_shuffled(pairs, size, self.task.seed)
        whole = [batch for batch in batches if len(batch) == size]
        rounds = samples(whole, padded_tokens, request["rounds"], max(1, request["pairs"] // size), self.task.seed)
        # A full-length batch first: the run grows to its largest before anything is metered.
        warm = sorted(whole, key=padded_tokens)[-(UPDATE // size if best else 1) :]
        ordered = [pair for batch in [*warm, *(batch for each in rounds for batch in each)] for pair in batch]
        accumulate = UPDATE // size if best else 1
        self.steps = len(rounds[0]) // accumulate
        self.done = [{"pairs": worth(each, batches, padded_tokens)} for each in rounds]
        arguments = DPOConfig(
            **self._arguments(size, accumulate, 1 + self.steps * len(rounds)),
            beta=BETA,
            max_length=None,  # its default of 1,024 cuts the longest replies off
            **({"gradient_checkpointing": False, "precompute_ref_log_probs": True} if best else {}),
        )
        self.trainer = DPOTrainer(
            model=str(self.task.reference),
            args=arguments,
            train_dataset=Dataset.from_list(
                [{"prompt": text(pair.prompt), "chosen": text(pair.preferred), "rejected": text(pair.rejected)}
                 for pair in ordered]
            ),
            processing_class=tokenizer(self.task.vocab),
            callbacks=[Hold(self.gate)],
        )  # fmt: skip
        for pair, row in zip(ordered, self.trainer.train_dataset, strict=True):
            same = (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"])
            assert same == (list(pair.prompt), list(pair.preferred), list(pair.rejected)), f"{pair.id}: other tokens"
        self.first = ordered[:size]
        return {"tokens": sum(pair.tokens for pair in ordered)}

    def _sft(self, request: Answer) -> Answer:
        pairs = self.task.pairs()
        longest = max(len(pair.prompt) + len(pair.preferred) for pair in pairs)
        arguments = SFTConfig(
            **self._arguments(1, request["batch"], 10**6),
            gradient_checkpointing=False,
            packing=True,
            max_length=-(-longest // 128) * 128,  # shorter would cut replies off, longer costs more attention
        )
        self.trainer = SFTTrainer(
            model=str(self.task.reference),
            args=arguments,
            train_dataset=Dataset.from_list(
                [{"prompt": text(pair.prompt), "completion": text(pair.preferred)} for pair in pairs]
            ),
            processing_class=tokenizer(self.task.vocab),
            callbacks=[Hold(self.gate)],
        )
        packed = self.trainer.train_dataset
        targets = [sum(label != -100 for label in row["labels"]) for row in packed]
        known = {tuple(pair.prompt + pair.preferred): pair for pair in pairs}
        contents = [list(split(row["input_ids"], row["seq_lengths"], known)) for row in packed]
        count = max(1, request["rows"] // request["batch"]) * request["batch"]
        rounds = samples(range(len(packed)), lambda row: targets[row], request["rounds"], count, self.task.seed)
        order = [*rounds[0][: request["batch"]], *(row for each in rounds for row in each)]
        self.trainer.train_dataset = packed.select(order)
        self.steps = count // request["batch"]
        lengths = [len(row["input_ids"]) for row in packed]  # a round's rows are counted by their tokens, as pairs are
        self.done = [{"targets": sum(targets) * sum(lengths[row] for row in each) / sum(lengths)} for each in rounds]
        self.first = contents[order[0]]
        return {"targets": sum(targets), "rows": len(packed), "length": arguments.max_length}

    def _arguments(self, size: int, accumulate: int, steps: int) -> dict[str, Any]:
        return {
            "output_dir": self.directory,
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulate,
            "max_steps": steps + 1,
            "train_sampling_strategy": "sequential",  # the batches are made and shuffled here
            "bf16": False,
            "use_cpu": True,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "disable_tqdm": True,
            "report_to": "none",
        }

    def _check(self) -> Answer:
        rows = [self.trainer.train_dataset[at] for at in range(len(self.first) if self.trainer._name == "DPO" else 1)]
        inputs = self.trainer._prepare_inputs(self.trainer.data_collator(rows))
        self.trainer.model.train()
        with torch.no_grad():
            loss = float(self.trainer.compute_loss(self.trainer.model, inputs))
        return {"loss": loss, "pairs": [pair.id for pair in self.first]}

    def warm(self, _: Answer) -> Answer:
        """Start the run and take its first step."""
        with told("first step"):
            self.gate.start(self.trainer.train)
            self.gate.run(1)
        return {"peak": Meter().read()["peak"], "forgotten": forget_peak()}

    def round(self, request: Answer) -> Answer:
        """The steps of one round."""
        meter = Meter()
        self.gate.run(self.steps)
        return meter.read() | self.done[request["number"]]


def split(tokens: list[int], lengths: list[int], known: dict[tuple[int, ...], Pair]) -> list[Pair]:
    """The pairs whose preferred replies are packed in a row."""
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    return [known[tuple(tokens[start : start + length])] for start, length in zip(starts, lengths, strict=True)]


if __name__ == "__main__":
    side = Side()
    serve({"prepare": side.prepare, "warm": side.warm, "round": side.round})
