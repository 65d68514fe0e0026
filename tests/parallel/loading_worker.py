"""One of two ranks that load a checkpoint under an engine and write what they hold; forked by test_loading.py.

torchrun --nproc-per-node 2 tests/parallel/loading_worker.py CHECKPOINT OUTPUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.process import current_process, joined_processes
from scal3r_train.parallel.settings import ParallelSettings
from scal3r_train.train import build_model, stored_weights
from scal3r_train.training.optim import OptimSettings, build_optimizer
from scal3r_train.training.recipe import TrainedModelSettings

ENGINES = ("ddp", "zero2", "zero3", "zero3_offload", "fsdp2")
TRAINED = {"all": "fp32", "memories": "bf16"}  # what is trained, and how the rest is stored


def load(checkpoint: Path, folder: Path, engine_name: str, train: str) -> None:
    """Load under an engine, write this rank's pieces, and what it read and predicts."""
    process = current_process()
    settings = TrainedModelSettings(checkpoint=str(checkpoint), train=train, frozen_dtype=TRAINED[train])
    weights = stored_weights(settings)
    assert weights is not None
    model = build_model(settings, weights)
    assert all(parameter.is_meta for parameter in model.parameters())
    precision = TRAINED[train]  # frozen bf16 is read by autocast alone
    engine = build_engine(ParallelSettings(engine=engine_name, precision=precision), process, 1)
    engine.prepare(model, lambda placed: build_optimizer(placed, OptimSettings()), 1.0, weights)
    images = torch.rand(1, 2, 3, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        depth = engine.forward(images, None).depth
    shards = engine.shards()
    pieces = {f"{shard.start}/{shard.name}": shard.weight.clone() for shard in shards if shard.weight.numel()}
    stem = f"{engine_name}_{train}_{process.rank}"
    save_file({**pieces, "depth": depth.contiguous()}, folder / f"{stem}.safetensors")
    (folder / f"{stem}.json").write_text(json.dumps(weights.num_bytes_read))
    engine.close()


def main(checkpoint: Path, folder: Path) -> None:
    with joined_processes():
        for engine_name in ENGINES:
            for train in TRAINED:
                load(checkpoint, folder, engine_name, train)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
