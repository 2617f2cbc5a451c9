#!/usr/bin/env bash
# What a pod runs: training, with status 0 only when the run is complete. Training that was told to end (a node that is
# taken away) saves and leaves with 0 as well, which Kubernetes would take for the end of the job.
#   bash tpu/gke/job.sh --config FILE [section.key=value ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
child='' signalled=no
trap 'signalled=yes; kill -TERM "$child" 2>/dev/null || true' TERM
python -m aloe_jax.train "$@" &
child=$!
while :; do
  signalled=no
  wait "$child" && status=0 || status=$?
  [[ $signalled == yes ]] || break # the signal ended only the waiting
done
((status == 0)) || exit "$status"
python tpu/finished.py "$@" >/dev/null || exit 75 # what is printed must not decide
