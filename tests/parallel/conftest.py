"""Four gloo ranks, started once for all tests of this folder."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.forking import ForkServer
from tests.parallel.exactness_setup import WORLD_SIZE, Scenario


@dataclass(frozen=True)
class RankResults:
    """What the ranks wrote.

    Attributes:
        tensors: of each rank, by "{scenario}/{dtype}/{plain or checkpointed}/{variant}/{name}".
        notes: of each rank, the sizes of its collectives per run and its answers about plain collectives.
    """

    tensors: list[dict[str, Tensor]]
    notes: list[dict[str, Any]]

    def chunks(self, case: Scenario, key: str) -> dict[str, Tensor]:
        """Return the predictions of all chunks, named sequence{s}.chunk{k}.{head}."""
        found = {}
        for rank, tensors in enumerate(self.tensors):
            sequence, _ = case.sequence_of(rank)
            prefix = f"{case.name}/{key}/chunk"
            found |= {
                f"sequence{sequence}.chunk{name.removeprefix(prefix)}": value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
        return found

    def gradients(self, case: Scenario, key: str) -> list[Tensor]:
        """Return the averaged gradient as each rank has it."""
        return [tensors[f"{case.name}/{key}/gradient"] for tensors in self.tensors]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> RankResults:
    """Run the worker on four ranks that talk over the loopback interface only."""
    folder = _folder_shared_by_test_workers(tmp_path_factory) / "ranks"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            done = forks.run_ranks(WORLD_SIZE, "tests/parallel/exactness_worker.py", folder)
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "done").touch()
    files = [folder / f"rank{rank}" for rank in range(WORLD_SIZE)]
    return RankResults(
        tensors=[load_file(file.with_suffix(".safetensors")) for file in files],
        notes=[json.loads(file.with_suffix(".json").read_text()) for file in files],
    )


def _folder_shared_by_test_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
