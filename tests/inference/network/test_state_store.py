"""The store is the nearest one that holds all states."""

import pytest

from scal3r_train.inference.network.state_store import FreeMemory, plan_states

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
    plan = plan_states("auto", 10, GIB, free, limit)
    assert plan.store == store
    assert plan.limit_bytes == (0 if store == "recompute" else 10 * GIB)
    assert store in plan.line()


def test_what_is_asked_for_is_done() -> None:
    plan = plan_states("disk", 10, GIB, FreeMemory(0, 0, 0))
    assert (plan.store, plan.limit_bytes, plan.reason) == ("disk", 10 * GIB, "as asked")
