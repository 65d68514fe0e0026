"""Where FSDP2 cuts the published network, on ranks that are not there; run by test_fsdp2.py.

python tests/parallel/fsdp2_worker.py NUM_RANKS RANK ours|accelerate
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.accelerator import fsdp2_plugin, release_accelerator
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.fsdp2 import Fsdp2Engine
from scal3r_train.parallel.process import Process
from scal3r_train.parallel.settings import ParallelSettings


def place_ours(model: Scal3RModel, process: Process) -> nn.Module:
    """Cut as the engine does."""
    engine = build_engine(ParallelSettings(engine="fsdp2"), process, 1)
    assert isinstance(engine, Fsdp2Engine)
    engine.bare_model = model
    engine._place(None)
    return model


def place_with_accelerate(model: Scal3RModel) -> nn.Module:
    """Cut as `Accelerator.prepare` does on GPUs: told that these are some, which it needs to do anything."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    accelerator = Accelerator(fsdp_plugin=fsdp2_plugin(model))
    assert accelerator.distributed_type is DistributedType.FSDP
    prepared, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    release_accelerator()
    return prepared


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the units by name: what is gathered (elements of the buffer) and what of it are parameters."""
    units = {}
    for name, module in model.named_modules():
        if not isinstance(module, FSDPModule):
            continue
        group: Any = module._get_fsdp_state()._fsdp_param_group
        if group is None:
            continue
        units[name] = {
            "buffer": sum(p._sharded_param_data.numel() for p in group.fsdp_params) * dist.get_world_size(),
            "parameters": sum(p.sharded_param.numel() for p in group.fsdp_params),
        }
    local = sum(
        (parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel()
        for parameter in model.parameters()
    )
    return {"units": units, "local": local}


def main(num_ranks: int, rank: int, way: str) -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
    with torch.device("meta"):
        model = Scal3RModel(Scal3RConfig())
    process = Process(rank, num_ranks, torch.device("cpu"))
    placed = place_ours(model, process) if way == "ours" else place_with_accelerate(model)
    sys.stdout.write(json.dumps(describe(placed)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
