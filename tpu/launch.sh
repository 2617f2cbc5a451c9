#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
read_arguments "Start COMMAND on every machine of the slice. It outlives this connection; a machine where it
runs already is left alone." -- "$@"
read_settings

job=(python -m "aloe_jax.$COMMAND" --config "$CONFIG" "output=$OUTPUT" ${OVERRIDES[@]+"${OVERRIDES[@]}"})
# Training writes $FINISHED itself, because it also leaves with status 0 when it was stopped and has saved.
mark=-
[[ $COMMAND == train ]] || mark=$OUTPUT/$FINISHED
on_workers "SECRETS=$(quoted "$SECRETS") bash $WORKER start $(quoted "$OUTPUT/logs" "$mark" "${job[@]}")"
