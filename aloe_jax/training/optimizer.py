"""AdamW with warm-up and decay, behind gradient clipping."""

from __future__ import annotations

import optax

from aloe_jax import config


def learning_rate(settings: config.Optimizer, steps: int) -> optax.Schedule:
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


def make_optimizer(settings: config.Optimizer, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW. Weight decay leaves out vectors (norms and biases).

    Stacked layers give a norm a leading [L] axis, so a weight counts as a matrix from three axes on under
    "layers" and "adapters", and from two on elsewhere.
    """
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            learning_rate(settings, steps),
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=decayed,
        ),
    )


def decayed(params: dict) -> dict:
    """Which weights are decayed: the same tree with a bool a leaf."""
    return {
        name: {inner: leaf.ndim > 2 for inner, leaf in value.items()} if isinstance(value, dict) else value.ndim > 1
        for name, value in params.items()
    }
