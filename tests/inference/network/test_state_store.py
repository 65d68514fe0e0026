"""The store is the nearest one that holds all states, in what a process may have of memory and disk."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scal3r_train.inference.network.chunk_runner import StateBytes, state_bytes
from scal3r_train.inference.network.state_store import FreeMemory, free_memory, plan_states
from scal3r_train.model.configuration_scal3r import Scal3RConfig

GIB = 2**30


@pytest.mark.parametrize(
    ("free_gib", "limit", "store"),
    [
        ((24, 32, 500), None, "device"),
        ((10, 32, 500), None, "host"),
        ((10, 8, 500), None, "disk"),
        ((10, 8, 5), None, "recompute"),
        ((24, 32, 500), 5, "disk"),
    ],
)
def test_nearest_store_with_room(free_gib: tuple[int, int, int], limit: float | None, store: str) -> None:
    free = FreeMemory(*(amount * GIB for amount in free_gib))
    plan = plan_states("auto", 10, StateBytes(GIB, GIB), free, limit)
    assert plan.store == store
    expected = {"recompute": 0, "host": 11 * GIB}
    assert plan.limit_bytes == expected.get(store, 10 * GIB)
    assert store in plan.line()


def test_what_is_asked_for_is_done() -> None:
    plan = plan_states("disk", 10, StateBytes(GIB, 2 * GIB), FreeMemory(0, 0, 0))
    assert (plan.store, plan.limit_bytes, plan.reason) == ("disk", 10 * GIB, "as asked")


def test_pinned_states_count_as_what_the_allocator_takes() -> None:
    """Tokens of 3 frames of 6 + 5 tokens of 8 channels, and from layer 1 on a map of 6 patches of 4 channels."""
    config = Scal3RConfig(
        hidden_size=8,
        num_heads=2,
        num_layers=4,
        rope_frequency=0,
        tap_layers=[0, 1, 2, 3],
        memory_layers=[1],
        dpt_channels=[4, 4, 4, 4],
        encoder_heads=2,
        camera_heads=2,
    )
    size = state_bytes(config, ["depth"], 3, (2, 3), 4)
    tokens, one_map = 3 * 11 * 8 * 4, 3 * 6 * 4 * 4
    assert (tokens, one_map) == (1056, 288)
    assert size == (2 * tokens + one_map, 2 * 2048 + 512)
    free = FreeMemory(0, 2 * 11 * size.pinned, 10**6)
    assert plan_states("auto", 10, size, free).store == "host"
    assert plan_states("auto", 11, size, free).store == "disk"


def test_processes_of_a_machine_share_its_memory_and_all_share_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Eight of them on a machine of 1,000 GiB do not pin 3,200."""
    where = "scal3r_train.inference.network.state_store"
    monkeypatch.setattr(f"{where}.psutil.virtual_memory", lambda: SimpleNamespace(available=1000 * GIB))
    monkeypatch.setattr(f"{where}.shutil.disk_usage", lambda _: SimpleNamespace(free=1600 * GIB))
    free = free_memory(torch.device("cpu"), tmp_path, local_processes=8, processes=16)
    assert free == FreeMemory(125 * GIB, 125 * GIB, 100 * GIB)
    plan = plan_states("auto", 100, StateBytes(GIB // 2, GIB // 2), free)
    assert 8 * plan.limit_bytes <= 1000 * GIB / 2
