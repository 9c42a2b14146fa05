#!/bin/bash
# Train a recipe on two nodes, with one process on each node. To resume the training, run `sbatch slurm.sh` again.
#SBATCH --job-name=keras-cnns
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# For nodes with four GPUs, add `#SBATCH --gpus-per-node=4`.
set -euo pipefail

export KERAS_BACKEND=jax
COORDINATOR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):9300"
export COORDINATOR

# If one process fails, the other processes end by themselves. --kill-on-bad-exit ends them immediately.
srun --kill-on-bad-exit=1 bash -c 'exec keras-cnns train \
    --recipe cifar10-resnet20 \
    --run runs/cifar10-resnet20 \
    --coordinator "$COORDINATOR" \
    --processes "$SLURM_NTASKS" \
    --process-id "$SLURM_PROCID"'
