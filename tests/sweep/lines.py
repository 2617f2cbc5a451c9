"""The sweep that tests of it begin with: two seeds of SFT, and DPO from it."""

from aloe_jax.sweep.settings import SweepSettings


def settings(**changes):
    values = {
        "output": "sweep",
        "seeds": [0, 1],
        "train": {"sft": {"config": "sft.yaml"}, "dpo": {"config": "dpo.yaml", "start": "sft"}},
        "evaluate": {"config": "evaluate.yaml"},
    }
    return SweepSettings.model_validate(values | changes)
