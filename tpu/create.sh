#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Request the slice as a queued resource and wait until it is there.
A request of that name is taken up again." \
  "--no-wait: return as soon as the request is in the queue" -- "$@"
read_settings

request() {
  local how=()
  if ((SLICES == 1)); then how+=("--node-id=$NAME"); else how+=("--node-count=$SLICES" "--node-prefix=$NAME"); fi
  case $TIER in spot) how+=(--spot) ;; reserved) how+=(--reserved) ;; esac
  [[ -z $SERVICE_ACCOUNT ]] || how+=("--service-account=$SERVICE_ACCOUNT")
  [[ -z $NETWORK ]] || how+=("--network=$NETWORK")
  [[ -z $SUBNETWORK ]] || how+=("--subnetwork=$SUBNETWORK")
  [[ $INTERNAL == no ]] || how+=(--internal-ips)
  [[ -z $WAIT_AT_MOST ]] || how+=("--valid-until-duration=$WAIT_AT_MOST")
  slice_command create "$NAME" "--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION" "${how[@]}" \
    --scopes=https://www.googleapis.com/auth/cloud-platform --async
  run "${COMMAND_LINE[@]}"
}

# A request of this name with another slice is another run's.
check_same() {
  local theirs
  slice_command describe "$NAME" "--format=value(tpu.nodeSpec[0].node.acceleratorType)"
  theirs=$("${COMMAND_LINE[@]}") || die "$NAME: exists, and gcloud does not say what it is"
  [[ -z $theirs || $theirs == "$ACCELERATOR_TYPE" ]] || {
    say "$NAME: exists already as $theirs, not $ACCELERATOR_TYPE; give another NAME, or delete it with tpu/delete.sh"
    exit "$TAKEN"
  }
}

if [[ $DRY_RUN == yes ]]; then
  request
  exit 0
fi

state=$(slice_state) || die "$NAME: gcloud cannot tell its state (above)"
if [[ $state == ABSENT ]]; then
  request || die "$NAME: the request was refused (above)"
  say "$NAME: requested $SLICES x $ACCELERATOR_TYPE ($TIER) in $ZONE"
elif is_lost "$state"; then
  die "$NAME: is $state and will not come back; run tpu/delete.sh first"
else
  check_same
  say "$NAME: is there already ($state)"
fi
[[ ${NO_WAIT:-no} == no ]] || exit 0
await_slice || die "$NAME: the request ended without a slice; check the quota, the zone and the accelerator type"
