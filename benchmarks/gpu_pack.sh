#!/usr/bin/env bash
# Packs what a machine with a GPU and no network lacks for benchmarks/gpu.sh: wheels, the published program, the full-size
# golden numbers. The folder is to lie in the checkout that goes there; git ignores it.
#
#   benchmarks/gpu_pack.sh PROGRAM [SHARED]
#
# PROGRAM holds the published PyTorch program, SHARED golden/ with the full-size numbers. Settings, from the environment:
#   AHS_SEG_PACK    the folder (default: gpu_pack)
#   AHS_SEG_PYTHON  version of Python on that machine (default: 3.12)
#   PYTHON          the program here (default: python3)
#
# The wheels are those of benchmarks/gpu_wheels.txt: the machine has JAX with CUDA, Flax, Optax, Orbax, transformers and
# torch already, and what these need.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} pack=${AHS_SEG_PACK:-gpu_pack} version=${AHS_SEG_PYTHON:-3.12}
platforms=()
for glibc in 2_28 2_27 2_17 2_5; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)

rm -rf "$pack/wheels" "$pack/program" "$pack/shared"
mkdir -p "$pack/wheels"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
  "${platforms[@]}" --dest "$pack/wheels" --requirement benchmarks/gpu_wheels.txt
# What tensorflow-datasets needs besides and nobody publishes as a wheel: pure Python, so that it is the same everywhere.
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$pack/wheels" 'promise>=2.3,<3'
if [ $# -gt 0 ]; then
  mkdir -p "$pack/program"
  cp -r "$1/." "$pack/program"
  rm -rf "$pack/program/.git"
fi
if [ $# -gt 1 ]; then
  mkdir -p "$pack/shared"
  cp -r "$2/golden" "$pack/shared"
fi
du -sh "$pack"/*
