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
