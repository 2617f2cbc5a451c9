#!/usr/bin/env bash
# What an earlier version leaves behind, at the smallest size: tests/old/make.sh COMMIT NAME writes tests/old/NAME.
# DPO is left as if it had been killed after its first checkpoint.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$PWD/.venv/bin/python kept=$PWD/tests/old/$2 target=/tmp/aloe-jax-old
code=$(mktemp -d)
trap 'rm -rf "$code"' EXIT
git archive "$1" | tar x -C "$code"
export PYTHONPATH=$code JAX_PLATFORMS=cpu XLA_FLAGS= XDG_CACHE_HOME=$code/cache
rm -rf "$target"
mkdir -p "$target"
cd "$target"
run() { "$python" -m "$@" >"$code/log" 2>&1 || { cat "$code/log" >&2; exit 1; }; }

cat >datagen.yaml <<'YAML'
output: data
personas: {profiles: 4, personalities: 4, personalities_per_profile: 2, benchmark_profiles: 2, benchmark_personalities: 2}
conversations: {count: 8, turns: 3, validation_fraction: 0.25}
roles: {provider: scripted}
YAML
run datagen personas --config datagen.yaml
run datagen conversations --config datagen.yaml
run datagen build --config datagen.yaml
trees=data/tfds/aloe_trees/1.0.0
run aloe_jax.data.tokenizer --data $trees --output tokenizer --vocab 300
cat >sft.yaml <<YAML
stage: sft
output: sft
model:
  tokenizer: tokenizer
  architecture: {layers: 1, width: 16, query_heads: 2, kv_heads: 1, feed_forward: 32, max_length: 1024}
data: {path: $trees, row_length: 1024, rows: 1}
steps: 4
log_every: 2
evaluate_every: 4
checkpoints: {every: 2}
YAML
sed -e 's/sft/dpo/' -e '/^  /d' -e 's/^model:/model: {path: sft}/' sft.yaml >dpo.yaml
cat >evaluate.yaml <<YAML
output: benchmark
personas: data/tfds/aloe_personas/1.0.0
models: {dpo: {path: dpo}, generic: {scripted: generic}}
cases: 4
turns: 2
sampling: {max_new_tokens: 8, max_length: 1024}
roles: {provider: scripted}
YAML
run aloe_jax.train --config sft.yaml
run aloe_jax.train --config dpo.yaml
run aloe_jax.export --checkpoint dpo --output export
run aloe_jax.evaluate --config evaluate.yaml
cat >"$code/logits.py" <<'PYTHON'
import numpy as np
from aloe_jax.models import load_pretrained
tokens = np.arange(2, 34, dtype=np.int32)[None]
np.savez("logits.npz", **{name: np.asarray(load_pretrained(name)(tokens))[:, -2:] for name in ("sft", "dpo", "export")})
PYTHON
rm -rf sft/checkpoints/2 dpo/checkpoints/4 dpo/finished.json {sft,dpo}/tensorboard compiled data/tfds/aloe_personas \
  benchmark/report.html benchmark/journal.sqlite
find . -name '*.lock' -delete
"$python" "$code/logits.py"
rm -rf "$kept"
mv "$target" "$kept"
