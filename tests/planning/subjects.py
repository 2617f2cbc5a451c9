"""Small runs to plan."""

from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.parallel.chips import read_topology
from aloe_jax.planning.plan import Subject
from aloe_jax.planning.workload import Conversations, Shape
from aloe_jax.training.settings import TrainSettings

# Least effort of the compiler: what is tested here does not depend on it, and it takes half the time.
LEAST = {"optimization_level": "O0"}
SPEC = DecoderSpec(
    vocab=256, layers=2, width=512, query_heads=4, kv_heads=2, head_size=128, feed_forward=1024, max_length=4096
)


def subject(topology, slices=1, stage="dpo", spec=SPEC, shape=None, **changes):
    """Two layers over fsdp 2 x tensor 2 on every slice; `changes` by dotted key with __ for the dot."""
    settings = TrainSettings(
        stage=stage,
        output="run",
        model={"path": "nowhere", "compute_dtype": "bfloat16", "remat": "full"},
        data={"path": "nowhere", "row_length": 512, "rows": 8},
        mesh={"data": slices, "fsdp": 2, "tensor": 2},
    )
    conversations = Conversations(settings, shape or Shape(64, turns=4, user_tokens=10, reply_tokens=15))
    made = Subject(settings, spec, "a test", read_topology(topology, slices), conversations)
    return made.changed({key.replace("__", "."): value for key, value in changes.items()})
