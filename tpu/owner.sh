# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it
# Sourced by slice.sh: whose the slice NAME is. Two people in one project easily choose the same name, and one person
# starts a second run under it: neither may take up, or delete, what the other pays for.
#
# Every request carries two labels: aloe_owner, a random word that this machine keeps for the name, and aloe_run, a
# digest of what is run.

MEMORY=${XDG_STATE_HOME:-$HOME/.local/state}/aloe-jax/slices # the words, and one lock a name
TAKEN=4                                                      # exit status where the name is another run's

# The file of this project, zone and name.
memory_file() {
  echo "$MEMORY/${PROJECT//[^A-Za-z0-9.:-]/_}.${ZONE//[^A-Za-z0-9.-]/_}.$NAME"
}

# This machine's word for the slice; a new one the first time. Fails when it cannot be kept.
owner_word() {
  local file word
  file=$(memory_file)
  if [[ ! -s $file ]]; then
    mkdir -p "$MEMORY" || return 1
    word=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
    # Of two processes that come here at once one writes, and both read that.
    (set -o noclobber && echo "$word" >"$file") 2>/dev/null || [[ -s $file ]] || return 1
  fi
  read -r word <"$file" || return 1
  [[ $word =~ ^[0-9a-f]{16}$ ]] || return 1
  echo "$word"
}

# A digest of what is run, as a label may hold it.
run_word() {
  local digest
  digest=$(printf '%s\n' "$COMMAND" "$CONFIG" "$OUTPUT" ${OVERRIDES[@]+"${OVERRIDES[@]}"} |
    { sha256sum 2>/dev/null || shasum -a 256; })
  echo "${digest:0:16}"
}

# What is known of the slice that has the name: its accelerator type, owner and run into THEIRS. Fails when gcloud
# does not say.
read_theirs() {
  local said spec='tpu.nodeSpec[0].node'
  slice_command describe "$NAME" \
    "--format=value[separator='|']($spec.acceleratorType,$spec.labels.aloe_owner,$spec.labels.aloe_run)"
  said=$(ask "${COMMAND_LINE[@]}" 2>/dev/null) || return 1
  said=$(grep '|.*|' <<<"$said" | tail -n 1)
  [[ -n $said ]] || return 1
  IFS='|' read -r THEIRS_KIND THEIRS_OWNER THEIRS_RUN <<<"$said"
}

# Whether the slice was requested from here: 0 yes, 1 no, 2 gcloud does not say.
is_ours() {
  local word
  word=$(owner_word) || return 2
  read_theirs || return 2
  [[ $THEIRS_OWNER == "$word" ]]
}

# From now on the slice counts as requested from here.
take_over() {
  local file
  file=$(memory_file)
  [[ $THEIRS_OWNER =~ ^[0-9a-f]{16}$ ]] ||
    die "$NAME: carries no label of an owner; delete it (tpu/delete.sh --others), or give another NAME"
  { mkdir -p "$MEMORY" && echo "$THEIRS_OWNER" >"$file.new" && mv "$file.new" "$file"; } ||
    die "$file: cannot be written; the slice would have no owner"
}

# Be the only run.sh of the name on this machine, until the process ends. File descriptor 9 has the lock.
lock_name() {
  local file busy
  file=$(memory_file).lock
  busy="$NAME: another tpu/run.sh of that name is running on this machine; wait for it, stop it, or give another NAME"
  mkdir -p "$MEMORY" || die "$MEMORY: cannot be made; set XDG_STATE_HOME to a directory that can be written"
  if command -v flock >/dev/null; then
    { exec 9>>"$file"; } 2>/dev/null || die "$file: cannot be written; set XDG_STATE_HOME to another directory"
    flock -n 9 || die "$busy"
    return
  fi
  # Without flock, as on macOS: a file with the process's number, which counts while that process is there.
  local other
  for _ in 1 2; do
    if (set -o noclobber && echo "$$" >"$file") 2>/dev/null; then return; fi
    read -r other <"$file" || other=''
    if [[ -n $other ]] && kill -0 "$other" 2>/dev/null; then die "$busy"; fi
    rm -f "$file"
  done
  die "$file: cannot be written; set XDG_STATE_HOME to another directory"
}
