#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Request the slice as a queued resource and wait until it is there.
A request of that name for the same run is taken up again." \
  "--no-wait: return as soon as the request is in the queue" \
  "--adopt: take over a slice of this run that another machine requested and no longer watches" -- "$@"
read_settings

ours=$(owner_word) || [[ $DRY_RUN == yes ]] ||
  die "$(memory_file): cannot be written; set XDG_STATE_HOME to a directory that can be"

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
    "--labels=aloe_owner=${ours:-OWNER},aloe_run=$(run_word)" --scopes=https://www.googleapis.com/auth/cloud-platform --async
  run "${COMMAND_LINE[@]}"
}

# A request of this name that is another's, or another run's, is left alone.
check_same() {
  local other="give another NAME" another="exists already for another run (other COMMAND, CONFIG, OUTPUT or OVERRIDE)"
  read_theirs || die "$NAME: exists, and gcloud does not say what it is"
  [[ -z $THEIRS_KIND || $THEIRS_KIND == "$ACCELERATOR_TYPE" ]] ||
    taken "exists already as $THEIRS_KIND, not $ACCELERATOR_TYPE; $other, or delete it with tpu/delete.sh"
  if [[ $THEIRS_OWNER != "$ours" ]]; then
    [[ ${ADOPT:-no} == yes ]] ||
      taken "exists already, and was not requested from here; $other, or --adopt it if nobody watches it any more"
    [[ $THEIRS_RUN == "$(run_word)" ]] || taken "$another; $other"
    take_over
  elif [[ $THEIRS_RUN != "$(run_word)" ]]; then
    taken "$another; $other, or delete it with tpu/delete.sh"
  fi
}

taken() {
  say "$NAME: $*"
  exit "$TAKEN"
}

if [[ $DRY_RUN == yes ]]; then
  request
  exit 0
fi

state=$(slice_state) || die "$NAME: gcloud cannot tell its state (above)"
if [[ $state == ABSENT ]]; then
  if request; then
    say "$NAME: requested $SLICES x $ACCELERATOR_TYPE ($TIER) in $ZONE"
  elif state=$(slice_state) && [[ $state != ABSENT ]]; then
    check_same # somebody was quicker; or it came through all the same
    say "$NAME: is there ($state)"
  else
    die "$NAME: the request was refused (above)"
  fi
elif is_lost "$state"; then
  die "$NAME: is $state and will not come back; run tpu/delete.sh first"
else
  check_same
  say "$NAME: is there already ($state)"
fi
[[ ${NO_WAIT:-no} == no ]] || exit 0
await_slice || die "$NAME: the request ended without a slice; check the quota, the zone and the accelerator type"
