# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it
# Sourced by the scripts beside it: the queued resource NAME, its state, and commands on all of its machines.

# shellcheck source=tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source=tpu/owner.sh
source "$(dirname "${BASH_SOURCE[0]}")/owner.sh"

WORKER=aloe-jax/tpu/worker.sh # on the machines, from the home directory
LOST="SUSPENDING SUSPENDED DELETING FAILED ABSENT" # states of a slice that will not come back

quoted() {
  printf '%q' "$1"
  shift
  (($# == 0)) || printf ' %q' "$@"
  echo
}

# Execute a command, or print it in a dry run.
run() {
  if [[ $DRY_RUN == yes ]]; then quoted "$@"; else "$@"; fi
}

# slice_command SUBCOMMAND ...: gcloud on the queued resource, into COMMAND_LINE.
slice_command() {
  COMMAND_LINE=(gcloud compute tpus queued-resources "$@" "--project=$PROJECT" "--zone=$ZONE")
}

# bounded COMMAND ...: like COMMAND, which is killed with all that it started when it takes longer than a call may.
bounded() (
  set +e -m # a process group of its own
  "$@" </dev/null &
  child=$!
  { sleep "${ALOE_GCLOUD_SECONDS:-180}" && kill -KILL -- "-$child"; } </dev/null >/dev/null 2>&1 &
  watch=$!
  wait "$child" 2>/dev/null
  status=$?
  kill -KILL -- "-$watch" 2>/dev/null
  wait "$watch" 2>/dev/null
  exit "$status"
)

# How gcloud is asked. Ctrl-C ends a question; a deletion, which it must not end, bounds them instead.
ask() { "$@"; }

# slice_state [TRIES]: one of the states of https://cloud.google.com/tpu/docs/queued-resources, or ABSENT. Fails when
# gcloud cannot tell, with what it said on stderr.
slice_state() {
  local said try tries=${1:-3}
  for ((try = 1; try <= tries; try++)); do
    slice_command describe "$NAME" "--format=value(state.state)"
    if said=$(ask "${COMMAND_LINE[@]}" 2>&1); then # warnings may be among it
      said=$(grep -xE '[A-Z_]+' <<<"$said" | tail -n 1) || true
      echo "${said:-UNKNOWN}"
      return 0
    elif is_not_found "$said"; then
      echo ABSENT
      return 0
    fi
    ((try == tries)) || sleep "$POLL_SECONDS"
  done
  printf '%s\n' "$said" >&2 || true
  return 1
}

# Whether gcloud says that there is no slice of the name. That a project or a zone was not found says nothing of it;
# where the words leave it open, the list of all slices tells.
is_not_found() {
  local line names
  [[ $1 =~ NOT_FOUND|"was not found" ]] || return 1
  while IFS= read -r line; do
    if [[ $line =~ NOT_FOUND|"was not found" && $line =~ [/\'\"]${NAME}[\'\"] ]]; then return 0; fi
  done <<<"$1"
  slice_command list "--format=value(name)"
  names=$(ask "${COMMAND_LINE[@]}" 2>/dev/null) || return 1
  ! grep -qE "(^|/)$NAME\$" <<<"$names"
}

is_lost() {
  [[ " $LOST " == *" $1 "* ]]
}

# Whether the slice, or one of several, was taken away. The state of the request can lag behind that of its machines.
slice_is_lost() {
  local state node
  state=$(slice_state) || return 1
  if is_lost "$state"; then return 0; fi
  [[ $state == ACTIVE ]] || return 1
  for node in $(node_names); do
    state=$(gcloud compute tpus tpu-vm describe "$node" "--project=$PROJECT" "--zone=$ZONE" \
      "--format=value(state)" 2>/dev/null) || continue
    case $state in PREEMPTED | TERMINATED | STOPPING | STOPPED | DELETING | HIDING | HIDDEN) return 0 ;; esac
  done
  return 1
}

# Wait until the slice is there. Fails, telling what gcloud says, when the request has ended without one.
await_slice() {
  local state last=''
  while :; do
    state=$(slice_state) || return 1
    [[ $state == "$last" ]] || say "$NAME: $state"
    [[ $state != ACTIVE ]] || return 0
    if is_lost "$state"; then
      slice_command describe "$NAME" "--format=yaml(state)"
      [[ $state == ABSENT ]] || "${COMMAND_LINE[@]}" >&2 || true
      return 1
    fi
    last=$state
    sleep "$POLL_SECONDS"
  done
}

node_names() {
  local slice
  if ((SLICES == 1)); then
    echo "$NAME"
  else
    for ((slice = 0; slice < SLICES; slice++)); do echo "$NAME-$slice"; done
  fi
}

# on_workers TEXT: a command on every machine of every slice, in the home directory.
on_workers() {
  local through=()
  [[ $INTERNAL == no ]] || through=(--tunnel-through-iap)
  slice_command ssh "$NAME" --node=all --worker=all "--command=$1" ${through[@]+"${through[@]}"}
  run "${COMMAND_LINE[@]}"
}

# copy_to_workers FILE NAME: a file into the home directory of every machine, with its mode.
copy_to_workers() {
  local through=()
  [[ $INTERNAL == no ]] || through=(--tunnel-through-iap)
  slice_command scp "$1" "$NAME:$2" --node=all --worker=all --scp-flag=-p ${through[@]+"${through[@]}"}
  run "${COMMAND_LINE[@]}"
}

# Whether the run has written that it is complete.
is_finished() {
  gcloud storage cat "$OUTPUT/$FINISHED" "--project=$PROJECT" >/dev/null 2>&1
}
