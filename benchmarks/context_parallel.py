"""What sharing a memory costs: processor seconds and collective bytes per rank on 1, 2 and 4 ranks.

    OMP_NUM_THREADS=1 python -m benchmarks.context_parallel

Every rank holds the same number of chunks whatever the number of ranks, so its work is constant and the sequence
grows. Processor time of a rank is what forward and backward of the model cost it, gradients of the weights not yet
averaged; 4 ranks share the cores of one machine, so wall time would say nothing, and processor time itself grows with
the neighbours on the caches. So each step with a shared memory is followed by one of the same process in which every
rank keeps to itself; their ratio is the cost of sharing. Bytes are the payload of the collectives that the memories
start; a ring sends 2 (n - 1) / n times that. Time on several GPUs: not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.clock import median, ratio, take_turns
from benchmarks.findings import Findings, add_json_option
from benchmarks.train_step import SMALL
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.collectives import Group
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.process import joined_processes

CHUNK = (6, 3, 56, 84)
NUM_ROUNDS = 15


@contextmanager
def counted_collectives() -> Iterator[list[int]]:
    """Note the bytes of every all-reduce of this process."""
    payloads: list[int] = []
    original = dist.all_reduce

    def all_reduce(tensor: Tensor, *arguments: object, **options: object) -> object:
        payloads.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)

    dist.all_reduce = all_reduce
    try:
        yield payloads
    finally:
        dist.all_reduce = original


def work(num_chunks: int, folder: Path) -> None:
    """Make steps as one rank and write its processor seconds and collectives per step."""
    torch.set_num_threads(1)
    with joined_processes() as process:
        group = ContextGroups()[range(process.world_size)]
        torch.manual_seed(0)
        model = Scal3RModel(SMALL).train()
        images = torch.rand(1, num_chunks, *CHUNK)

        def step(group: Group) -> dict[str, float]:
            connect_memories(model, group)
            model.zero_grad(set_to_none=True)
            begin = time.process_time()
            output = model(images)
            torch.stack([value.square().mean() for value in output.values()]).sum().backward()
            return {"step": time.process_time() - begin}

        runs = take_turns({"shared": partial(step, group), "apart": partial(step, None)}, NUM_ROUNDS)
        with counted_collectives() as payloads:
            step(group)
        result = {
            "seconds": median(runs["shared"], "step"),
            "ratio": ratio(runs["shared"], runs["apart"], "step")[0],
            "payloads": payloads,
            "parameter_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        }
        (folder / f"{process.rank}.json").write_text(json.dumps(result))


def measure(num_ranks: int, num_chunks: int) -> list[dict]:
    """Return what each of `num_ranks` new processes wrote."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks)),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
            *("-m", "benchmarks.context_parallel", "--chunks", str(num_chunks), "--folder", folder),
        ]
        settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, check=True, env=os.environ | settings)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(num_ranks)]


def main() -> None:
    """Print one line per number of ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=2, help="chunks per rank")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # given to the ranks
    add_json_option(parser)
    asked, findings = parser.parse_args(), Findings()
    if asked.folder is not None:
        work(asked.chunks, asked.folder)
        return
    print(f"{asked.chunks} chunks of {list(CHUNK)} per rank; the network of benchmarks/train_step.py")
    for num_ranks in (1, 2, 4):
        results = measure(num_ranks, asked.chunks)
        seconds, shared = (statistics.mean(result[key] for result in results) for key in ("seconds", "ratio"))
        payloads = results[0]["payloads"]
        assert all(result["payloads"] == payloads for result in results)
        findings.time[f"{num_ranks} ranks: shared / apart"] = shared
        if num_ranks > 1:
            parameter_bytes = results[0]["parameter_bytes"]
            findings.bytes[f"{num_ranks} ranks: payload / parameters"] = sum(payloads) / parameter_bytes
        ring = 2 * (num_ranks - 1) / num_ranks * sum(payloads)
        print(
            f"{num_ranks} ranks, {num_ranks * asked.chunks} chunks: {1000 * seconds:.0f} ms of processor time per rank "
            f"and step, {shared:.3f} of a step without sharing; {len(payloads)} all-reduces, "
            f"{sum(payloads) / 2**20:.2f} MiB payload per rank, {ring / 2**20:.2f} MiB sent by a ring"
        )
    findings.save(asked.json)


if __name__ == "__main__":
    main()
