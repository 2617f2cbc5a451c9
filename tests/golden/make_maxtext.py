"""Write the golden values of the families that MaxText's models are checked with: logits computed by transformers.

Run in an environment with torch 2.13.0 and transformers 5.23.0, which this project does not depend on:

    python tests/golden/make_maxtext.py

As make_families.py, in the folder maxtext/, but for the keys: those that save_pretrained writes, where the modules of
models with experts hold these in one tensor. Positions are stretched, so that scaled rotary positions show.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from seeded import tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

TOKENS, STRIDE = 48, 2
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "full_attention": {
        "rope_type": "yarn",
        "rope_theta": 500.0,
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 32,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
BY_KIND = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
EXPERTS = {"num_experts_per_tok": 2}
CYCLE = ["sliding_attention"] * 3 + ["full_attention"]
MODELS = {
    "llama31": {"model_type": "llama", "rope_parameters": STRETCHED, "rms_norm_eps": 1e-5},
    "llama_tied": {"model_type": "llama", "tie_word_embeddings": True, "head_dim": 12},
    "qwen2": {"model_type": "qwen2", "head_dim": 8, "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
    "qwen3_moe": {
        "model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 24, "norm_topk_prob": True, **EXPERTS,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "sliding_window": None, **EXPERTS},
    "gemma2": {
        "model_type": "gemma2", "num_hidden_layers": 4, "sliding_window": 16, "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 16,
        "rope_parameters": BY_KIND,
    },
    "olmo3": {
        "model_type": "olmo3", "num_hidden_layers": 8, "sliding_window": 16, "layer_types": CYCLE * 2,
        "rope_parameters": YARN,
    },
}  # fmt: skip


def make(directory: Path, model_type: str, **settings) -> None:
    """One model with no weight left at its initial value, so that none can be swapped or left out unseen."""
    config = CONFIG_MAPPING[model_type](**{"rope_theta": 1_000.0, **SHAPE, **settings})
    config._attn_implementation = "eager"
    directory.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory() as made:
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(made)
        with safe_open(f"{made}/model.safetensors", "np") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in sorted(file.keys())}
        # Gemma's norms multiply by 1 + weight.
        norm = 0.0 if model_type.startswith("gemma") else 1.0
        tensors = {key: torch.from_numpy(tensor(key, shape, norm)) for key, shape in shapes.items()}
        save_file(tensors, f"{made}/model.safetensors", metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32, attn_implementation="eager").eval()
        (directory / "config.json").write_bytes(Path(made, "config.json").read_bytes())
    tokens = torch.from_numpy(np.random.default_rng(0).integers(4, SHAPE["vocab_size"], (1, TOKENS)))
    positions = torch.arange(TOKENS)[None] * STRIDE
    with torch.no_grad():
        straight, stretched = (model(tokens, position_ids=p).logits[0] for p in (torch.arange(TOKENS)[None], positions))
    (directory / "tensors.json").write_text(json.dumps(shapes, indent=0) + "\n")
    np.savez_compressed(
        directory / "golden.npz",
        tokens=tokens[0].numpy().astype(np.int32),
        logits=straight.numpy(),
        positions=positions[0].numpy().astype(np.int32),
        stretched=stretched.numpy(),
    )
    print(directory.name, float(straight.std()), float((straight - stretched).abs().max()))


if __name__ == "__main__":
    for name, settings in MODELS.items():
        make(Path(__file__).parent / "maxtext" / name, **settings)
