"""Who takes part, and with which settings."""

from __future__ import annotations

from tests.benchmarks.peers.contest import Contestant
from tests.benchmarks.peers.environments import BENCH, TRL, TUNIX

CACHE = {"JAX_COMPILATION_CACHE_DIR": str(BENCH / "jax-cache")}  # for what compiles many shapes

OURS = Contestant("ours", "ours, token trees", "our_trees", None, {"kind": "dpo"})
PAIRS = Contestant("pairs", "ours, padded pairs by length", "our_pairs", None, {"pairs": 24}, CACHE)
# Neither gradient checkpointing nor the reference in the loop, batches by length; the best size of those tried, which
# --tune tries again.
TRL_BEST = Contestant(
    "trl-best", "TRL, best settings", "trl_side", TRL, {"kind": "dpo", "best": True, "batch": 2, "pairs": 24}
)
TRL_DEFAULT = Contestant(
    "trl", "TRL, its defaults in float32", "trl_side", TRL, {"kind": "dpo", "best": False, "pairs": 8}
)
TUNIX_DPO = Contestant("tunix", "Tunix", "tunix_side", TUNIX, {"batch": 2, "pairs": 4})
OURS_SFT = Contestant("ours-sft", "ours, SFT on token trees", "our_trees", None, {"kind": "sft"})
TRL_SFT = Contestant("trl-sft", "TRL, SFT with packing", "trl_side", TRL, {"kind": "sft", "batch": 2, "rows": 24})

TRIED = {TRL_BEST.name: (1, 2, 4, 8), TUNIX_DPO.name: (1, 2, 4)}  # pairs in a batch

DPO = (OURS, PAIRS, TRL_BEST, TRL_DEFAULT, TUNIX_DPO)
SFT = (OURS_SFT, TRL_SFT)

# On-policy RL, by whole steps of 640 replies. `together`: replies that are drawn together, `batch`: whose gradients are
# computed together. One device with all cores: on two, Tunix draws every reply on both.
ONE_DEVICE = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1 --xla_cpu_prefer_vector_width=512"}
OURS_RL = Contestant(
    "ours-rl", "ours, stage: rl", "our_rl", None, {"together": 64, "accumulate": 4, "steps": 3}, ONE_DEVICE
)
TRL_RL = Contestant("trl-rl", "TRL, GRPOTrainer", "trl_rl_side", TRL, {"together": 128, "batch": 64, "steps": 1})
TUNIX_RL = Contestant(
    "tunix-rl", "Tunix, DrGRPOLearner", "tunix_rl_side", TUNIX, {"together": 80, "batch": 16, "steps": 1}, ONE_DEVICE
)
RL = (OURS_RL, TRL_RL, TUNIX_RL)

# What --tune tries instead.
RL_TRIED = {
    TRL_RL.name: [{"together": together, "batch": batch} for together in (64, 128, 320) for batch in (32, 64)],
    TUNIX_RL.name: [{"together": together, "batch": batch} for together in (40, 80, 160) for batch in (8, 16, 40)],
}
