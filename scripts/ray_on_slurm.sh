#!/bin/bash
# A Ray cluster over the machines of one Slurm job, and the study on it. Submit it again whenever time ran out:
# what has a record is left alone, and long runs go on from their checkpoints.
#
#   sbatch --nodes=2 --gpus-per-node=8 --time=24:00:00 scripts/ray_on_slurm.sh method
#
# The repository, its environment and MMPEFT_CACHE must lie on a folder that every machine sees.
#SBATCH --job-name=mmpeft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
set -euo pipefail

QUESTION=${1:?which question? for example: method}
SCALE=${SCALE:-paper}
GPUS_PER_RUN=${GPUS_PER_RUN:-1}
PORT=${PORT:-6379}
PYTHON=${PYTHON:-.venv/bin/python}
RAY="$(dirname "$PYTHON")/ray"

mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

# --block keeps a machine's part of the cluster alive as long as its job step.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    "$RAY" start --head --node-ip-address="$address" --port="$PORT" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 20
if ((${#machines[@]} > 1)); then
    srun --nodes=$((${#machines[@]} - 1)) --ntasks=$((${#machines[@]} - 1)) --exclude="$head" \
        "$RAY" start --address="$address:$PORT" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
    sleep 20
fi

"$PYTHON" -m mmpeft run "$QUESTION" --scale "$SCALE" --engine ray --address "$address:$PORT" \
    --gpus-per-run "$GPUS_PER_RUN" --cores-per-run 4 --checkpoint-every 50
