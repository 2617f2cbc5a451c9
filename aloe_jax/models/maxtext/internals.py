"""Everything that touches MaxText's private parts, for exactly the version that it was written and tested against.

The rest of this folder gives plain values and gets plain values: settings as a dict, parameters as flat dicts of
arrays by dotted name, compiled pieces as functions of arrays. Shapes: B batch, T tokens, N/K heads, H head size, D
model.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any  # noqa: TID251  MaxText has no types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from aloe_jax.errors import AloeError
from aloe_jax.models.maxtext.families import Config, stretch
from aloe_jax.models.maxtext.isolation import silent, unchanged
from aloe_jax.models.native.arithmetic import stretched
from aloe_jax.parallel.mesh import AXES

VERSION = "0.2.5"
Keys = tuple[Any, ...]  # of a variable in a module
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # of scaled q [B,T,N,H], k and v [B,T,K,H]

STATEFUL = {"Qwen3NextGatedDeltaNet", "CompressedAttention", "Indexer"}  # modules that carry it from token to token
# Attention of the other kinds reads segment ids, or positions in the row, in ways that a tree's rows do not have.
MASKED = ("GLOBAL", "LOCAL_SLIDING", "MLA")
_attention: ContextVar[Iterator[Attention] | None] = ContextVar("attention", default=None)

# A mesh on which every axis counts: MaxText leaves an axis of one device out of what it says of a weight's sharding.
SPREAD = AbstractMesh((2,) * len(AXES), AXES)

FIXED: dict[str, Any] = {
    # No run of MaxText's own: nothing is logged, saved, looked up or joined.
    "override_model_config": True,
    "run_name": "aloe",
    "base_output_directory": ".",
    "enable_checkpointing": False,
    "dataset_type": "synthetic",
    "skip_jax_distributed_system": True,
    "jax_cache_dir": "",
    "log_config": False,
    "tokenizer_path": "unused",
    "enable_dropout": False,
    "mtp_num_layers": 0,
    # Our mesh.
    "mesh_axes": list(AXES),
    "data_sharding": [list(AXES)],
    "override_logical_axis_rules": True,
    # Softmax in float32, whatever the type of activations, as in our decoder.
    "float32_logits": True,
}


@functools.cache
def parts() -> SimpleNamespace:
    """MaxText's modules, and our classes of its NNXDecoder, AttentionOp and LLaMARotaryEmbedding.

    To import them takes some ten seconds. Raises AloeError when MaxText is another version or not there.
    """
    check_version()
    if "maxtext" in sys.modules and "maxtext.utils.model_creation_utils" in sys.modules:
        raise AloeError(
            "model.backend: maxtext.utils.model_creation_utils is loaded in this process, which replaces functions of "
            "jax.lax; train in a process of its own"
        )
    with unchanged():
        try:
            from flax.linen.partitioning import axis_rules
            from maxtext.configs import pyconfig
            from maxtext.layers import attention_op, embeddings, nnx_decoders, quantizations
            from maxtext.models import models
            from maxtext.utils import globals as directories
            from maxtext.utils import sharding
        except ImportError as error:
            raise AloeError(f"model.backend: maxtext cannot be imported ({error}); install what it names") from None
    return SimpleNamespace(
        pyconfig=pyconfig, models=models, attention_op=attention_op, embeddings=embeddings,
        quantizations=quantizations, sharding=sharding, axis_rules=axis_rules,
        decoder=_decoder_class(nnx_decoders), attention=_attention_class(attention_op),
        rotary=_rotary_class(embeddings), configs=Path(directories.MAXTEXT_CONFIGS_DIR),
    )  # fmt: skip


def check_version() -> None:
    """Raise AloeError unless the installed MaxText is the one that this module knows."""
    try:
        found = importlib.metadata.version("maxtext")
    except importlib.metadata.PackageNotFoundError:
        raise AloeError(f"model.backend: maxtext is not installed; pip install maxtext=={VERSION}") from None
    if found != VERSION:
        raise AloeError(f"model.backend: maxtext is {found}, supported: {VERSION}; pip install maxtext=={VERSION}")


def names() -> list[str]:
    """Every model name that MaxText has settings for."""
    check_version()
    (root,) = [file for file in importlib.metadata.files("maxtext") or () if str(file).endswith("configs/base.yml")]
    return sorted(path.stem for path in (Path(str(root.locate())).parent / "models").glob("*.yml"))


# ---------------------------------------------------------------- settings


@functools.lru_cache(maxsize=64)
def resolve(name: str, settings: tuple[tuple[str, Any], ...]) -> Config:
    """MaxText's resolved settings of the model `name` with `settings` over its own, and FIXED over both.

    Raises AloeError with what MaxText says of settings that are unknown or contradict each other.
    """
    made = parts()
    base = str(made.configs / "base.yml")
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in settings}
    if name != "default" and name not in names():
        raise AloeError(f"model.name: MaxText has no {name}; it has {', '.join(names())}")
    with unchanged():
        try:
            values = {**given, **FIXED, "model_name": name, "logical_axis_rules": _rules(base)}
            resolved = made.pyconfig.HyperParameters(made.pyconfig._initialize_pydantic(["", base], **values))
            if resolved.remat_policy is None:  # which "none" has become
                resolved.get_keys()["remat_policy"] = "none"
        except (ValueError, TypeError, AssertionError) as error:
            text = " ".join(str(error).split())
            raise AloeError(f"model.overrides: MaxText refuses them: {text[:300]}") from None
    return resolved


def _rules(base: str) -> list[list[Any]]:
    """MaxText's table of logical axes, with the mesh axes that we have of those that it names."""
    import yaml

    table = yaml.safe_load(Path(base).read_text())["logical_axis_rules"]
    return [[name, [axis for axis in ([to] if isinstance(to, str) else to) if axis in AXES]] for name, to in table]


