#!/usr/bin/env bash
# Measures on one GPU what is asked of one: training at batch 16 with 171 classes, the sliding window with 150 and 847
# classes, everything in bfloat16; then, given the folder of the published PyTorch program, both programs side by side.
#
#   benchmarks/gpu.sh [FOLDER]
#   JAX_PLATFORMS=cpu AHS_SEG_SIZE=tiny AHS_SEG_BATCH=2 AHS_SEG_QUICK=1 AHS_SEG_RESULTS=dry_run benchmarks/gpu.sh
#
# The second line tries all of it on a CPU with the small model, in minutes. Settings, from the environment:
#   AHS_SEG_SIZE     tiny, vitb16 (default) or vitl14_336; the published program is always of the size vitb16
#   AHS_SEG_DTYPE    bfloat16 (default) or float32
#   AHS_SEG_BATCH    images of a training step (default: 16)
#   AHS_SEG_DEVICE   of the published program: cuda (default) or cpu
#   AHS_SEG_QUICK    1: fewer repetitions
#   AHS_SEG_RESULTS  folder of the result files; by default benchmarks/results, whose pages are in docs/. Another folder
#                    gets a page of its own, performance.md.
#
# Needed: pip install -e ".[cuda,bench]", and for FOLDER the extra convert and a CUDA build of torch.
set -euo pipefail
cd "$(dirname "$0")/.."
size=${AHS_SEG_SIZE:-vitb16} dtype=${AHS_SEG_DTYPE:-bfloat16} batch=${AHS_SEG_BATCH:-16} device=${AHS_SEG_DEVICE:-cuda}
results=${AHS_SEG_RESULTS:-benchmarks/results}
quick=(${AHS_SEG_QUICK:+--quick})
date=$(date +%F)
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # so that peak memory is what was needed
mkdir -p "$results"
status=0

measure() {
  python -m benchmarks.run --size "$size" --dtype "$dtype" "${quick[@]}" "$@" || status=1
}

# All classes at once, and three passes of 57 classes whose backward pass computes again what is cheap.
training=(--batch "$batch" --output "$results/gpu_training_$date.json")
training+=(--only train_step train_forward_backward 'part_*')
measure --class-chunk 0 --remat none "${training[@]}"
measure --class-chunk 57 --remat cheap "${training[@]}"
measure --only whole_image sliding_window sliding_window_847 classes_847 text_encoding start_up \
  --output "$results/gpu_inference_$date.json"
if [ $# -gt 0 ]; then
  python -m benchmarks.published.side_by_side --program "$1" --device "$device" --dtype "$dtype" --class-chunk 0 \
    --batch "$batch" --work training whole sliding --rounds 3 --repetitions 5 \
    --output "$results/gpu_side_by_side_$date.json" || status=1
fi

page=docs/performance.md
if [ "$results" != benchmarks/results ]; then
  cp "$page" "$results/performance.md"
  page=$results/performance.md
fi
python -m benchmarks.report "$results"/*.json --page "$page"
exit $status
