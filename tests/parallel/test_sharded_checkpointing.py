"""Sharded parameters and recomputation go together: two ranks under FSDP2 and ZeRO-3 find one process's gradient.

DeepSpeed keeps nothing gathered here, so that a parameter read outside of its module's call, or a collective that
only one rank repeats, ends in an error, a hang or a wrong number.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.forking import ForkServer
from tests.parallel.exactness_setup import CHECKPOINTING, build_model, chunk_images, chunk_loss, of_chunk
from tests.parallel.sharded_worker import CASE, ENGINES, NUM_STEPS

pytestmark = [pytest.mark.exactness, pytest.mark.timeout(300)]
TOLERANCE = 1e-5  # float32, as test_exactness.py


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> list[dict[str, Tensor]]:
    """What each rank holds, by "{engine}/{mode}/{step}/{parameter}"; and `rank{r}.json` beside it."""
    folder = tmp_path_factory.mktemp("sharded")
    done = forks.run_ranks(2, "tests/parallel/sharded_worker.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    calls = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert calls[0] == calls[1], "the ranks made different all-reduces"
    for run, steps in calls[0].items():
        for sizes in steps:  # forward and backward of two memories; other all-reduces are the engines' own
            assert sizes.count(memory_size()) == 4, (run, sizes)
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(2)]


def memory_size() -> int:
    unit = next(iter(build_model(CASE.patch_encoder, torch.float32).aggregator.memory_units.values()))
    return sum(matrix.numel() for matrix in (unit.w0, unit.w1, unit.w2))


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """The gradient of the mean over frames, from one process that holds the whole sequence and keeps everything."""
    model = build_model(CASE.patch_encoder, torch.float32)
    chunks = range(len(CASE.num_frames))
    output = model([[chunk_images(CASE, 0, chunk, torch.float32) for chunk in chunks]])
    total = sum(chunk_loss(of_chunk(output, chunk), 0, chunk) for chunk in chunks)
    (total / sum(CASE.num_frames)).backward()
    return {name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("step", range(NUM_STEPS))
@pytest.mark.parametrize("mode", CHECKPOINTING)
@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_equal_one_process(pieces, reference, engine, mode, step):
    found, expected = [], []
    for name, gradient in reference.items():
        parts = [of_rank[f"{engine}/{mode}/{step}/{name}"] for of_rank in pieces]
        if engine == "fsdp2" and all(
            len(part) == len(gradient) for part in parts
        ):  # stays whole on every rank
            assert torch.equal(*parts), name
            parts = parts[:1]
        whole = torch.cat(parts)
        assert len(whole) == len(gradient), name
        found.append(whole.double())
        expected.append(gradient.double())
    for of_memories in (False, True):
        pairs = [
            pair
            for name, *pair in zip(reference, found, expected, strict=True)
            if not of_memories or ".memory_units." in name
        ]
        ours, theirs = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
        assert ((ours - theirs).norm() / theirs.norm()).item() < TOLERANCE, (of_memories, engine, mode)
