"""Which of MaxText's attention kernels computes a row, and whether it can.

Its dense attention takes the rows of token trees, since internals.py gives it their mask. Its flash kernels know
segments of a row alone: they are for rows packed as paths. On a GPU that is its Pallas kernel, the one of them that
reads segments without further packages; the one through cuDNN reads none, so paths would see each other.
"""

from __future__ import annotations

import math

from aloe_jax.data.settings import Packing
from aloe_jax.errors import AloeError
from aloe_jax.models.attention import OWN_KERNEL
from aloe_jax.models.maxtext.spec import MaxTextSpec
from aloe_jax.models.settings import Attention

NAMES: dict[str, str] = {"auto": "dot_product", "dense": "dot_product", "tpu": "flash", "gpu": "flash"}
BLOCKS = ("sa_block_q", "sa_block_kv", "sa_block_q_dkv", "sa_block_kv_dkv")  # tokens that the TPU kernel takes at once


def chosen(spec: MaxTextSpec, attention: Attention, packing: Packing, length: int, platform: str) -> Attention:
    """The attention of rows of `length` tokens for `model.attention`: with paths `auto` is the platform's kernel.

    Raises AloeError where a kernel that was asked for does not compute such rows, or not all of the model.
    """
    if attention == "chunked":
        raise AloeError("model.attention: MaxText has no chunked attention; set auto or dense")
    if attention in ("tpu", "gpu"):
        why = _refused(spec, attention, packing, length, platform)
        if why is not None:
            raise AloeError(why)
        return attention
    own = OWN_KERNEL.get(platform, "dense")
    able = attention == "auto" and own != "dense" and _refused(spec, own, packing, length, platform) is None
    return own if able else "dense"


def _refused(spec: MaxTextSpec, attention: Attention, packing: Packing, length: int, platform: str) -> str | None:
    """Why a kernel cannot compute rows, None where it can."""
    if packing == "trees":
        return (
            f"model.attention: MaxText's {attention} kernel knows segments of a row but no trees; set data.packing to "
            "paths, or model.attention to dense"
        )
    if platform != attention:
        return f"model.attention: {attention} is a kernel for another platform than {platform}; set auto or dense"
    resolved = spec.resolved
    if attention == "tpu":
        sizes = [int(getattr(resolved, prefix + name)) for prefix in ("", "local_") for name in BLOCKS]
        block = math.lcm(*(min(size, length) for size in sizes))
        if length % block or length % 128:
            return (
                f"data.row_length: MaxText's TPU kernel takes {max(sizes)} tokens at once, and {length} is no multiple "
                f"of that; give a multiple of {max(sizes)}, or set model.attention to dense"
            )
        return None
    for what, here in {
        "sliding windows": any(spec.windows),
        "capped scores of attention": bool(resolved.attn_logits_soft_cap),
        "attention sinks": bool(resolved.attention_sink) or resolved.decoder_block.name == "GPT_OSS",
        "keys and values of different sizes (MLA)": any(kind == "MLA" for kind, _ in spec.attention),
    }.items():
        if here:
            return (
                f"model.attention: {spec.name} has {what}, which MaxText's GPU kernel leaves out; set model.attention "
                "to dense"
            )
    return None
