#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Delete the queued resource with its machines, and check that it is gone.
What is in the bucket stays. Status: 0 it is gone, 4 it is another's and left, 1 otherwise." \
  "--others: also one that was not requested from here" \
  "--mine: it is known to be ours, whether or not gcloud can say so now" -- "$@"
read_settings

slice_command delete "$NAME" --force --quiet
if [[ $DRY_RUN == yes ]]; then
  run "${COMMAND_LINE[@]}"
  exit 0
fi
# From here on nothing that fails ends the script but the end of its time.
set +e
ask() { bounded "$@"; }
delete=("${COMMAND_LINE[@]}")
slice_command describe "$NAME"
look=("${COMMAND_LINE[@]}")
notice=$(dirname "$SETTINGS_FILE")/NOT-DELETED-$NAME.txt

gone() {
  rm -f "$notice"
  say "$NAME: gone"
  exit 0
}

# Whether it may be deleted; ends the script where it is another's.
may_delete() {
  [[ ${OTHERS:-no} == no ]] || return 0
  is_ours
  case $? in
    0) return 0 ;;
    1)
      say "$NAME: was not requested from here, and is left; tpu/delete.sh --others deletes it all the same"
      exit "$TAKEN"
      ;;
  esac
  [[ ${MINE:-no} == yes ]]
}

# A request that is just being granted, or already being taken away, refuses to be deleted for a while.
end=$((SECONDS + ${ALOE_DELETE_SECONDS:-1200}))
for ((attempt = 1; attempt <= 20; attempt++)); do
  state=$(slice_state 1 2>/dev/null) || state=UNKNOWN
  [[ $state != ABSENT ]] || gone
  if may_delete; then
    say "$NAME: deleting ($state)"
    said=$(bounded "${delete[@]}" 2>&1) || say "$NAME: ${said:-gcloud did not answer}"
    state=$(slice_state 1 2>/dev/null) || state=UNKNOWN
    [[ $state != ABSENT ]] || gone
  fi
  ((SECONDS < end)) || break
  sleep "$POLL_SECONDS"
done

if [[ $state == UNKNOWN ]]; then
  told="$NAME: could not confirm that it is gone; IT MAY STILL BE THERE AND COST MONEY."
else
  told="$NAME: STILL THERE ($state) AND COSTING MONEY."
fi
told+=" Check with: $(quoted "${look[@]}") and delete it by hand: $(quoted "${delete[@]}")"
# Also in a file, because whoever should read this may have closed the terminal.
printf '%s %s\n' "$(date)" "$told" 2>/dev/null >>"$notice" || true
die "$told"
