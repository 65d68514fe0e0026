#!/bin/bash
# Trains a recipe on several nodes without a scheduler. Start it on every node, with the same settings:
#
#   HEAD_NODE=node0 NUM_NODES=4 bash recipes/launch/torchrun_multinode.sh RECIPE [key=value ...]
#
# When a process or a node dies, torchrun ends the others, waits until NUM_NODES nodes are there again and starts all
# of them anew, MAX_RESTARTS times; each time the run goes on from its newest checkpoint. torchrun passes SIGTERM on to
# its own processes and gives them two minutes to save (older torch: 30 s); it then ends with exit code 1, not 85, and
# the nodes that were not told start again and wait. A mistake in the recipe is also tried again: see it first with
# `scal3r config RECIPE`, or set MAX_RESTARTS=0. Not tried on a cluster; tests check the flags against torchrun's parser.
set -u

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}"

exec torchrun \
    --nnodes "${NUM_NODES:?set NUM_NODES to the number of nodes}" \
    --nproc-per-node "${GPUS_PER_NODE:-8}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "${HEAD_NODE:?set HEAD_NODE to the address of one of the nodes}:${PORT:-29500}" \
    --rdzv-id "${RUN_ID:-scal3r}" \
    --max-restarts "${MAX_RESTARTS:-3}" \
    -m scal3r_train.train "$@"
