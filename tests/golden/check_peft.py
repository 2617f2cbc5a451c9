"""Whether peft computes with our adapters what we do. Needs two environments:

python -m tests.golden.check_peft write DIRECTORY     # this project's: base, adapters and our logits
python tests/golden/check_peft.py read DIRECTORY      # torch, transformers and peft: compares with them
"""

import sys
from pathlib import Path

import numpy as np

TOKENS = np.arange(97)[None] * 31 % 90


def write(root: Path) -> None:
    """A random base of every kind of projection bias and its adapters."""
    import jax

    from aloe_jax.models.huggingface import save_pretrained
    from aloe_jax.models.native.decoder import DecoderSpec
    from aloe_jax.models.native.peft import save_adapter_directory
    from aloe_jax.models.opening import load_pretrained
    from aloe_jax.models.settings import LoRASettings
    from tests.random_models import random_decoder

    shape = {"vocab": 90, "layers": 3, "width": 32, "query_heads": 4, "kv_heads": 2, "head_size": 8}
    for family, more in (
        ("llama", {}),
        ("qwen2", {"biases": ("query", "key", "value")}),
        ("qwen3", {"qk_norm": "head"}),
    ):
        spec = DecoderSpec(**shape, feed_forward=48, max_length=128, family=family, **more)
        base = root / family / "base"
        save_pretrained(random_decoder(spec), base)
        model = load_pretrained(base).adapted(LoRASettings(rank=4, alpha=6), seed=0)
        for number, value in enumerate(model.adapters.values()):
            value[...] = 0.1 * jax.random.normal(jax.random.key(number), value.shape)
        save_adapter_directory(model, root / family / "adapter", str(base.resolve()))
        np.save(root / family / "logits.npy", np.asarray(model(TOKENS)))


def read(root: Path) -> None:
    """Load every base with its adapters and compare."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for directory in sorted(path for path in root.iterdir() if path.is_dir()):
        base = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(directory / "adapter"))
        with torch.no_grad():
            logits = model(torch.tensor(TOKENS)).logits.numpy()
        expected = np.load(directory / "logits.npy")
        print(f"{directory.name}: largest difference {np.abs(logits - expected).max():.1e}")
        assert np.abs(logits - expected).max() < 1e-4


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
