#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Create the slice, set it up, start COMMAND, wait until the run is complete, delete the slice.
A slice that is taken away is asked for again, and the run goes on from what it saved in OUTPUT. Whatever ends
this script, Ctrl-C included, the slice is deleted; given again, it goes on. A slice of that name is taken up when it
was requested from here for the same run, and otherwise left alone." \
  "--keep: leave the slice when the run ends, fails or is interrupted" \
  "--adopt: take over a slice of this run that another machine requested and no longer watches" -- "$@"
read_settings

step() { # a process that outlives this one must not have its lock
  "$HERE/$1.sh" --settings "$SETTINGS_FILE" ${GIVEN[@]+"${GIVEN[@]}"} "${@:2}" 9>&-
}

if [[ $DRY_RUN == yes ]]; then
  echo "# nothing to do where this succeeds"
  run gcloud storage cat "$OUTPUT/$FINISHED" "--project=$PROJECT"
  for script in create setup launch status delete; do
    echo "# $script.sh"
    step "$script" --dry-run
  done
  exit 0
fi

SIGNALS="HUP INT QUIT TERM USR1 USR2 ALRM"
requested=no requesting=no restarts=0 leaving=no listener=''

# leave STATUS: delete what was rented, and end. Nothing interrupts it: signals are ignored, here and in what it
# starts, a step that fails does not end it, and neither does output that nobody reads any more.
leave() {
  [[ $leaving == no ]] || return 0 # a signal in the line above the next
  leaving=yes
  # shellcheck disable=SC2086 # a list of words
  trap '' $SIGNALS
  trap - EXIT
  set +e
  [[ -z $listener ]] || kill -KILL "$listener" 2>/dev/null
  local status=$1 deleted=0
  if [[ $requested$requesting != nono && ${KEEP:-no} == yes ]]; then
    say "$NAME: kept, and costs money until tpu/delete.sh"
  elif [[ $requested == yes ]]; then
    step delete --mine || deleted=$?
  elif [[ $requesting == yes ]]; then # interrupted in the middle of the request: it may still come through
    for _ in 1 2 3; do
      step delete || deleted=$?
      ((deleted == 0)) || break
      sleep "$POLL_SECONDS"
    done
    ((deleted != 0)) || say "$NAME: interrupted while it was requested; should it still come through: tpu/delete.sh"
  fi
  [[ $deleted == 0 || $deleted == "$TAKEN" ]] || status=1
  exit "$status"
}
trap 'leave $?' EXIT
for signal in $SIGNALS; do
  # shellcheck disable=SC2064 # the number now
  trap "leave $((128 + $(kill -l "$signal")))" "$signal"
done

# A shell that waits for a command misses a Ctrl-C now and then that comes just as the command ends (bash 5.2). This one
# waits for nothing else, and repeats what it has heard until somebody leaves.
listen() {
  local heard=no
  # shellcheck disable=SC2086,SC2064 # a list of words
  trap 'heard=yes' $SIGNALS
  while [[ $heard == no ]] && kill -0 "$$" 2>/dev/null; do
    sleep 5 &
    wait "$!" || true
  done
  while sleep 0.5 && kill -USR2 "$$" 2>/dev/null; do :; done
}
trap 'leave 130' USR2
listen </dev/null >/dev/null 2>&1 9>&- &
listener=$!

# Once more where a connection failed: 0 done, 1 given up, 2 the slice is lost.
insist() {
  local try
  for try in 1 2 3; do
    if step "$@"; then return 0; fi
    if slice_is_lost; then return 2; fi
    say "$NAME: $1 failed, $try of 3"
    sleep "$POLL_SECONDS"
  done
  return 1
}

worker_states() {
  local said
  said=$(on_workers "bash $WORKER state") || return 1
  sed -n 's/^aloe-worker //p' <<<"$said"
}

all_running() {
  [[ -n $1 ]] && ! grep -qvE '^[^ ]+ running ' <<<"$1"
}

