"""Write golden values of TRL's preference losses: log-probabilities, rewards, losses and gradient norms.

Run in an environment with torch 2.13.0, transformers 5.23.0, trl 1.16.0, accelerate and safetensors, which this
project does not depend on:

    python tests/golden/make_trl.py

TRL's trainers do the tokenizing, padding, forward pass and loss; nothing of theirs is written down again here. The
policy is `llama/`; the reference is the policy moved a share of the way to the weights of seeded.py. Conversations
are drawn token by token: at every turn two replies, one of which goes on. TRL gets each pair as a prompt of its own.

Losses are those of one batch of all pairs; rewards and log-probs those of every pair. In PAIR_BY_PAIR every pair is a
batch and the loss the mean over these: TRL's "sft" is a mean over the tokens of a batch, and "aot" sorts its pairs.
"""

import json
import tempfile
from pathlib import Path

import accelerate
import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from safetensors.torch import load_file
from seeded import tensor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

HERE = Path(__file__).parent
MODEL = HERE / "llama"
SHARE = 0.1  # of the way from the policy to the seeded weights, where the reference is
EOS = 2
CONVERSATIONS, TURNS = 3, 4

DPO = {
    "sigmoid": {"loss_type": "sigmoid", "beta": 0.3},
    "robust": {"loss_type": "robust", "beta": 0.3, "label_smoothing": 0.15},
    "ipo": {"loss_type": "ipo", "beta": 0.3},
    "hinge": {"loss_type": "hinge", "beta": 0.3},
    "length_normalised": {"loss_type": "sigmoid_norm", "beta": 5.0},
}
PAIR_BY_PAIR = {
    # "sigmoid" takes no label smoothing; "aot" does, and of one pair sorts nothing.
    "conservative": {"loss_type": "aot", "beta": 0.3, "label_smoothing": 0.15},
    "sft_weight": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.4], "beta": 0.3},
}
SIMPO = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.6, "cpo_alpha": 0.0}
ORPO = {"beta": 0.4}


def draw() -> list[list[dict]]:
    """Conversations as lists of turns: the user's tokens, both replies' and which of them goes on."""
    random = np.random.default_rng(5)

    def tokens(least: int, most: int) -> list[int]:
        return random.integers(4, 80, random.integers(least, most + 1)).tolist()

    return [
        [
            {
                "user": tokens(2, 7),
                "preferred": [*tokens(0, 9), EOS],
                "rejected": [*tokens(0, 9), EOS],
                "continued": ["preferred", "rejected"][random.integers(2)],
            }
            for _ in range(TURNS)
        ]
        for _ in range(CONVERSATIONS)
    ]


def as_dataset(conversations: list[list[dict]]) -> Dataset:
    """One record a turn, as text in which every word is a token."""
    records = []
    for turns in conversations:
        path: list[int] = []
        for turn in turns:
            path += turn["user"]
            records.append(
                {
                    "prompt": words(path) + " ",
                    "chosen": words(turn["preferred"]),
                    "rejected": words(turn["rejected"]),
                }
            )
            path += turn[turn["continued"]]
    return Dataset.from_list(records)


def words(tokens: list[int]) -> str:
    return " ".join(f"w{token:02d}" for token in tokens)


def make_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({f"w{i:02d}": i for i in range(80)}))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=words([EOS]), pad_token=words([0]))


def make_model(share: float = 0.0) -> LlamaForCausalLM:
    """The policy, or so far from it the reference."""
    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    stored = load_file(MODEL / "model.safetensors")
    with torch.no_grad():
        for key, weight in model.named_parameters():
            moved = np.float32(1 - share) * stored[key].numpy() + np.float32(share) * tensor(key, list(weight.shape))
            weight.copy_(torch.from_numpy(moved))
    return model.train()  # its dropout is 0; DPOTrainer files its metrics by this


def settings(kind: type, directory: str, **options) -> object:
    """Float32 on the CPU, nothing cut, no checkpointing."""
    return kind(
        output_dir=directory,
        use_cpu=True,
        bf16=False,
        max_length=None if kind is DPOConfig else 128,  # the model's maximum, longer than any path
        gradient_checkpointing=False,
        remove_unused_columns=False,
        report_to=[],
        per_device_train_batch_size=CONVERSATIONS * TURNS,
        **options,
    )


