"""Write the golden Llama models: weights, logits and greedy continuations computed by transformers on PyTorch.

Run in an environment with torch 2.13.0 and transformers 5.23.0, which this project does not depend on:

    python tests/golden/make_llama.py

`llama/` is untied with grouped queries, as Llama 3 8B is; `llama_tied/` ties its embeddings and stretches its
rotary positions, as Llama 3.2 1B does.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS, PROMPT, NEW = 97, 13, 24


def make(directory: Path, seed: int, **settings) -> None:
    """One model with everything random, the norms too, so that no weight can be swapped or left out unseen."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=80,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=[2, 3],
        pad_token_id=0,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
        **settings,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else noise * (0.3 if "proj" in name else 0.2))
    model.save_pretrained(directory)
    tokens = torch.randint(4, config.vocab_size, (1, TOKENS))
    with torch.no_grad():
        logits = model(tokens).logits[0]
        greedy = tokens[:, :PROMPT]
        for _ in range(NEW):  # not generate(), which would end at an end-of-sequence token
            greedy = torch.cat([greedy, model(greedy).logits[:, -1:].argmax(-1)], dim=1)
    np.savez(
        directory / "golden.npz",
        tokens=tokens[0].numpy().astype(np.int32),
        logits=logits.numpy(),
        prompt=greedy[0, :PROMPT].numpy().astype(np.int32),
        greedy=greedy[0, PROMPT:].numpy().astype(np.int32),
    )


if __name__ == "__main__":
    here = Path(__file__).parent
    make(here / "llama", seed=0, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0})
    make(
        here / "llama_tied",
        seed=1,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5_000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    )
