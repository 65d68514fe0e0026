"""Watches of three processes, here in one: what is reported is known to all, and silence is noticed."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch.distributed as dist

from scal3r_train.parallel import heartbeat
from scal3r_train.parallel.heartbeat import Cause, Heartbeat

Join = Callable[[int], Heartbeat]
LIMIT_S = 100


class Left:
    """Notes that a watch let its process leave by force."""

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.has_come = threading.Event()

    def __call__(self, cause: Cause) -> None:
        self.cause = cause
        self.has_come.set()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    monkeypatch.setattr(heartbeat, "SEARCH_S", 3.0)
    monkeypatch.setattr(heartbeat, "GRACE_S", 0.1)
    monkeypatch.setattr(heartbeat, "EXIT_WAIT_S", 1.0)
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def joined(store: dist.TCPStore, rank: int, leave: Callable[[Cause], None]) -> Heartbeat:
    own = dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=20))
    return Heartbeat(own, rank, 3, leave, keeps_store=False)


def test_the_first_report_is_the_cause_of_all(store: dist.TCPStore) -> None:
    left = [Left() for _ in range(3)]
    watches = [joined(store, rank, left[rank]) for rank in range(3)]
    for each in watches:
        each.start()
    first = Cause(2, "first", 2)
    assert watches[2].report(first) == first
    assert watches[1].report(Cause(1, "second", 1)) == first
    assert watches[0].find_cause() == first
    for each in left:
        assert each.has_come.wait(LIMIT_S), "nobody stays behind"
        assert each.cause == first


def test_a_silent_process_is_named(store: dist.TCPStore) -> None:
    watches = [joined(store, rank, Left()) for rank in range(3)]
    for each in (watches[0], watches[2]):
        each.start()  # and 1 never beats
    cause = watches[0].find_cause()
    assert cause is not None
    assert (cause.rank, cause.code) == (1, 1)
    assert "is gone without a word" in cause.message
    assert watches[2].find_cause() == cause


def test_who_never_came_is_named(store: dist.TCPStore) -> None:
    watches = [joined(store, rank, Left()) for rank in (0, 1)]
    for each in watches:
        each.start()  # and 2 never announces itself
    cause = watches[0].find_cause()
    assert cause is not None
    assert (cause.rank, cause.code) == (2, 1)
    assert cause.message.startswith("never came")
    assert watches[1].find_cause() == cause


def test_silence_is_noticed_without_any_collective(
    store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE_S", 0.5)
    left = Left()
    watches = [joined(store, rank, left) for rank in range(3)]
    watches[0].start()  # its neighbour 1 does not
    assert left.has_come.wait(LIMIT_S)
    assert left.cause is not None
    assert left.cause.rank == 1


def test_leaving_in_order_alarms_nobody(store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE_S", 1.0)
    left = Left()
    watches = [joined(store, rank, left) for rank in range(3)]
    for each in watches:
        each.start()
    watches[1].close()
    assert not left.has_come.wait(2.0), left.cause
    for each in (watches[0], watches[2]):
        each.close()


def test_when_all_are_there_nobody_is_accused(store: dist.TCPStore) -> None:
    watches = [joined(store, rank, Left()) for rank in range(3)]
    for each in watches:
        each.start()
    assert watches[0].find_cause() is None
    for each in watches:
        each.close()


def test_a_store_that_is_gone_ends_the_run(store: dist.TCPStore) -> None:
    left = Left()
    other_store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    alone = joined(other_store, 0, left)
    del other_store
    alone.start()
    assert left.has_come.wait(LIMIT_S)
    assert left.cause is not None
    assert "the store they keep does not answer" in left.cause.message
