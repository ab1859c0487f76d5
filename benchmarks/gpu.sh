#!/usr/bin/env bash
# Measures on one GPU what is asked of one, and says whether the published programs' golden numbers hold there.
#
#   benchmarks/gpu.sh [FOLDER]
#   JAX_PLATFORMS=cpu AHS_SEG_DEVICE=cpu AHS_SEG_SIZE=tiny AHS_SEG_LARGE=tiny AHS_SEG_BATCH=2 AHS_SEG_QUICK=1 \
#     AHS_SEG_RESULTS=dry_run AHS_SEG_STAGES="training inference large" benchmarks/gpu.sh
#
# FOLDER holds the published PyTorch program, for the stage published; by default the one that was packed. The second
# line tries it on a CPU with the small model, in minutes. Settings, from the environment:
#   AHS_SEG_STAGES   what is done, of: goldens training inference large published (default: all, in this order)
#   AHS_SEG_MINUTES  stop after so many minutes; the same command goes on where it stopped (default: no end)
#   AHS_SEG_PACK     what benchmarks/gpu_pack.sh has packed, for a machine without a network (default: gpu_pack, if there)
#   AHS_SEG_RESULTS  folder of the result files; by default benchmarks/results, whose pages are in docs/. Another folder
#                    begins with today's files of benchmarks/results, and gets a page of its own, performance.md
#   AHS_SEG_SIZE     tiny, vitb16 (default) or vitl14_336; the published program is always of the size vitb16
#   AHS_SEG_LARGE    of the stage large (default: vitl14_336)
#   AHS_SEG_DTYPE    bfloat16 (default) or float32
#   AHS_SEG_BATCH    images of a training step (default: 16)
#   AHS_SEG_DEVICE   of the published program: cuda (default) or cpu
#   AHS_SEG_BESIDE   further options of benchmarks.published.side_by_side, such as --weights FILE
#   AHS_SEG_QUICK    1: fewer repetitions
#   PYTHON           the program (default: python3)
#
# Needed: pip install -e ".[cuda,bench]" or a pack, pytest for the goldens, a CUDA build of torch for published.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} device=${AHS_SEG_DEVICE:-cuda} pack=${AHS_SEG_PACK:-gpu_pack}
size=${AHS_SEG_SIZE:-vitb16} large=${AHS_SEG_LARGE:-vitl14_336}
dtype=${AHS_SEG_DTYPE:-bfloat16} batch=${AHS_SEG_BATCH:-16}
results=${AHS_SEG_RESULTS:-benchmarks/results}
quick=(${AHS_SEG_QUICK:+--quick})
read -r -a beside <<< "${AHS_SEG_BESIDE:-}"
date=$(date +%F)
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # so that peak memory is what was needed
status=0

mkdir -p "$results"
if [ "$results" != benchmarks/results ]; then
  cp -n benchmarks/results/gpu_*_"$date".json "$results" 2> /dev/null || true
fi
if [ -d "$pack/wheels" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$pack"/wheels/*.whl
  export PYTHONPATH=$site:$PWD${PYTHONPATH:+:$PYTHONPATH}
fi
program=${1:-}
if [ -z "$program" ] && [ -d "$pack/program" ]; then program=$pack/program; fi

# A command, until the minutes are over. What it has measured by then is in its result file.
limited() {
  local left=$((${AHS_SEG_MINUTES:-100000} * 60 - SECONDS))
  if [ "$left" -lt 20 ]; then
    echo "no time left for: $*"
    status=1
  else
    timeout --kill-after=5 "$left" "$@" || status=1
  fi
}

measure() {
  limited "$python" -m benchmarks.run --dtype "$dtype" --timeout 480 "${quick[@]}" "$@"
}

goldens() {
  limited "$python" -m benchmarks.goldens --platform "${JAX_PLATFORMS:-cuda}" --output "$results/gpu_goldens_$date.json" \
    --shared "$pack/shared"
}

# All classes at once, three passes of 57 classes whose backward pass computes again what is cheap, and the windows'
# attention in one kernel.
training() {
  local asked=(--size "$size" --batch "$batch" --output "$results/gpu_training_$date.json")
  measure "${asked[@]}" --class-chunk 0 --remat none --only train_step train_forward_backward 'part_*'
  measure "${asked[@]}" --class-chunk 57 --remat cheap --only train_step train_forward_backward
  measure "${asked[@]}" --class-chunk 0 --remat none --window-attention cudnn --only train_step part_spatial
}

inference() {
  local asked=(--size "$size" --output "$results/gpu_inference_$date.json")
  measure "${asked[@]}" --only whole_image sliding_window sliding_window_847 classes_847 text_encoding start_up
  measure "${asked[@]}" --window-attention cudnn --only whole_image sliding_window
}

large() {
  measure --size "$large" --batch "$batch" --class-chunk 57 --remat cheap --output "$results/gpu_large_$date.json" \
    --only train_step whole_image sliding_window
}

# Every work by itself, so that one which fails or takes long does not take the others with it.
published() {
  local work
  if [ -z "$program" ]; then
    echo "the published program is left out: no FOLDER was given, and none is in $pack"
    return
  fi
  for work in whole sliding training; do
    limited "$python" -m benchmarks.published.side_by_side --program "$program" --device "$device" --dtype "$dtype" \
      --class-chunk 0 --batch "$batch" --work "$work" --compile --rounds 2 --repetitions 5 "${beside[@]}" \
      --output "$results/gpu_side_by_side_$date.json"
  done
}

for stage in ${AHS_SEG_STAGES:-goldens training inference large published}; do
  case $stage in
    goldens | training | inference | large | published) "$stage" ;;
    *) echo "error: AHS_SEG_STAGES has $stage; choose of goldens training inference large published" >&2; exit 2 ;;
  esac
done

page=docs/performance.md
if [ "$results" != benchmarks/results ]; then
  cp "$page" "$results/performance.md"
  page=$results/performance.md
fi
"$python" -m benchmarks.report "$results"/*.json --page "$page"
exit $status
