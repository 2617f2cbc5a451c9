#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Show the last lines of every machine's log; without machines, the logs that are in the bucket." \
  "--bucket: those of the bucket in any case (a minute old, whole, and there after the machines are gone)" -- "$@"
read_settings

if [[ $DRY_RUN == yes ]]; then
  on_workers "bash $WORKER tail 40"
  run gcloud storage cat "$OUTPUT/logs/**" "--project=$PROJECT"
  exit 0
fi
state=ABSENT
[[ ${BUCKET:-no} == yes ]] || state=$(slice_state) || die "$NAME: gcloud cannot tell its state (above)"
if [[ $state == ACTIVE ]]; then
  on_workers "bash $WORKER tail 40"
else
  gcloud storage cat "$OUTPUT/logs/**" "--project=$PROJECT"
fi
