# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it
# Sourced by the scripts beside it: reads the settings, and refuses what is missing, misspelt or impossible.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ROOT="$(dirname "$HERE")"
REQUIRED="NAME PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION OUTPUT COMMAND CONFIG"
OPTIONAL="SLICES TIER SERVICE_ACCOUNT NETWORK SUBNETWORK INTERNAL SECRETS_FILE SECRETS WAIT_AT_MOST POLL_SECONDS"
OPTIONAL+=" RESTARTS"
FINISHED=finished.json # what a finished run holds, beside its config.yaml
OVERRIDES=()
DRY_RUN=no

# Nothing that is printed may end a script before it has deleted what it rented: not a reader that is gone (| tee, a
# closed terminal), not a full disk, not a closed descriptor, which the next file to be opened would become.
trap '' PIPE
true >&2 || exec 2>/dev/null
true >&1 || exec >/dev/null

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2 || true
  exit 1
}

say() {
  printf '%s %s\n' "$(date '+%H:%M:%S')" "$*" >&2 || true
}

# usage "what it does" ["--option: what it means" ...]: what --help prints.
usage() {
  printf 'Usage: tpu/%s [--settings FILE] [--dry-run]%s [KEY=value ...]\n\n%s\n\n' \
    "$(basename "$0")" "${2:+ [options]}" "$1"
  printf '  %-18s %s\n' "--settings FILE" "instead of tpu/settings.env; tpu/settings.example.env explains it" \
    "--dry-run" "print the exact commands and execute none" \
    "KEY=value" "a setting, in place of the file's"
  shift
  for option in "$@"; do printf '  %-18s %s\n' "${option%%: *}" "${option#*: }"; done
}

# read_arguments "help" "--option: meaning" ... -- ARGUMENTS: sets SETTINGS_FILE, DRY_RUN, GIVEN and, for an option
# --some-thing of the script's own, SOME_THING=yes.
read_arguments() {
  local about=() own
  while [[ $1 != -- ]]; do
    about+=("$1")
    shift
  done
  shift
  SETTINGS_FILE="$HERE/settings.env" GIVEN=() PASSED=()
  for option in "${about[@]:1}"; do printf -v "$(variable "$option")" ''; done # whatever the environment has
  while (($#)); do
    case $1 in
      --help | -h)
        usage "${about[@]}"
        exit 0
        ;;
      --settings)
        (($# > 1)) || die "--settings: give a file"
        SETTINGS_FILE=$2
        shift
        ;;
      --dry-run) DRY_RUN=yes ;;
      [A-Z]*=*) GIVEN+=("$1") ;;
      *)
        own=no
        for option in "${about[@]:1}"; do
          [[ $1 == "${option%%: *}" ]] && own=yes
        done
        [[ $own == yes ]] || die "$1: not an option; see --help"
        PASSED+=("$1")
        printf -v "$(variable "$1")" yes
        ;;
    esac
    shift
  done
}

