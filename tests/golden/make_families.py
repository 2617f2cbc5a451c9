"""Write the golden values of every model family: logits and greedy continuations computed by transformers on PyTorch.

Run in an environment with torch 2.13.0 and transformers 5.23.0, which this project does not depend on:

    python tests/golden/make_families.py

A directory holds config.json as transformers writes it, tensors.json with the keys and shapes of its weights, whose
values are those of seeded.py, and golden.npz.
"""

import json
from pathlib import Path

import numpy as np
import torch
from seeded import tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

TOKENS, PROMPT, NEW = 97, 13, 24
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 16}
MODELS = {
    "llama31": {"model_type": "llama", "rope_parameters": STRETCHED, "rms_norm_eps": 1e-5},
    "llama_biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "mistral_head_dim": {"model_type": "mistral", "sliding_window": None, "head_dim": 12},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen2_tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2_sliding": {"model_type": "qwen2", **WINDOW, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "qwen3_sliding": {
        "model_type": "qwen3",
        "head_dim": 8,
        "attention_bias": True,
        **WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "olmo": {"model_type": "olmo"},
    "olmo_clipped": {"model_type": "olmo", "clip_qkv": 0.8, "num_key_value_heads": 4},
    "olmo2": {"model_type": "olmo2"},
}


def make(directory: Path, model_type: str, **settings) -> None:
    """One model with no weight left at its initial value, so that none can be swapped or left out unseen."""
    config = CONFIG_MAPPING[model_type](**{"rope_theta": 1_000.0, **SHAPE, **settings})
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(tensor(name, shapes[name])))
        tokens = torch.from_numpy(np.random.default_rng(0).integers(4, SHAPE["vocab_size"], (1, TOKENS)))
        logits = model(tokens).logits[0]
        greedy = tokens[:, :PROMPT]
        for _ in range(NEW):  # not generate(), which would end at an end-of-sequence token
            greedy = torch.cat([greedy, model(greedy).logits[:, -1:].argmax(-1)], dim=1)
    directory.mkdir(exist_ok=True)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    (directory / "tensors.json").write_text(json.dumps(shapes, indent=0) + "\n")
    np.savez_compressed(
        directory / "golden.npz",
        tokens=tokens[0].numpy().astype(np.int32),
        logits=logits.numpy(),
        prompt=greedy[0, :PROMPT].numpy().astype(np.int32),
        greedy=greedy[0, PROMPT:].numpy().astype(np.int32),
    )
    print(directory.name, float(logits.std()), len(set(greedy[0, PROMPT:].tolist())))


if __name__ == "__main__":
    for name, settings in MODELS.items():
        make(Path(__file__).parent / name, **settings)
