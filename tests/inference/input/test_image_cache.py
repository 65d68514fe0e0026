"""Images are decoded once while they fit, again when they do not, never more of them kept than stated."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.inference.input.image_cache import ImageCache

HW = (4, 6)
BYTES = 3 * 4 * 6


class Reader:
    """Images full of their number; counts how often each is read."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.broken: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, frame: int) -> Tensor:
        assert self.gate.wait(30)
        self.reads.append(frame)
        if frame in self.broken:
            raise UserError(f"image {frame}.png does not exist")
        return torch.full((3, *HW), frame, dtype=torch.uint8)


def expected(frames: range) -> Tensor:
    return torch.arange(frames.start, frames.stop, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, *HW)


def test_what_fits_is_decoded_once() -> None:
    reader = Reader()
    cache = ImageCache(reader, HW, 10 * BYTES, 2)
    for _ in range(3):
        assert torch.equal(cache.stacked(range(10)), expected(range(10)))
    assert sorted(reader.reads) == list(range(10))
    assert cache.num_bytes == 10 * BYTES


@pytest.mark.parametrize("room", [0.5, 1, 3, 7])
@pytest.mark.parametrize("num_threads", [1, 4])
def test_never_more_than_stated_and_always_right(room: float, num_threads: int) -> None:
    reader = Reader()
    cache = ImageCache(reader, HW, room * BYTES, num_threads)
    for frames in (range(20), range(5, 9), range(12), range(19, 20), range(20)):
        assert torch.equal(cache.stacked(frames), expected(frames))
        assert cache.num_bytes <= max(room, 1) * BYTES
    assert len(reader.reads) > 20


def test_the_least_recently_used_go_first() -> None:
    reader = Reader()
    cache = ImageCache(reader, HW, 4 * BYTES, 1)
    cache.stacked(range(4))
    cache.stacked(range(1))  # 0 is used again
    cache.stacked(range(4, 6))  # 1 and 2 go
    reader.reads.clear()
    cache.stacked(range(1))
    cache.stacked(range(3, 6))
    assert reader.reads == []
    cache.stacked(range(1, 3))
    assert reader.reads == [1, 2]


def test_one_thread_decodes_in_order() -> None:
    reader = Reader()
    cache = ImageCache(reader, HW, 100 * BYTES, 1)
    cache.prefetch(range(30))
    cache.stacked(range(40))
    assert reader.reads == list(range(40))


def test_prefetching_does_not_wait_and_is_not_repeated() -> None:
    reader = Reader()
    reader.gate.clear()
    cache = ImageCache(reader, HW, 8 * BYTES, 2)
    cache.prefetch(range(4))
    cache.prefetch(range(4))
    assert reader.reads == []
    reader.gate.set()
    assert torch.equal(cache.stacked(range(4)), expected(range(4)))
    assert sorted(reader.reads) == [0, 1, 2, 3]


def test_errors_surface_where_the_image_is_asked_for_and_are_not_remembered() -> None:
    reader = Reader()
    reader.broken = {3}
    cache = ImageCache(reader, HW, 8 * BYTES, 2)
    cache.prefetch(range(6))
    assert torch.equal(cache.stacked(range(3)), expected(range(3)))
    for _ in range(2):
        with pytest.raises(UserError, match=r"3\.png does not exist"):
            cache.stacked(range(6))
    reader.broken.clear()
    assert torch.equal(cache.stacked(range(6)), expected(range(6)))


def test_many_threads_may_ask() -> None:
    reader = Reader()
    cache = ImageCache(reader, HW, 5 * BYTES, 3)

    def ask(start: int) -> bool:
        frames = range(start, start + 8)
        cache.prefetch(range(start + 8, start + 16))
        return torch.equal(cache.stacked(frames), expected(frames))

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(ask, [0, 4, 8, 12, 2, 30, 0, 7, 9, 16] * 4))
    assert cache.num_bytes <= 5 * BYTES


def test_closing_drops_what_waits() -> None:
    reader = Reader()
    cache = ImageCache(reader, HW, 100 * BYTES, 1)
    cache.stacked(range(2))
    reader.gate.clear()
    cache.prefetch(range(2, 50))
    threading.Timer(0.05, reader.gate.set).start()
    cache.close()
    assert len(reader.reads) < 10
    assert cache.num_bytes == 0
    assert torch.equal(cache.stacked(range(3)), expected(range(3)))
