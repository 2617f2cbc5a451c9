#!/usr/bin/env bash
# What happens on a machine of the slice; the scripts beside it call this over ssh.
#   install                        the environment, from ALOE_LOCK or tpu/requirements.lock
#   start LOGS MARK COMMAND ...    COMMAND in a session of its own; its log goes to the bucket directory LOGS, and the
#                                  object MARK is written when COMMAND has ended well; "-" for neither
#   state                          one line: aloe-worker HOST running|exited N|idle, and the last line of the log
#   tail LINES                     the end of the log
#   stop                           ask COMMAND to save and end
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
HOST=$(hostname)
STATE=${ALOE_STATE:-$HOME/.aloe} # log, lock, pid and exit status of the job
LOG_SECONDS=${ALOE_LOG_SECONDS:-60}
LOCK=${ALOE_LOCK:-tpu/requirements.lock}
PLACE=${ALOE_ENVIRONMENT:-.venv}
mkdir -p "$STATE"

install_environment() {
  local stamp
  stamp=$(cat "$LOCK" setup.cfg | sha256sum)
  if [[ -x $PLACE/bin/python && $(cat "$PLACE/.ready" 2>/dev/null) == "$stamp" ]]; then
    echo "$HOST: the environment is there"
    return
  fi
  export PATH=$HOME/.local/bin:$PATH
  local uv
  uv="uv==$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)"
  # Ubuntu 24.04 and later keep pip out of the system's Python unless told.
  command -v uv >/dev/null || python3 -m pip install --quiet --user "$uv" ||
    python3 -m pip install --quiet --user --break-system-packages "$uv"
  uv venv --quiet --clear --python 3.12 "$PLACE"
  uv pip install --quiet --python "$PLACE/bin/python" -r "$LOCK"
  uv pip install --quiet --python "$PLACE/bin/python" --no-deps --editable .
  echo "$stamp" >"$PLACE/.ready"
  echo "$HOST: installed"
}

start() {
  exec 9>"$STATE/lock"
  if ! flock -w 2 9; then
    echo "$HOST: is running already"
    return
  fi
  rm -f "$STATE/status"
  # A session of its own: the end of the connection does not reach it. It inherits the lock, and holds it to its end.
  setsid nohup bash tpu/worker.sh job "$@" </dev/null >/dev/null 2>&1 &
  echo "$HOST: started"
}

job() {
  local logs=$1 mark=$2 status=0 child
  shift 2
  # A machine that is taken away sends SIGTERM to all processes at once: COMMAND saves by itself, and passing the signal
  # on would be its second, which ends it without saving.
  local signalled=no
  trap 'signalled=yes' TERM INT HUP
  (
    read_secrets
    # shellcheck disable=SC1091
    source "$PLACE/bin/activate"
    exec "$@"
  ) >>"$STATE/log" 2>&1 &
  child=$!
  echo "$child" >"$STATE/pid"
  upload_log "$logs" 9>&- &
  local uploading=$!
  while :; do
    signalled=no
    wait "$child" && status=0 || status=$?
    [[ $signalled == yes ]] || break # the signal ended only the waiting
  done
  kill "$uploading" 2>/dev/null || true
  if [[ $status == 0 && $mark != - ]]; then
    echo '{"finished": true}' | gcloud storage cp - "$mark" || status=1
  fi
  echo "ended with status $status" >>"$STATE/log"
  [[ $logs == - ]] || gcloud storage cp "$STATE/log" "$logs/$HOST.log" || true
  echo "$status" >"$STATE/status"
}

# Keys for COMMAND: from the file that setup copied, and from Secret Manager. They go into its environment only.
read_secrets() {
  local pair line value
  if [[ -f $HOME/.aloe-secrets.env ]]; then
    chmod 600 "$HOME/.aloe-secrets.env"
    while IFS= read -r line || [[ -n $line ]]; do
      [[ $line != [A-Za-z_]*=* ]] || export "${line?}"
    done <"$HOME/.aloe-secrets.env"
  fi
  for pair in ${SECRETS:-}; do
    value=$(gcloud secrets versions access latest "--secret=${pair#*=}")
    export "${pair%%=*}=$value"
  done
  unset SECRETS
}

upload_log() {
  [[ $1 != - ]] || return 0
  while sleep "$LOG_SECONDS"; do
    gcloud storage cp "$STATE/log" "$1/$HOST.log" >/dev/null 2>&1 || true
  done
}

state() {
  local what=idle
  if ! flock -n "$STATE/lock" true; then
    what=running
  elif [[ -f $STATE/status ]]; then
    what="exited $(cat "$STATE/status")"
  fi
  printf 'aloe-worker %s %s | %s\n' "$HOST" "$what" "$(tail -n 1 "$STATE/log" 2>/dev/null || true)"
}

# SIGTERM lets COMMAND save; one that waits for a machine that is gone never gets to it.
stop() {
  for signal in TERM KILL; do
    flock -n "$STATE/lock" true && return
    kill "-$signal" "$(cat "$STATE/pid")" 2>/dev/null || true
    flock -w "${ALOE_STOP_SECONDS:-120}" "$STATE/lock" true && return
  done
}

case ${1:-} in
  install) install_environment ;;
  start | job) "$@" ;;
  state) state ;;
  tail) tail -n "$2" "$STATE/log" | sed "s/^/$HOST | /" ;;
  stop) stop ;;
  *) sed -n '2,9s/^# \{0,1\}//p' tpu/worker.sh >&2 && exit 2 ;;
esac
