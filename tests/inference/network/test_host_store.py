"""States in host memory: which stream copies when. Without a GPU, on streams that only note what is asked of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from scal3r_train.inference.network.chunk_runner import ChunkState
from scal3r_train.inference.network.state_store import HostStore


class Event:
    """Notes after how many copies of which stream it was recorded."""

    name = ""

    def record(self, stream: "Stream") -> None:
        self.name = f"{stream.name} {sum('copies' in line for line in LOG)}"


class Stream:
    """Notes what it waits for; the first two that are made are the store's."""

    def __init__(self, _device: object = None, name: str | None = None) -> None:
        self.name = name or next(NAMES)

    def wait_stream(self, other: "Stream") -> None:
        LOG.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: Event) -> None:
        LOG.append(f"{self.name} waits for event {event.name}")


LOG: list[str] = []
NAMES = iter(("out", "in"))
ACTIVE = ["compute"]


@contextmanager
def active(stream: Stream) -> Iterator[None]:
    ACTIVE.append(stream.name)
    yield
    ACTIVE.pop()


def noted_copy(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    LOG.append(f"{ACTIVE[-1]} copies")
    return tensor


@pytest.fixture
def _streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put notes in the place of torch.cuda."""
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", active)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream(name="compute"))
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **options: empty(*size, **options))
    monkeypatch.setattr(torch.Tensor, "copy_", noted_copy)
    monkeypatch.setattr(torch.Tensor, "to", noted_copy)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _tensor, _stream: None)


@pytest.mark.usefixtures("_streams")
def test_each_direction_is_copied_in_its_stream_and_what_returns_has_left() -> None:
    """A copy back waits for the copy out of the same chunk, and for nothing else."""
    store = HostStore(torch.device("cuda"))
    state = ChunkState(1, {"tokens": torch.zeros(2, 3)}, (4, 4))
    store.put(0, state)
    store.put(1, state)
    store.prefetch(0)
    store.put(2, state)
    assert store.take(0) is not None
    assert LOG == [
        "out waits for compute",
        "out copies",
        "out waits for compute",
        "out copies",
        "in waits for event out 1",
        "in copies",
        "out waits for compute",
        "out copies",
        "compute waits for event in 3",
    ]
    assert store.moved_bytes == 4 * state.num_bytes
