"""Which of MaxText's attention kernels computes a row, and whether it can.

Its dense attention takes the rows of token trees, since internals.py gives it their mask. Its flash kernels know
segments of a row alone: they are for rows packed as paths. On a GPU that is its Pallas kernel, the one of them that
reads segments without further packages; the one through cuDNN reads none, so paths would see each other.
"""

from __future__ import annotations

import math

from aloe_jax.data.settings import Packing
from aloe_jax.models.maxtext.shape import MaxTextShape
from aloe_jax.models.settings import Attention

NAMES: dict[str, str] = {"auto": "dot_product", "dense": "dot_product", "tpu": "flash", "gpu": "flash"}
BLOCKS = ("sa_block_q", "sa_block_kv", "sa_block_q_dkv", "sa_block_kv_dkv")  # tokens that the TPU kernel takes at once


def why_not(shape: MaxTextShape, attention: Attention, packing: Packing, length: int, platform: str) -> str | None:
    """Why a method cannot compute rows, None where it can; see ModelSpec."""
    why = None
    if attention == "chunked":
        why = "model.attention: MaxText has no chunked attention; set auto or dense"
    elif attention != "dense" and packing == "trees":
        why = (
            f"model.attention: MaxText's {attention} kernel knows segments of a row but no trees; set data.packing to "
            "paths, or model.attention to dense"
        )
    elif attention not in ("dense", platform):
        why = f"model.attention: {attention} is a kernel for another platform than {platform}; set auto or dense"
    elif attention == "tpu":
        sizes = [int(getattr(shape.resolved, prefix + name)) for prefix in ("", "local_") for name in BLOCKS]
        block = math.lcm(*(min(size, length) for size in sizes))
        if length % block or length % 128:
            why = (
                f"data.row_length: MaxText's TPU kernel takes {max(sizes)} tokens at once, and {length} is no multiple "
                f"of that; give a multiple of {max(sizes)}, or set model.attention to dense"
            )
    elif attention == "gpu" and (what := _left_out(shape)) is not None:
        why = (
            f"model.attention: {shape.name} has {what}, which MaxText's GPU kernel leaves out; set model.attention "
            "to dense"
        )
    return why


def _left_out(shape: MaxTextShape) -> str | None:
    """What of a model's attention MaxText's GPU kernel does not compute."""
    resolved = shape.resolved
    found = {
        "sliding windows": any(shape.windows),
        "capped scores of attention": bool(resolved.attn_logits_soft_cap),
        "attention sinks": bool(resolved.attention_sink) or resolved.decoder_block.name == "GPT_OSS",
        "keys and values of different sizes (MLA)": any(kind == "MLA" for kind, _ in shape.attention),
    }
    return next((what for what, used in found.items() if used), None)