def batches(trainer, one_by_one: bool) -> list[dict]:
    rows = list(trainer.train_dataset)
    return [trainer.data_collator([row]) for row in rows] if one_by_one else [trainer.data_collator(rows)]


def mean_and_norm(trainer, losses: list) -> dict:
    """Mean of the losses of batches, and the norm of its gradient."""
    loss = sum(losses) / len(losses)
    trainer.model.zero_grad()
    loss.backward()
    squares = [parameter.grad.double().square().sum() for parameter in trainer.model.parameters()]
    return {"loss": loss.item(), "gradient_norm": sum(squares).sqrt().item()}


def from_dpo(directory: str, data: Dataset, options: dict, one_by_one: bool) -> tuple[dict, dict]:
    """What DPOTrainer makes of a loss: its values, and the log-probs of every pair, of policy and reference."""
    arguments = settings(DPOConfig, directory, **options)
    trainer = DPOTrainer(
        make_model(), make_model(SHARE), arguments, train_dataset=data, processing_class=make_tokenizer()
    )
    values = mean_and_norm(trainer, [trainer.compute_loss(trainer.model, b) for b in batches(trainer, one_by_one)])
    trainer._metrics["train"].clear()
    reference = []
    for batch in batches(trainer, True):
        trainer.compute_loss(trainer.model, batch)
        reference.append([x.item() for x in trainer.compute_ref_log_probs(trainer.ref_model, batch)])
    told = trainer._metrics["train"]
    values["rewards"] = list(zip(told["rewards/chosen"], told["rewards/rejected"], strict=True))
    logps = {"policy": list(zip(told["logps/chosen"], told["logps/rejected"], strict=True)), "reference": reference}
    return values, logps


def from_cpo(directory: str, data: Dataset) -> dict:
    """SimPO, which is a loss of CPOTrainer without its own likelihood term."""
    arguments = settings(CPOConfig, directory, **SIMPO)
    trainer = CPOTrainer(make_model(), arguments, train_dataset=data, processing_class=make_tokenizer())
    values = mean_and_norm(trainer, [trainer.compute_loss(trainer.model, b) for b in batches(trainer, False)])
    told = [trainer.get_batch_loss_metrics(trainer.model, batch)[1] for batch in batches(trainer, True)]
    return values | {"rewards": [[each["rewards/chosen"], each["rewards/rejected"]] for each in told]}


def from_orpo(directory: str, data: Dataset) -> dict:
    """ORPO with its likelihood term over replies, as the paper has it; `whole` is TRL's loss, prompts included."""
    arguments = settings(ORPOConfig, directory, **ORPO)
    trainer = ORPOTrainer(make_model(), arguments, train_dataset=data, processing_class=make_tokenizer())
    (batch,) = batches(trainer, False)
    whole = trainer.compute_loss(trainer.model, batch).item()
    preferred, rejected = trainer.concatenated_forward(trainer.model, batch)[:2]  # per token
    odds = trainer.odds_ratio_loss(preferred, rejected)[0]
    values = mean_and_norm(trainer, [-preferred.mean() - odds.mean()])
    told = [trainer.get_batch_loss_metrics(trainer.model, each)[1] for each in batches(trainer, True)]
    rewards = [[each["rewards/chosen"], each["rewards/rejected"]] for each in told]
    return values | {"whole": whole, "odds": -odds.mean().item(), "rewards": rewards}


if __name__ == "__main__":
    conversations = draw()
    data = as_dataset(conversations)
    with tempfile.TemporaryDirectory() as directory:
        losses = {}
        for table, one_by_one in ((DPO, False), (PAIR_BY_PAIR, True)):
            for name, options in table.items():
                values, logps = from_dpo(directory, data, options, one_by_one)
                losses[name] = {"settings": options} | values
        losses["simpo"] = {"settings": SIMPO} | from_cpo(directory, data)
        losses["orpo"] = {"settings": ORPO} | from_orpo(directory, data)
    for name, values in losses.items():
        print(f"{name:18} loss {values['loss']:.6f}  gradient {values['gradient_norm']:.6f}")
    golden = {
        "versions": {module.__name__: module.__version__ for module in (trl, torch, transformers, accelerate)},
        "share": SHARE,
        "conversations": conversations,
        "logps": logps,
        "losses": losses,
    }
    (HERE / "trl" / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