# ---------------------------------------------------------------- building


@dataclass(frozen=True)
class Skeleton:
    """A model without its weights: what nnx needs to put them in, and how they are laid out."""

    graph: Any
    shapes: Mapping[str, jax.ShapeDtypeStruct]  # of every weight, by dotted name
    partitions: Mapping[str, PartitionSpec]
    weights: Mapping[str, tuple[Keys, Any]]  # nnx's path and variable of every weight
    collections: Mapping[str, str]  # what its checkpoints keep every weight under
    rest: Mapping[Keys, Any]  # state that is no weight: counters and keys of random streams that nothing draws from
    rules: Any
    attention: tuple[tuple[str, int], ...]  # kind and window (0: none) of every layer, where layers are not stacked


@functools.lru_cache(maxsize=16)
def skeleton(name: str, settings: tuple[tuple[str, Any], ...], mesh: Mesh) -> Skeleton:
    """Build a model of shapes alone."""
    config = resolve(name, settings)
    with silent(), parts().axis_rules(config.logical_axis_rules):
        abstract = nnx.eval_shape(_constructor(config, mesh))
        graph, state = nnx.split(abstract)
        shardings = parts().sharding.nnx_construct_named_sharding(state, SPREAD)
    weights, rest = _split(state)
    where = {
        _dotted(path): variable.get_value().spec for path, variable in nnx.to_flat_state(shardings) if path in weights
    }
    return Skeleton(
        graph,
        {_dotted(path): variable.get_value() for path, variable in weights.items()},
        where,
        {_dotted(path): (path, variable) for path, variable in weights.items()},
        {_dotted(path): _collection(variable) for path, variable in weights.items()},
        rest,
        config.logical_axis_rules,
        tuple(_kinds(abstract, config)),
    )


def initial(name: str, settings: tuple[tuple[str, Any], ...], mesh: Mesh, seed: int) -> dict[str, jax.Array]:
    """MaxText's initial weights; to be called under jit."""
    config = resolve(name, settings)
    with silent(), parts().axis_rules(config.logical_axis_rules):
        weights, _ = _split(nnx.state(_constructor(config, mesh, seed)()))
    return {_dotted(path): variable.get_value() for path, variable in weights.items()}


def _constructor(config: Config, mesh: Mesh, seed: int = 0) -> Callable[[], Any]:
    def build() -> Any:
        quant = parts().quantizations.configure_quantization(config)
        rngs = nnx.Rngs(params=seed, dropout=seed)
        model = parts().models.Transformer(config, mesh, quant=quant, model_mode="train", rngs=rngs)
        _refuse_other_attention(model, config)
        model.decoder.__class__ = parts().decoder
        module: Any
        for _, module in nnx.iter_modules(model):
            if type(module) is parts().attention_op.AttentionOp:
                module.__class__ = parts().attention  # a graph keeps the class of its modules
            if type(module) is parts().embeddings.LLaMARotaryEmbedding:
                module.__class__ = parts().rotary
                module.stretch = stretch(config)
            yarn = config.decoder_block.name == "OLMO3" and getattr(module, "rope_type", "") == "yarn"
            if yarn and module.attention_type.name == "LOCAL_SLIDING":  # there full attention alone is stretched
                module.rope_type = "default"
                module.rotary_embedding = module.init_rotary_embedding()
        return model

    return build


def _refuse_other_attention(model: Any, config: Config) -> None:
    op = parts().attention_op.AttentionOp
    module: Any
    for path, module in nnx.iter_modules(model):
        where = ".".join(map(str, path))
        if isinstance(module, op):
            if type(module) not in (op, parts().attention) or module.attention_type.name not in MASKED:
                raise AloeError(
                    f"model.name: {config.model_name} has {module.attention_type.name} attention ({where}), "
                    "which a row of several conversations cannot be given to"
                )
        elif STATEFUL & {kind.__name__ for kind in type(module).__mro__}:
            raise AloeError(
                f"model.name: {config.model_name} has {type(module).__name__} ({where}), which carries state from "
                "token to token of a row, across the branches of a tree"
            )


def _split(state: Any) -> tuple[dict[Keys, Any], dict[Keys, Any]]:
    """Weights by path, and the state without them. DeepSeek's router bias is a weight that is no nnx.Param."""
    flat = dict(nnx.to_flat_state(state))
    weights = {p: v for p, v in flat.items() if isinstance(v, nnx.Param) or type(v).__name__ == "MoEBiasVar"}
    return weights, {path: variable for path, variable in flat.items() if path not in weights}


