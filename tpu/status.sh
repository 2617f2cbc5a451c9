#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Say how the request, the machines, the processes on them and the run stand." -- "$@"
read_settings

slice_command describe "$NAME" "--format=value(state.state)"
if [[ $DRY_RUN == yes ]]; then
  run "${COMMAND_LINE[@]}"
  on_workers "bash $WORKER state"
  run gcloud storage cat "$OUTPUT/$FINISHED" "--project=$PROJECT"
  exit 0
fi
state=$(slice_state) || die "$NAME: gcloud cannot tell its state (above)"
printf 'slice     %s\n' "$state"
if [[ $state == ACTIVE ]]; then
  on_workers "bash $WORKER state" | sed -n 's/^aloe-worker /machine   /p'
fi
complete='not complete'
if is_finished; then complete=complete; fi
printf 'run       %s: %s\n' "$complete" "$OUTPUT"
