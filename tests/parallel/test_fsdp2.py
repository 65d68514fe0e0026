"""FSDP2 cuts the published network evenly, into the units of Accelerate's own policy."""

import json
from typing import Any

import pytest

from scal3r_train.parallel.shard_dimension import shard_dimension
from tests.forking import ForkServer

pytestmark = pytest.mark.timeout(300)
MEMORIES = [f"aggregator.memory_units.{layer}" for layer in (14, 17, 20, 23)]


def placed(forks: ForkServer, num_ranks: int, rank: int, way: str = "ours") -> dict[str, Any]:
    done = forks.run("tests/parallel/fsdp2_worker.py", num_ranks, rank, way)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("num_ranks", [8, 32])
def test_what_is_gathered_is_parameters_and_not_padding(forks: ForkServer, num_ranks: int) -> None:
    first, last = (placed(forks, num_ranks, rank) for rank in (0, num_ranks - 1))
    worst = max(unit["buffer"] / unit["parameters"] for unit in first["units"].values())
    assert worst < 1.1
    assert max(first["local"], last["local"]) / min(first["local"], last["local"]) < 1.1
    assert set(MEMORIES) <= set(first["units"])
    print(
        f"{num_ranks} ranks: buffer / parameters {worst:.4f}, rank 0 {first['local']}, last {last['local']}"
    )


def test_units_are_those_of_accelerate(forks: ForkServer) -> None:
    """`Accelerator.prepare` places the same units, and shows why it is not called: it pads each memory 32 times."""
    ours, theirs = placed(forks, 32, 0), placed(forks, 32, 0, "accelerate")
    # It makes one more of the input embedding, whatever the policy says.
    assert theirs["units"].keys() - {"aggregator.patch_embed"} == ours["units"].keys()
    for name in MEMORIES:
        unit = theirs["units"][name]
        assert unit["buffer"] / unit["parameters"] > 20
    assert theirs["local"] > 2 * ours["local"]


@pytest.mark.parametrize(
    ("shape", "num_ranks", "expected"),
    [
        ((5, 3), 4, 0),  # unequal pieces of the first dimension are fine
        ((1, 8, 6), 4, 1),
        ((1, 1, 8), 4, 2),
        ((1, 6, 8), 4, None),  # 6 rows do not divide, and a cut of the 8 would be no interval
        ((1, 1), 4, None),
        ((1,), 2, None),
        ((), 2, None),
        ((1,), 1, None),
    ],
)
def test_where_a_parameter_is_cut(shape: tuple[int, ...], num_ranks: int, expected: int | None) -> None:
    assert shard_dimension(shape, num_ranks) == expected
