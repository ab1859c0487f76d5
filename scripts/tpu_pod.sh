#!/usr/bin/env bash
# A run on a Cloud TPU slice, of one host or of many: the same program on every host, checkpoints in a bucket.
#
#   NAME=ahs ZONE=us-west4-a TYPE=v5litepod-16 WORKDIR=gs://bucket/runs/vitb CONFIG=configs/vitb.py \
#     scripts/tpu_pod.sh [--dry-run] create|install|run|resume|status|fetch|delete [flags of the program]
#
#   create   the slice (SPOT=1: a preemptible one, cheaper; QUEUED=1: as a queued resource, which larger and preemptible
#            slices are mostly had as; it waits until the slice is there, and may be called again to wait on)
#   install  Python 3.12 by uv (the slices' own is too old), this repository and its dependencies, on every host
#   run      the program on every host, in the background; it starts again after a preemption notice or a lost host
#   resume   after the slice itself was taken away: deletes what is left of it, then create, install, run
#   status   the last lines of every host's log
#   fetch    checkpoints, results and curves, to ./$(basename WORKDIR)
#   delete   the slice; WORKDIR stays
#   --dry-run prints every command instead of running it
#
# Needs the gcloud command, and hosts that reach astral.sh and PyPI. DATA (gs://...) is copied to every host and given to the program as AHS_SEG_DATA.
set -euo pipefail

dry=
[[ ${1:-} == --dry-run ]] && { dry=1; shift; }
action=${1:?usage: scripts/tpu_pod.sh [--dry-run] create|install|run|resume|status|fetch|delete}
shift
: "${NAME:?set NAME, of the slice}" "${ZONE:?set ZONE, such as us-west4-a}"

# The software of each generation's machines.
runtime() {
  case ${TYPE:?set TYPE, such as v5litepod-16} in
    v5litepod*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v6e*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

do_it() {
  if [[ $dry ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

tpu() {
  do_it gcloud compute tpus tpu-vm "$@" --zone="$ZONE"
}

everywhere() {
  tpu ssh "$NAME" --worker=all --command="$1"
}

queued() {
  do_it gcloud compute tpus queued-resources "$@" --zone="$ZONE"
}

create() {
  if [[ ${QUEUED:-} ]]; then
    create_queued
  else
    tpu create "$NAME" --accelerator-type="$TYPE" --version="${RUNTIME:-$(runtime)}" ${SPOT:+--spot}
  fi
}

create_queued() {
  if [[ $dry ]] || [[ -z $(queue_state) ]]; then
    queued create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="${RUNTIME:-$(runtime)}" \
      ${SPOT:+--spot}
  fi
  [[ $dry ]] || wait_for_slice
}

# The state of the queued resource, such as WAITING_FOR_RESOURCES or ACTIVE; nothing if there is none.
queue_state() {
  gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2>/dev/null || true
}

wait_for_slice() {
  local state
  while :; do
    state=$(queue_state)
    echo "$(date -u +%H:%M:%S) $NAME: ${state:-not in the queue}"
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING | "")
        echo "the slice $NAME will not come (${state:-not in the queue}): look at" \
          "'gcloud compute tpus queued-resources describe $NAME --zone=$ZONE', then delete and create it again" >&2
        return 1
        ;;
    esac
    sleep "${POLL_SECONDS:-30}"
  done
}

delete() {
  if [[ ${QUEUED:-} ]]; then queued delete "$NAME" --force --quiet; else tpu delete "$NAME" --quiet; fi
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  do_it git archive --format=tar.gz --output="$archive" HEAD
  tpu scp "$archive" "$NAME":ahs_seg_jax.tar.gz --worker=all
  rm -f "$archive"
  everywhere 'export PATH="$HOME/.local/bin:$PATH" &&
    { command -v uv >/dev/null || curl --proto "=https" -LsSf https://astral.sh/uv/install.sh | sh; } &&
    mkdir -p ahs_seg_jax && tar -xzf ahs_seg_jax.tar.gz -C ahs_seg_jax && cd ahs_seg_jax &&
    uv venv --quiet --clear --python 3.12 .venv && uv pip install --quiet --python .venv ".[tpu,gcs]"'
  if [[ ${DATA:-} ]]; then
    everywhere "mkdir -p data && gcloud storage rsync --recursive $(printf %q "$DATA") data"
  fi
}

run() {
  : "${CONFIG:?set CONFIG, such as configs/vitb.py}" "${WORKDIR:?set WORKDIR, gs://bucket/folder}"
  local program
  program=$(printf '%q ' .venv/bin/python -u -m ahs_seg_jax.main --distributed \
    --config="$CONFIG" --workdir="$WORKDIR" "$@")
  # It starts again after 75 (told to stop, or another host was lost) and 134 (JAX's own end: the first host was lost).
  everywhere "cd ahs_seg_jax && export AHS_SEG_DATA=\$HOME/data && nohup setsid bash -c '
    while :; do $program; case \$? in 75|134) sleep 10 ;; *) break ;; esac; done' > ../run.log 2>&1 < /dev/null &"
}

resume() {
  delete || true
  create
  install
  run "$@"
}

case $action in
  create | install) "$action" ;;
  run | resume) "$action" "$@" ;;
  status) everywhere 'tail -n 5 run.log' ;;
  fetch)
    do_it mkdir -p "$(basename "${WORKDIR:?set WORKDIR}")"
    do_it gcloud storage rsync --recursive "$WORKDIR" "$(basename "$WORKDIR")"
    ;;
  delete) delete ;;
  *) echo "unknown action $action; choose create, install, run, resume, status, fetch or delete" >&2; exit 2 ;;
esac
