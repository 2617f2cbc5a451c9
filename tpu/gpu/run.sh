#!/usr/bin/env bash
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$HERE/../.."
trap '' PIPE # nothing that is printed, or is not because nobody reads it, may end the script

usage() {
  cat <<'TEXT'
Usage: tpu/gpu/run.sh [--dry-run] train|evaluate --config FILE [section.key=value ...]
       tpu/gpu/run.sh [--dry-run] state|stop

On one machine with GPUs: install the locked environment (tpu/gpu/requirements.lock, in .venv-gpu), start the command
on all GPUs in a session that outlives this terminal, and show its log. Ctrl-C ends the showing only; the same command
shows it again, or goes on with a run that was stopped. Status: that of the command.

  state              whether it runs, and its last line
  stop               let it save and end
  --dry-run          print the commands and execute none

Example: tpu/gpu/run.sh train --config configs/demo/dpo.yaml output=runs/dpo
Keys such as WANDB_API_KEY are taken from the environment.
TEXT
}

die() {
  echo "run.sh: $*" >&2 || true
  exit 1
}

dry_run=no
if [[ ${1:-} == --dry-run ]]; then
  dry_run=yes
  shift
fi
run() {
  if [[ $dry_run == yes ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
worker() {
  run env ALOE_LOCK=tpu/gpu/requirements.lock ALOE_ENVIRONMENT=.venv-gpu "ALOE_STATE=$PWD/runs/.gpu" \
    bash tpu/worker.sh "$@"
}

case ${1:-} in
  --help | -h)
    usage
    exit 0
    ;;
  train | evaluate) ;;
  state | stop)
    worker "$1"
    exit
    ;;
  *)
    usage >&2
    die "give train, evaluate, state or stop"
    ;;
esac
[[ ${2:-} == --config && -f ${3:-} ]] || die "--config: ${3:-nothing} is no file; give a config, such as configs/demo/dpo.yaml"
if [[ $dry_run == no ]]; then
  nvidia-smi --list-gpus || die "nvidia-smi finds no GPU here (above); install NVIDIA's driver, or use a machine with one"
fi

worker install
trap 'echo "It goes on: tpu/gpu/run.sh state tells how, tpu/gpu/run.sh stop ends it." >&2 || true; exit 130' INT
worker start - - python -m "aloe_jax.$1" "${@:2}"
[[ $dry_run == no ]] || exit 0
sleep 0.2
tail -n 20 -F runs/.gpu/log &
showing=$!
trap 'kill "$showing" 2>/dev/null || true' EXIT
while worker state | grep -q ' running | '; do sleep "${POLL_SECONDS:-5}"; done
sleep 0.2 # for the last lines
exit "$(cat runs/.gpu/status)"
