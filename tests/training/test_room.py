"""Models and batches beyond the memory of the machine: one line before, or instead of, the end by the system."""

import jax.numpy as jnp
import pytest

from aloe_jax.errors import AloeError
from aloe_jax.training.claim import one_line_of_the_disk
from aloe_jax.training.run import train


@pytest.mark.parametrize(
    "shape",
    [{"width": 2**20, "layers": 1000}, {"feed_forward": 2**20, "layers": 1000, "width": 2**14}, {"width": 2**20}],
)
def test_a_model_larger_than_the_machine(settings, shape):
    with pytest.raises(
        AloeError, match=r"model: its weights and gradients take [\d,.]+ GiB, and this machine has"
    ) as e:
        train(settings(model={"architecture": shape | {"query_heads": 2, "kv_heads": 2}}))
    assert "\n" not in str(e.value)


def test_what_the_device_cannot_hold(tmp_path):
    message = r"the memory of this machine is not enough \(RESOURCE_EXHAUSTED"
    with pytest.raises(AloeError, match=message) as e, one_line_of_the_disk(tmp_path):
        jnp.zeros((2**46,)).block_until_ready()
    assert "\n" not in str(e.value)
    with pytest.raises(RuntimeError, match="a defect"), one_line_of_the_disk(tmp_path):
        raise RuntimeError("a defect")
    message = r"cannot be written \(No space left on device \(os error 28\)\)"
    with pytest.raises(AloeError, match=message), one_line_of_the_disk(tmp_path):
        raise Exception("No space left on device (os error 28)")
