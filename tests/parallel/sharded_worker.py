"""One of two ranks whose parameters are cut into pieces: gradients of two steps per engine and checkpointing mode.

Forked by test_sharded_checkpointing.py; alone:
torchrun --nproc-per-node 2 tests/parallel/sharded_worker.py OUTPUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from scal3r_train.parallel import zero_defaults
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.process import current_process, joined_processes
from scal3r_train.parallel.settings import ParallelSettings
from tests.parallel.exactness_setup import (
    CHECKPOINTING,
    Scenario,
    build_model,
    chunk_images,
    chunk_loss,
    of_chunk,
)
from tests.parallel.exactness_worker import recorded_collectives

ENGINES = ("fsdp2", "zero3")
CASE = Scenario("2x1", ((2, 2),), (3, 3, 3, 3), patch_encoder="dinov2")
NUM_STEPS = 2
# Without them DeepSpeed keeps small parameters gathered and hides reads at the wrong time.
NOTHING_KEPT = {
    "stage3_prefetch_bucket_size": 0,
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}


def build_optimizer(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([{"params": parameters, "name": "backbone"}])
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)


def run(
    engine_name: str, mode: str, groups: ContextGroups
) -> tuple[list[dict[str, Tensor]], list[list[int]]]:
    """Return this rank's pieces of the averaged gradient and the sizes of its all-reduces, of each step."""
    process = current_process()
    model = build_model(CASE.patch_encoder, torch.float32)
    model.set_activation_checkpointing(mode)
    connect_memories(model, groups[range(2)])
    engine = build_engine(ParallelSettings(engine=engine_name), process, 1)
    engine.prepare(model, build_optimizer, clip_norm=1.0)
    chunks = CASE.chunks_of(process.rank)
    images = torch.stack([chunk_images(CASE, 0, chunk, torch.float32) for chunk in chunks])[None]
    gradients, calls = [], []
    for _ in range(NUM_STEPS):
        with recorded_collectives() as sizes, engine.micro_step(is_last=True):
            output = engine.forward(images, None)
            total = sum(chunk_loss(of_chunk(output, column), 0, chunk) for column, chunk in enumerate(chunks))
            engine.backward(2 * total / sum(CASE.num_frames))
        gradients.append({name: piece.flatten().clone() for name, piece in engine.gradients().items()})
        calls.append(sizes)
        engine.skip_update()
    engine.close()
    return gradients, calls


def main(folder: Path) -> None:
    zero_defaults.ZERO_OPTIMIZATION["zero3"] |= NOTHING_KEPT
    tensors: dict[str, Tensor] = {}
    notes: dict[str, list[list[int]]] = {}
    with joined_processes() as process:
        groups = ContextGroups()
        for engine_name in ENGINES:
            for mode in CHECKPOINTING:
                gradients, notes[f"{engine_name}/{mode}"] = run(engine_name, mode, groups)
                for step, gradient in enumerate(gradients):
                    prefix = f"{engine_name}/{mode}/{step}/"
                    tensors |= {prefix + name: piece for name, piece in gradient.items()}
        dist.barrier()
    save_file(tensors, folder / f"rank{process.rank}.safetensors")
    (folder / f"rank{process.rank}.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
