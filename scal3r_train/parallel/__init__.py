"""Everything that knows about more than one process; the only importer of torch.distributed.

settings.py             the `parallel` section of a recipe
process.py              this process among the others: rank, world size, device
launch.py               what the launcher asked for, and what of it is refused
environment.py          environment variables as they were
accelerator.py          the one Accelerator of a run
determinism.py          deterministic kernels, on request
context_groups.py       which ranks share a sequence; connects the memories to their group
collectives.py          sums with the right gradients, over a group or all ranks; errors raised on all ranks
weights.py              models without storage, and where their values come from
engine.py               what the trainer asks of an engine; pieces of parameters
build_engine.py         which engine a run gets
torch_engine.py         single process and DDP
shard_dimension.py      where FSDP2 cuts a parameter
fsdp2.py                FSDP2
zero.py                 DeepSpeed ZeRO
folder_lock.py          one owner for what a command writes
heartbeat.py            who has failed or is gone
failure_propagation.py  one failure ends all processes with its cause
"""