def _collection(variable: Any) -> str:
    return "params" if isinstance(variable, nnx.Param) else type(variable).__name__


def _dotted(path: Keys) -> str:
    return ".".join(map(str, path))


def _kinds(model: Any, config: Config) -> Iterator[tuple[str, int]]:
    """Of every attention its kind and window, in the order in which layers run; nothing where they are stacked."""
    if config.scan_layers:
        return
    for layer in model.decoder.get_layers():
        found = [(path, one) for path, one in nnx.iter_modules(layer) if isinstance(one, parts().attention)]
        each: Any
        for _, each in sorted(found, key=lambda one: "global" in str(one[0])):  # Gemma 2's: a local one, then a global
            local = each.attention_type.name == "LOCAL_SLIDING"
            yield each.attention_type.name, each.sliding_window_size if local else 0


# ---------------------------------------------------------------- computing


def states(
    skeleton: Skeleton,
    weights: Mapping[str, jax.Array],
    tokens: jax.Array,
    positions: jax.Array,
    marks: jax.Array | None,
    attention: Iterator[Attention] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """States after the final norm, int [B,T] -> [B,T,D], and what layers left beside them (router losses).

    `marks` [B,T] is subtree_end, or None for plain causal attention. `attention` gives for one layer after the other
    what computes its attention, instead of its own.
    """
    model = _merged(skeleton, weights)
    token = _attention.set(attention)
    try:
        with silent(), parts().axis_rules(skeleton.rules):
            made = model.decoder(
                shared_embedding=model.token_embedder,
                decoder_input_tokens=tokens,
                decoder_positions=positions,
                decoder_segment_ids=marks,
                deterministic=True,
                model_mode="train",
            )
            normed = model.decoder.decoder_norm(made[1])
    finally:
        _attention.reset(token)
    left = nnx.to_flat_state(nnx.state(model, nnx.Intermediate))
    return normed, {_dotted(path): variable.get_value() for path, variable in left}


def _merged(skeleton: Skeleton, weights: Mapping[str, jax.Array]) -> Any:
    flat: dict[Keys, Any] = {}
    for path, variable in skeleton.rest.items():
        abstract = variable.get_value()
        if jnp.issubdtype(abstract.dtype, jax.dtypes.prng_key):
            value = jax.random.split(jax.random.key(0), math.prod(abstract.shape)).reshape(abstract.shape)
        else:
            value = jnp.zeros(abstract.shape, abstract.dtype)
        flat[path] = variable.replace(value)
    for name, (path, variable) in skeleton.weights.items():
        flat[path] = variable.replace(weights[name])
    return nnx.merge(skeleton.graph, nnx.from_flat_state(flat), copy=True)


def single_device_mesh() -> Mesh:
    """A mesh of one device, for models that are not spread."""
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)


def _decoder_class(nnx_decoders: Any) -> type:
    class StackedDecoder(nnx_decoders.NNXDecoder):
        """MaxText's, which recomputes stacked layers whole even where it should recompute nothing."""

        def get_remat_policy(self) -> Any:
            if self.config.remat_policy == "none":
                return jax.checkpoint_policies.everything_saveable
            return super().get_remat_policy()

    return StackedDecoder


def _attention_class(attention_op: Any) -> type:
    class TreeAttention(attention_op.AttentionOp):
        """MaxText's attention, with the mask of a token tree where decoder_segment_ids hold subtree_end [B,T]."""

        def __call__(self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            given = _attention.get()
            return (
                super().__call__(query, key, value, *args, **kwargs)
                if given is None
                else next(given)(query, key, value)
            )

        def generate_attention_mask(
            self, query: Any, key: Any, decoder_segment_ids: Any, model_mode: str, *args: Any, **kwargs: Any
        ) -> Any:
            """Query q sees key k when k <= q < subtree_end[k]; windows count tokens of the query's own path."""
            if decoder_segment_ids is None:
                return super().generate_attention_mask(query, key, None, model_mode, *args, **kwargs)
            kind = attention_op.AttentionType
            causal = super().generate_attention_mask(
                query, key, None, model_mode, *args, **{**kwargs, "attention_type": kind.GLOBAL}
            )
            seen = jnp.arange(query.shape[1])[None, :, None] < decoder_segment_ids[:, None, :]
            if self.attention_type == kind.LOCAL_SLIDING:
                positions = kwargs["segment_positions"]
                seen &= positions[:, :, None] - positions[:, None, :] < self.sliding_window_size
            return jnp.where(seen[:, None, None], causal, attention_op.DEFAULT_MASK_VALUE)

    return TreeAttention


def _rotary_class(embeddings: Any) -> type:
    class Rotary(embeddings.LLaMARotaryEmbedding):
        """Its RoPE for Llama 3, stretched by any factor."""

        stretch: tuple[float, float, float, float]

        def _apply_scaling_factor(self, freq: jax.Array) -> jax.Array:
            return stretched(freq, self.stretch)

    return Rotary
