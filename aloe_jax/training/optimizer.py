"""Optimizers by name: warm-up and decay of the learning rate, gradient clipping, and how their state is sharded."""

from __future__ import annotations

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.tree_util import DictKey

from aloe_jax.errors import AloeError
from aloe_jax.models.spec import Parameters
from aloe_jax.models.weights import Tree
from aloe_jax.training.master import MasterState
from aloe_jax.training.settings import OptimizerSettings

VECTORS = ("norm", "bias", "scale", "sinks")  # what the names of weights end with that are vectors, one a layer


def learning_rate(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 over `warmup_steps`, then the configured decay down to step `steps`."""
    peak, warmup = settings.learning_rate, min(settings.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    if settings.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, rest, alpha=settings.final_fraction)
    elif settings.schedule == "linear":
        decay = optax.linear_schedule(peak, peak * settings.final_fraction, rest)
    else:
        decay = optax.constant_schedule(peak)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup]) if warmup else decay


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then the named optimizer: update = -learning rate × (its direction + decay × weight).

    - adamw (Loshchilov and Hutter, arXiv 1711.05101): two moments.
    - lion (Chen et al., arXiv 2302.06675): the sign of one moment. Its steps are larger than AdamW's: give it a
      learning rate 3 to 10 times smaller, and b2 0.99.
    - adafactor (Shazeer and Stern, arXiv 1804.04235): no first moment, and of the second only row and column means
      of matrices. Without its scaling by the size of a parameter, so that the learning rate means what it means for
      AdamW; b1, b2 and eps are not used: its second moment averages with 1 - t^-0.8.

    Weight decay leaves out vectors (see `decayed`). `moment_dtype` is the type of the first moment; second moments
    are float32, as in bfloat16 they would stop growing. Raises AloeError when there is no first moment to hold.
    """
    rate = learning_rate(settings, steps)
    if settings.name == "adafactor":
        if settings.moment_dtype != "float32":
            raise AloeError(
                f"optimizer.moment_dtype: adafactor has no first moment to hold in {settings.moment_dtype}; leave it "
                "out, or take adamw or lion"
            )
        rule = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(settings.weight_decay, decayed),
            optax.scale_by_learning_rate(rate),
        )
    elif settings.name == "lion":
        rule = optax.lion(
            rate,
            b1=settings.b1,
            b2=settings.b2,
            mu_dtype=settings.moment_dtype,
            weight_decay=settings.weight_decay,
            mask=decayed,
        )
    else:
        rule = optax.adamw(
            rate,
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            mu_dtype=settings.moment_dtype,
            weight_decay=settings.weight_decay,
            mask=decayed,
        )
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), rule)


def decayed(params: Parameters) -> Tree[bool]:
    """Which weights are decayed: the same tree with a bool a leaf.

    Norms and biases are left out by their names: in stacks of layers they have two axes and more, too.
    """
    found: Tree[bool] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim > 1 and not _keys(path)[-1].endswith(VECTORS), params
    )
    return found


def state_shardings(state: MasterState, params: Parameters, mesh: Mesh) -> MasterState:
    """How an optimizer's state is sharded: the tree of `state` (arrays or their shapes) with a sharding a leaf.

    A leaf belongs to the parameter whose keys its own path ends with. One of the parameter's shape is sharded as the
    parameter does; one that lacks an axis (Adafactor's means) along the axes that are left; all else everywhere.
    """
    by_keys = {_keys(path): param for path, param in jax.tree_util.tree_leaves_with_path(params)}

    def sharding_of(path: tuple[object, ...], leaf: jax.Array) -> Sharding:
        param = by_keys.get(_keys(path))
        if param is not None and leaf.shape == param.shape:
            return param.sharding
        axes: list[str | tuple[str, ...] | None] = []
        if param is not None and isinstance(param.sharding, NamedSharding) and leaf.ndim == param.ndim - 1:
            spec = [*param.sharding.spec, *(None,) * (param.ndim - len(param.sharding.spec))]
            for gone in range(param.ndim):
                if leaf.shape == param.shape[:gone] + param.shape[gone + 1 :]:
                    axes = spec[:gone] + spec[gone + 1 :]
                    break
        return NamedSharding(mesh, PartitionSpec(*axes))

    found: MasterState = jax.tree_util.tree_map_with_path(sharding_of, state)
    return found


def _keys(path: tuple[object, ...]) -> tuple[str, ...]:
    """The names that a path ends with: of a parameter all of them, of optimizer state those within its copy."""
    names: list[str] = []
    for key in reversed(path):
        if not isinstance(key, DictKey):
            break
        names.append(key.key)
    return tuple(reversed(names))
