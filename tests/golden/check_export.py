"""Does transformers read what we write, and do we read what it writes back? Golden models and random shapes.

Three steps in two environments, this project's and one with torch 2.13.0 and transformers 5.23.0:

    python -m tests.golden.check_export write DIRECTORY [RANDOM_MODELS]     (the project's)
    python tests/golden/check_export.py compare DIRECTORY                   (the one with torch)
    python -m tests.golden.check_export reread DIRECTORY                    (the project's)

`write` exports every golden model and some of random family, shape, switches and shard size, with our logits.
`compare` loads each with AutoModelForCausalLM, fails on any missing, unexpected or mismatched key, compares logits
and saves the model again; `reread` loads those copies and wants every weight back bit for bit.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np

TOKENS = 61


def write(root: Path, count: int) -> None:
    """Export the golden models and `count` random ones."""
    import tempfile

    from flax import nnx

    from aloe_jax.models.huggingface import save_pretrained
    from aloe_jax.models.opening import load_pretrained
    from tests.golden.seeded import checkpoint
    from tests.random_models import random_decoder

    here = Path(__file__).parent
    models = {}
    for path in sorted(here.glob("*/tensors.json")):
        with tempfile.TemporaryDirectory() as temporary:
            models[path.parent.name] = load_pretrained(checkpoint(path.parent, Path(temporary)))
    models |= {name: load_pretrained(here / name) for name in ("llama", "llama_tied")}
    draw = random.Random(0)
    for number in range(count):
        spec = random_spec(draw)
        models[f"random-{number:03d}-{spec.family}"] = random_decoder(spec, draw.choice([0.1, 0.3]), seed=number)
    forward = nnx.jit(lambda model, tokens: model(tokens))
    for name, model in models.items():
        tokens = np.random.default_rng(1).integers(0, model.spec.vocab, (2, TOKENS)).astype(np.int32)
        save_pretrained(model, root / name / "ours", max_shard_size=draw.choice(["3KB", "40KB", "5GB"]))
        np.savez(root / name / "logits.npz", tokens=tokens, logits=forward(model, tokens))


def random_spec(draw: random.Random):
    """A small model of any family and shape."""
    from aloe_jax.models.native.decoder import DecoderSpec
    from aloe_jax.models.native.families import FAMILIES

    family = draw.choice(list(FAMILIES))
    layers, kv_heads = draw.choice([1, 2, 3, 5]), draw.choice([1, 2, 3])
    heads, size = kv_heads * draw.choice([1, 2, 5]), draw.choice([2, 6, 8, 14])
    # The configs of these families take no head_dim apart from width / heads in every version of transformers.
    width = heads * size if family in ("qwen2", "olmo", "olmo2") or draw.random() < 0.3 else heads * draw.choice([4, 9])
    if family in ("mistral", "qwen3"):
        width = draw.choice([width, 10, 27])  # no multiple of the heads
    switches = dict(FAMILIES[family].switches)
    if "attention_bias" in FAMILIES[family].reads and draw.random() < 0.4:
        switches["biases"] = ("query", "key", "value", "output")
    if family == "llama" and draw.random() < 0.4:
        switches["biases"] = (*switches.get("biases", ()), "gate", "up", "down")
    window = draw.choice([0, 1, 2, 7, TOKENS - 1, TOKENS, 5000])
    if family == "mistral" and window:
        switches["windows"] = (window,) * layers
    if family in ("qwen2", "qwen3") and window:
        windows = tuple(draw.choice([0, window]) for _ in range(layers))
        switches["windows"] = windows if any(windows) else ()
    if family == "olmo" and draw.random() < 0.5:
        switches["clip_qkv"] = draw.choice([0.5, 2.0])
    switches.setdefault("norm_eps", draw.choice([1e-6, 1e-5]))
    return DecoderSpec(
        vocab=draw.choice([7, 53, 128, 331]),
        layers=layers,
        width=width,
        query_heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        feed_forward=draw.choice([5, 32, 67]),
        max_length=draw.choice([64, 4096]),
        rope_theta=draw.choice([100.0, 1e4, 5e5]),
        rope_scaling=draw.choice([None, None, (8.0, 1.0, 4.0, 16.0), (32.0, 1.0, 2.0, 32.0)]),
        tie_embeddings=draw.random() < 0.5,
        bos_id=draw.choice([None, 1]),
        eos_ids=draw.choice([(), (2,), (2, 5, 6)]),
        pad_id=draw.choice([None, 0, 2]),
        family=family,
        **switches,
    )


def compare(root: Path) -> int:
    """Load every export with transformers; the number of those that differ."""
    import torch
    from transformers import AutoModelForCausalLM

    bad, worst = 0, 0.0
    for directory in sorted(root.iterdir()):
        values = np.load(directory / "logits.npz")
        model, told = AutoModelForCausalLM.from_pretrained(
            directory / "ours", output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
        with torch.no_grad():
            logits = model(torch.from_numpy(values["tokens"]).long()).logits.numpy()
        difference = np.abs(logits - values["logits"]).max()
        scale = max(1.0, np.abs(logits).max())
        worst = max(worst, difference / scale)
        config = json.loads((directory / "ours" / "config.json").read_text())
        wrong = {key: found for key, found in told.items() if found}
        if wrong or difference > 1e-4 * scale or type(model).__name__ != config["architectures"][0]:
            bad += 1
            print(f"{directory.name}: logits differ by {difference:.1e} of {scale:.1f}; {wrong or ''} {config}")
        model.save_pretrained(directory / "theirs")
    print(f"{len(list(root.iterdir()))} exports, {bad} wrong; largest difference {worst:.1e} of the largest logit")
    return bad


def reread(root: Path) -> int:
    """Load what transformers saved; the number of models that are not what was exported."""
    import jax
    from flax import nnx

    from aloe_jax.models.opening import load_pretrained

    bad = 0
    for directory in sorted(root.iterdir()):
        ours, theirs = load_pretrained(directory / "ours"), load_pretrained(directory / "theirs")
        states = [nnx.to_pure_dict(nnx.state(each, nnx.Param)) for each in (ours, theirs)]
        same = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *states))
        if not same or ours.spec != theirs.spec:
            bad += 1
            print(f"{directory.name}: weights {'equal' if same else 'differ'}\n  {ours.spec}\n  {theirs.spec}")
    print(f"{len(list(root.iterdir()))} copies by transformers reread, {bad} wrong")
    return bad


if __name__ == "__main__":
    step, target = sys.argv[1], Path(sys.argv[2])
    if step == "write":
        write(target, int(sys.argv[3]) if len(sys.argv) > 3 else 40)
    else:
        sys.exit(bool({"compare": compare, "reread": reread}[step](target)))
