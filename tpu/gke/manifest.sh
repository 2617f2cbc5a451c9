#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"
read_arguments "Print a JobSet that trains on TPU slices of a GKE cluster: tpu/gke/manifest.sh | kubectl apply -f -
Uses NAME, SLICES, TIER, ACCELERATOR_TYPE, OUTPUT, CONFIG and OVERRIDE of the settings, and those below." \
  "IMAGE=: the container image, built from tpu/gke/Dockerfile" \
  "TOPOLOGY=: chips of a slice, as the node pool has them: 4x4, 2x2x2" \
  "CHIPS=: chips of one machine of the pool: 4 (the usual), 1 or 8" \
  "ACCOUNT=: the Kubernetes service account that may use the bucket" \
  "SECRET=: a Kubernetes secret whose keys become environment variables" -- "$@"

IMAGE='' TOPOLOGY='' CHIPS=4 ACCOUNT=default SECRET=''
others=()
for pair in ${GIVEN[@]+"${GIVEN[@]}"}; do
  case $pair in
    IMAGE=* | TOPOLOGY=* | CHIPS=* | ACCOUNT=* | SECRET=*) printf -v "${pair%%=*}" '%s' "${pair#*=}" ;;
    *) others+=("$pair") ;;
  esac
done
GIVEN=(${others[@]+"${others[@]}"})
read_settings
[[ -n $IMAGE ]] || die "IMAGE is missing; build one from tpu/gke/Dockerfile and give IMAGE=..."
[[ $IMAGE =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]*$ ]] || die "IMAGE: $IMAGE is not the name of a container image"
for key in ACCOUNT SECRET; do
  [[ ${!key} =~ ^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$ ]] || die "$key: ${!key} must be lower-case letters, digits, - and ."
done
[[ $TOPOLOGY =~ ^[0-9]+x[0-9]+(x[0-9]+)?$ ]] || die "TOPOLOGY: ${TOPOLOGY:-nothing} must be such as 4x4 or 2x2x2"
[[ $CHIPS =~ ^[148]$ ]] || die "CHIPS: $CHIPS must be 1, 4 or 8"
[[ $COMMAND == train ]] || die "COMMAND: the manifest is for train; run evaluate on a slice of one machine (tpu/run.sh)"
case $ACCELERATOR_TYPE in
  v5litepod-*) kind=tpu-v5-lite-podslice ;;
  v5p-*) kind=tpu-v5p-slice ;;
  v4-*) kind=tpu-v4-podslice ;;
  v6e-*) kind=tpu-v6e-slice ;;
  *) die "ACCELERATOR_TYPE: $ACCELERATOR_TYPE has no node label known here; v5litepod, v5p, v4 and v6e have" ;;
esac
chips=$((${TOPOLOGY//x/ * }))
((chips % CHIPS == 0)) || die "CHIPS: $TOPOLOGY is $chips chips, which machines of $CHIPS do not make up"

arguments='' tier='' secret=''
for argument in --config "$CONFIG" "output=$OUTPUT" ${OVERRIDES[@]+"${OVERRIDES[@]}"}; do
  arguments+=$'\n'"                - '${argument//\'/\'\'}'"
done
[[ $TIER != spot ]] || tier=$'\n''                cloud.google.com/gke-spot: "true"'
[[ -z $SECRET ]] || secret=$'\n'"                envFrom:"$'\n'"                - secretRef: {name: $SECRET}"

cat <<TEXT
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    # All pods of a slice on the machines of one node pool.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  # A pod that was told to end has saved, and all start again together from there.
  failurePolicy: {maxRestarts: 100}
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $((chips / CHIPS))
          completions: $((chips / CHIPS))
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              serviceAccountName: $ACCOUNT
              terminationGracePeriodSeconds: 120
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $kind
                cloud.google.com/gke-tpu-topology: $TOPOLOGY$tier
              containers:
              - name: train
                image: $IMAGE
                command: [bash, tpu/gke/job.sh]
                args:$arguments
                resources:
                  requests: {google.com/tpu: $CHIPS}
                  limits: {google.com/tpu: $CHIPS}$secret
TEXT
