"""Host memory of each rank while a checkpoint is loaded: its own pieces, against the whole model on every rank.

    python -m benchmarks.load_memory [CHECKPOINT] [--ranks 8] [--engines fsdp2 whole] [--keep FOLDER]
    torchrun --nproc-per-node 2 -m benchmarks.load_memory FOLDER --engines zero3      # ranks that are there

Ranks are simulated, one process after the other, with torch's fake process group: each does what a rank of so many
would do, without its peers. On a CPU "device memory" is host memory too; on a GPU the pieces would lie there, and what
is left is what a single read needs. `whole` is the way before: every rank builds and fills the whole model. Anonymous
memory is measured (RssAnon); pages of the checkpoint's files are shared by all ranks of a machine and can be dropped.

Without CHECKPOINT the published network is written with random weights first, 5 GB in the temporary folder or FOLDER.
DeepSpeed does not run on ranks that are not there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GIB = 2**30


@contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """Yield a dict that afterwards holds the peak of this process's anonymous memory above its start, in bytes."""
    start, found, is_over = anonymous_bytes(), {"peak": 0.0}, threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            found["peak"] = max(found["peak"], anonymous_bytes() - start)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield found
    is_over.set()
    thread.join()


def anonymous_bytes() -> float:
    """Return the resident memory of this process that no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return float(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status says nothing of RssAnon: this benchmark needs Linux")


def load(checkpoint: Path, num_ranks: int, rank: int, way: str) -> dict[str, Any]:
    """Load as one rank would and return bytes and seconds."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from scal3r_train.model.load_model import load_model
    from scal3r_train.parallel.build_engine import build_engine
    from scal3r_train.parallel.process import Process
    from scal3r_train.parallel.settings import ParallelSettings
    from scal3r_train.train import build_model, stored_weights
    from scal3r_train.training.recipe import TrainedModelSettings

    started, num_read = time.perf_counter(), 0
    with watched_memory() as memory:
        if way == "whole":
            load_model(checkpoint, torch.device("cpu")).train()
        else:
            if "RANK" not in os.environ:
                dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
            settings = TrainedModelSettings(checkpoint=str(checkpoint))
            weights = stored_weights(settings)
            assert weights is not None
            model = build_model(settings, weights)
            process = Process(rank, num_ranks, torch.device("cpu"))
            engine = build_engine(ParallelSettings(engine=way), process, 1)
            engine.bare_model = model
            engine._place(weights)
            num_read = weights.num_bytes_read
    return {"peak": memory["peak"], "read": num_read, "seconds": time.perf_counter() - started}


def write_checkpoint(folder: Path) -> None:
    """Write the published network with random weights."""
    import torch

    from scal3r_train.model.configuration_scal3r import Scal3RConfig
    from scal3r_train.model.modeling_scal3r import Scal3RModel

    with torch.device("meta"):
        model = Scal3RModel(Scal3RConfig())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
    model.save_pretrained(folder, max_shard_size="2GB")


def print_line(way: str, rank: int | str, found: dict[str, Any]) -> None:
    """Print what one rank took."""
    sizes = f"peak {found['peak'] / GIB:.2f} GiB, read {found['read'] / GIB:.2f} GiB"
    print(f"{way:6} rank {rank}: {sizes}, {found['seconds']:.1f} s", flush=True)


def main() -> None:
    """Print a line for each rank of each way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--engines", nargs="+", default=["fsdp2", "whole"])
    parser.add_argument("--one", type=int, help="what one rank does, as a process of its own")
    parser.add_argument("--keep", type=Path, help="write the checkpoint here and leave it")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        from scal3r_train.parallel.process import joined_processes

        with joined_processes() as process:
            found = load(arguments.checkpoint, process.world_size, process.rank, arguments.engines[0])
        print_line(arguments.engines[0], os.environ["RANK"], found)
        return
    if arguments.one is not None:
        found = load(arguments.checkpoint, arguments.ranks, arguments.one, arguments.engines[0])
        sys.stdout.write("\n" + json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = arguments.keep or Path(temporary) / "model"
            write_checkpoint(checkpoint)
        size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        print(f"checkpoint {size / GIB:.2f} GiB, {arguments.ranks} ranks")
        for way in arguments.engines:
            for rank in range(1 if way == "whole" else arguments.ranks):
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.load_memory",
                    str(checkpoint),
                    "--one",
                    str(rank),
                ]
                command += ["--ranks", str(arguments.ranks), "--engines", way]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                print_line(way, rank, json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
