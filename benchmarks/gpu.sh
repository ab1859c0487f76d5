#!/usr/bin/env bash
# Measures on one GPU what is asked of one: training at batch 16 with 171 classes, the sliding window with 150 and 847
# classes, everything in bfloat16; then, given the folder of the published PyTorch program, both beside each other.
#
#   benchmarks/gpu.sh [FOLDER]
#
# Needed: pip install -e ".[cuda,bench]", and for FOLDER a CUDA build of torch.
set -euo pipefail
cd "$(dirname "$0")/.."
results=${AHS_SEG_RESULTS:-benchmarks/results}
date=$(date +%F)
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # so that peak memory is what was needed
status=0

for chunk in 0 57; do  # all classes at once, and three passes with recomputation
  remat=$((chunk > 0))
  python -m benchmarks.run --size vitb16 --dtype bfloat16 --batch 16 --class-chunk "$chunk" --remat "$remat" \
    --only train_step train_forward_backward 'part_*' --output "$results/gpu_training_$date.json" || status=1
done
python -m benchmarks.run --size vitb16 --dtype bfloat16 --output "$results/gpu_inference_$date.json" \
  --only whole_image sliding_window sliding_window_847 classes_847 text_encoding start_up || status=1
if [ $# -gt 0 ]; then
  python -m benchmarks.published.side_by_side --program "$1" --device cuda --dtype bfloat16 --class-chunk 0 --batch 16 \
    --work training whole sliding --rounds 3 --repetitions 5 --output "$results/gpu_side_by_side_$date.json" || status=1
fi
python -m benchmarks.report "$results"/*.json
exit $status
