#!/bin/bash
# Trains a recipe under SLURM, one task a GPU. Near the time limit, or when the job is preempted, the run saves, ends
# with exit code 85 and is queued again; it goes on from the newest checkpoint until it is finished.
#
#   sbatch --nodes=4 recipes/launch/slurm.sh RECIPE [key=value ...]
#
# No launcher stands between srun and the tasks: torchrun and accelerate launch would turn exit code 85 into 1, and
# torchrun kills tasks that need more than 30 s to save. With plain srun the engine is DDP; a recipe or override names
# another one (parallel.engine=zero2). Edit the lines below for your cluster. Tried with stand-ins for srun, scontrol
# and scancel (tests/house/test_launch_scripts.py), not on a cluster.
#
#SBATCH --job-name=scal3r
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -u

SAVED_AND_STOPPED=85

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((10000 + SLURM_JOB_ID % 50000))
WORLD_SIZE=$SLURM_NTASKS
export MASTER_ADDR MASTER_PORT WORLD_SIZE

# SLURM tells this script alone (B:); srun itself would end the job step on TERM instead of passing it on.
trap 'scancel --quiet --signal=TERM "$SLURM_JOB_ID"' TERM

# --wait: when one task dies the others, which wait for it, are ended after two minutes.
# shellcheck disable=SC2016  # expanded by each task, not here
srun --wait=120 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python -m scal3r_train.train "$@"' \
    train "$@" &
step=$!

# A trapped signal interrupts `wait`, so the step is waited for until it is gone.
while kill -0 "$step" 2>/dev/null; do
    wait "$step"
done
wait "$step"
status=$?

if [ "$status" -eq "$SAVED_AND_STOPPED" ]; then
    echo "saved and stopped; queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
