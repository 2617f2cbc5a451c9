#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Put this code on every machine of the slice and install the locked environment
(tpu/requirements.lock)." \
  "--same-code: install what an earlier setup has put into the bucket, not what lies here now" -- "$@"
read_settings

code=$OUTPUT/code.tar.gz
if [[ ${SAME_CODE:-no} == no ]]; then
  archive=code.tar.gz
  if [[ $DRY_RUN == no ]]; then
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
  fi
  files=(aloe_jax datagen configs tpu requirements.lock setup.cfg pyproject.toml README.md LICENSE)
  [[ $CONFIG == configs/* ]] || files+=("$CONFIG")
  run tar -C "$ROOT" --exclude=__pycache__ --exclude='*.env' -czf "$archive" "${files[@]}"
  run gcloud storage cp "$archive" "$code" "--project=$PROJECT"
fi
[[ -z $SECRETS_FILE ]] || copy_to_workers "$SECRETS_FILE" .aloe-secrets.env
on_workers "set -e; gcloud storage cp $(quoted "$code") code.tar.gz; mkdir -p aloe-jax
tar -C aloe-jax -xzf code.tar.gz; bash $WORKER install"