# Until something happens: 0 the run is complete, 1 it failed, 2 the slice is lost, 3 it is to be started again.
watch() {
  local workers last='' silent=0 over=0 steady=0
  while sleep "$POLL_SECONDS"; do
    if is_finished; then return 0; fi
    if ! workers=$(worker_states 2>/dev/null) || [[ -z $workers ]]; then
      if slice_is_lost; then return 2; fi
      silent=$((silent + 1))
      if ((silent == 10)); then
        say "$NAME: its machines do not answer"
        return 2
      fi
      continue
    fi
    silent=0
    [[ ${workers%%$'\n'*} == "$last" ]] || say "${workers%%$'\n'*}"
    last=${workers%%$'\n'*}
    if all_running "$workers"; then
      over=0 steady=$((steady + 1))
      if ((steady == 20)); then restarts=0; fi
      continue
    fi
    # Somewhere it has ended. What ended it may show a little later: the slice taken away, or the run complete.
    if slice_is_lost; then return 2; fi
    over=$((over + 1))
    if ((over < 3)); then continue; fi
    if is_finished; then return 0; fi
    if grep -qE '^[^ ]+ exited ([1-9]|[1-9][0-9]|1[01][0-9]|12[0-7]) ' <<<"$workers"; then return 1; fi
    return 3
  done
}

# The last log lines are on their way to the bucket when the run says that it is complete.
settle() {
  local workers
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    workers=$(worker_states 2>/dev/null) || return 0
    grep -q ' running ' <<<"$workers" || return 0
    sleep "$POLL_SECONDS"
  done
}

if is_finished; then
  say "$OUTPUT: complete already"
  exit 0
fi
lock_name

same_code=() outcome=2 adopt=()
[[ ${ADOPT:-no} == no ]] || adopt=(--adopt)
for ((slice = 1; ; slice++)); do
  state=$(slice_state) || die "$NAME: gcloud cannot tell its state (above)"
  # One that was lost goes, whatever its request says: that can lag behind.
  if [[ $state != ABSENT ]] && { ((slice > 1)) || slice_is_lost; }; then
    step delete || exit
  fi
  requesting=yes
  step create --no-wait ${adopt[@]+"${adopt[@]}"} && status=0 || status=$?
  [[ $status != "$TAKEN" ]] || requesting=no requested=no # another's, not ours to delete
  [[ $status == 0 ]] || exit "$status"
  requesting=no requested=yes
  await_slice || die "$NAME: the request ended without a slice; check the quota, the zone and the accelerator type"

  outcome=3
  if ((slice == 1)) && workers=$(worker_states 2>/dev/null) && all_running "$workers"; then
    say "$NAME: $COMMAND is running there; taking it up"
  else
    insist setup ${same_code[@]+"${same_code[@]}"} && outcome=0 || outcome=$?
    # What resumes must be the code that began, whatever is edited here meanwhile.
    [[ $outcome != 0 ]] || same_code=(--same-code)
    [[ $outcome != 0 ]] || insist launch || outcome=$?
    [[ $outcome != 1 ]] || die "$NAME: could not be set up (above)"
    [[ $outcome != 0 ]] || outcome=3
  fi
  while [[ $outcome == 3 ]]; do
    watch && outcome=0 || outcome=$?
    [[ $outcome == 3 ]] || break
    restarts=$((restarts + 1))
    ((restarts <= RESTARTS)) || die "$NAME: $COMMAND ended $restarts times without completing; $OUTPUT/logs says why"
    say "$NAME: $COMMAND ended early; starting it again ($restarts of $RESTARTS)"
    on_workers "bash $WORKER stop" || true
    insist launch || outcome=$?
  done
  case $outcome in
    0)
      settle
      say "$OUTPUT: complete"
      exit 0
      ;;
    1)
      step logs >&2 || true
      die "$NAME: $COMMAND failed (above); $OUTPUT/logs has the whole log"
      ;;
  esac
  restarts=0
  say "$NAME: the slice was taken away; asking for another"
done