# variable "--some-thing: meaning": SOME_THING
variable() {
  local option=${1%%: *}
  option=${option#--}
  option=${option%=}
  printf '%s' "${option//-/_}" | tr '[:lower:]' '[:upper:]'
}

read_settings() {
  local key
  for key in $REQUIRED; do printf -v "$key" ''; done
  SLICES=1 TIER=spot INTERNAL=no POLL_SECONDS=30 RESTARTS=3
  SERVICE_ACCOUNT='' NETWORK='' SUBNETWORK='' SECRETS_FILE='' SECRETS='' WAIT_AT_MOST=''
  [[ -f $SETTINGS_FILE ]] ||
    die "$SETTINGS_FILE: not found; copy tpu/settings.example.env there and fill it in, or give --settings FILE"
  local line number=0
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ -z ${line// /} || $line == \#* ]] || set_one "$line" "$SETTINGS_FILE line $number"
  done <"$SETTINGS_FILE"
  for line in ${GIVEN[@]+"${GIVEN[@]}"}; do set_one "$line" "$line"; done
  check_settings
}

set_one() {
  local key=${1%%=*} value=${1#*=}
  [[ $1 == *=* ]] || die "$2: write KEY=value"
  [[ $1 != *[[:cntrl:]]* ]] || die "$key: a value is one line, without control characters"
  if [[ $key == OVERRIDE ]]; then
    [[ $value == ?*=* ]] || die "$2: write OVERRIDE=section.key=value"
    [[ $value != output=* ]] || die "$2: the output is set by OUTPUT; leave this line out"
    OVERRIDES+=("$value")
  elif [[ " $REQUIRED $OPTIONAL " == *" $key "* ]]; then
    printf -v "$key" '%s' "$value"
  else
    die "$2: unknown setting $key; did you mean $(nearest "$key")?"
  fi
}

# The known setting with the fewest letters changed, put in or left out.
nearest() {
  tr ' ' '\n' <<<"$REQUIRED $OPTIONAL OVERRIDE" | awk -v given="$1" '
    function least(a, b) { return a < b ? a : b }
    {
      for (j = 0; j <= length($0); j++) before[j] = j
      for (i = 1; i <= length(given); i++) {
        row[0] = i
        for (j = 1; j <= length($0); j++) {
          swap = before[j - 1] + (substr(given, i, 1) != substr($0, j, 1))
          row[j] = least(swap, least(before[j], row[j - 1]) + 1)
        }
        for (j = 0; j <= length($0); j++) before[j] = row[j]
      }
      if (best == "" || before[length($0)] < cost) { best = $0; cost = before[length($0)] }
    }
    END { print best }'
}

check_settings() {
  local key
  for key in $REQUIRED; do
    [[ -n ${!key:-} ]] || die "$SETTINGS_FILE: $key is missing; tpu/settings.example.env says what it is"
  done
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$ ]] ||
    die "NAME: $NAME must be lower-case letters, digits and hyphens, at most 42, beginning with a letter"
  [[ $OUTPUT =~ ^gs://[^/]+/.+[^/]$ ]] ||
    die "OUTPUT: $OUTPUT must be gs://BUCKET/DIRECTORY, without a slash at the end"
  [[ $COMMAND == train || $COMMAND == evaluate ]] || die "COMMAND: $COMMAND must be train or evaluate"
  [[ $TIER == spot || $TIER == on-demand || $TIER == reserved ]] ||
    die "TIER: $TIER must be spot, on-demand or reserved"
  [[ $INTERNAL == yes || $INTERNAL == no ]] || die "INTERNAL: $INTERNAL must be yes or no"
  [[ $SLICES =~ ^[1-9][0-9]*$ ]] || die "SLICES: $SLICES must be a whole number above 0"
  [[ $RESTARTS =~ ^[0-9]+$ ]] || die "RESTARTS: $RESTARTS must be a whole number"
  [[ $POLL_SECONDS =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "POLL_SECONDS: $POLL_SECONDS must be a number of seconds"
  [[ $WAIT_AT_MOST =~ ^([0-9]+[smhd])?$ ]] || die "WAIT_AT_MOST: $WAIT_AT_MOST must be a time such as 90m, 6h or 2d"
  [[ $CONFIG != /* && $CONFIG != *..* && -f $ROOT/$CONFIG ]] ||
    die "CONFIG: $CONFIG is no file under $ROOT; give its path from there, such as configs/demo/dpo.yaml"
  # The benchmark and on-policy training run in one process.
  local alone=''
  [[ $COMMAND == train ]] || alone=$COMMAND
  ! grep -qE '^stage: *rl\b' "$ROOT/$CONFIG" || alone="stage: rl"
  [[ -z $alone || ($SLICES == 1 && $ACCELERATOR_TYPE =~ ^(v5litepod-[148]|v6e-[148]|v5p-8|v4-8)$) ]] ||
    die "ACCELERATOR_TYPE: $alone needs one slice of one machine, such as v5litepod-8, not $SLICES x $ACCELERATOR_TYPE"
  check_secrets
}

check_secrets() {
  local pair
  for pair in $SECRETS; do
    [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9_-]+$ ]] ||
      die "SECRETS: $pair must be VARIABLE=name, the name of a secret in Secret Manager and not the secret itself"
  done
  [[ -n $SECRETS_FILE ]] || return 0
  [[ -f $SECRETS_FILE ]] || die "SECRETS_FILE: $SECRETS_FILE not found"
  [[ $(stat -L -c %a "$SECRETS_FILE" 2>/dev/null || stat -L -f %Lp "$SECRETS_FILE") == [4-7]00 ]] ||
    die "SECRETS_FILE: others may read $SECRETS_FILE; run: chmod 600 $SECRETS_FILE"
  ! grep -qvE '^([A-Za-z_][A-Za-z0-9_]*=.*|#.*|)$' "$SECRETS_FILE" ||
    die "SECRETS_FILE: $SECRETS_FILE must hold KEY=value lines only"
}
