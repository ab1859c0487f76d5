#!/usr/bin/env bash
# An example for SLURM: two nodes with four GPUs each, one process a GPU (JAX's own choice under SLURM).
#
#   sbatch scripts/slurm.sh --config=configs/vitb.py --workdir=/shared/runs/vitb [more flags of the program]
#
# The job is put back into the queue when it is preempted, when its time runs out, and when a node is lost: the program
# then has saved, or keeps its newest checkpoint, and exits with 75 ("try again", see ahs_seg_jax/errors.py; 134 is
# JAX's own end of a run whose first process was lost). The workdir must be on a file system that all nodes share.
#SBATCH --job-name=ahs_seg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log
# SIGTERM to the program, not to this script, two minutes before the end.
#SBATCH --signal=TERM@120
set -uo pipefail

srun --kill-on-bad-exit=0 .venv/bin/python -u -m ahs_seg_jax.main --distributed "$@"
code=$?
if [[ $code -eq 75 || $code -eq 134 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
