#!/bin/bash
# Train a recipe on two nodes, one process on each. Run `sbatch slurm.sh` again to resume.
#SBATCH --job-name=keras-cnns
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# Add `#SBATCH --gpus-per-node=4` for nodes with GPUs.
set -euo pipefail

export KERAS_BACKEND=jax
COORDINATOR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):9300"
export COORDINATOR

# If one process ends, the others end too; --kill-on-bad-exit does not wait for them.
srun --kill-on-bad-exit=1 bash -c 'exec keras-cnns train \
    --recipe cifar10-resnet20 \
    --run runs/cifar10-resnet20 \
    --coordinator "$COORDINATOR" \
    --processes "$SLURM_NTASKS" \
    --process-id "$SLURM_PROCID"'
