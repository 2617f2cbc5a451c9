#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Delete the queued resource with its machines, and check that it is gone.
What is in the bucket stays." -- "$@"
read_settings

slice_command delete "$NAME" --force --quiet
if [[ $DRY_RUN == yes ]]; then
  run "${COMMAND_LINE[@]}"
  exit 0
fi
delete=("${COMMAND_LINE[@]}")
# A request that is just being granted, or already being taken away, refuses to be deleted for a while.
for ((attempt = 1; attempt <= 20; attempt++)); do
  state=$(slice_state) || state=UNKNOWN
  if [[ $state == ABSENT ]]; then
    say "$NAME: gone"
    exit 0
  fi
  say "$NAME: deleting ($state)"
  "${delete[@]}" || true
  state=$(slice_state) || state=UNKNOWN
  if [[ $state == ABSENT ]]; then
    say "$NAME: gone"
    exit 0
  fi
  sleep "$POLL_SECONDS"
done
die "$NAME: STILL THERE AND COSTING MONEY. Delete it by hand: $(quoted "${delete[@]}")"
