"""A bounded number of decoded images: decoded ahead in the background, and again when they are needed once more.

Least recently used images go first. All decoding is done by the cache's threads, in the order asked for, so that one
thread reads a video from front to back.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

MAX_AHEAD = 256  # frames that wait to be decoded: more would only delay the end of a run that fails


class ImageCache:
    """A bounded number of images of one size, by frame number; any number of threads may use it."""

    def __init__(
        self, read: Callable[[int], Tensor], image_hw: tuple[int, int], max_bytes: float, num_threads: int
    ) -> None:
        """Keep at most max_bytes, but at least one image.

        Args:
            read: from a frame's number to its image [3, H, W] uint8; called by several threads.
            image_hw: H, W.
            max_bytes: of the images that are kept; besides these there is one for each thread.
            num_threads: that decode.
        """
        self._read, self._image_hw, self._num_threads = read, image_hw, num_threads
        self._capacity = max(int(max_bytes // (3 * image_hw[0] * image_hw[1])), 1)
        self._images: OrderedDict[int, Tensor] = OrderedDict()
        self._pending: dict[int, Future[Tensor]] = {}
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self.num_decoded = 0

    @property
    def num_bytes(self) -> int:
        """Size of the images that are kept."""
        with self._lock:
            return sum(image.nbytes for image in self._images.values())

    def stacked(self, frames: range) -> Tensor:
        """Return consecutive images [S, 3, H, W] uint8 in memory of their own.

        Raises:
            UserError: one of them cannot be read; it is tried again the next time.
        """
        out = torch.empty(len(frames), 3, *self._image_hw, dtype=torch.uint8)
        ahead = min(2 * self._num_threads, self._capacity)
        for place, frame in enumerate(frames):
            self.prefetch(range(frame, min(frame + ahead, frames.stop)))
            out[place] = self._image(frame)
        return out

    def prefetch(self, frames: range) -> None:
        """Begin to decode images that will be wanted, the first of them first, as many as have room.

        A hint: never an error. What cannot be read is reported when it is asked for.
        """
        with self._lock:
            room = min(self._capacity, MAX_AHEAD) - len(self._pending)
            missing = [
                f for f in frames[: self._capacity] if f not in self._images and f not in self._pending
            ]
            for frame in missing[: max(room, 0)]:
                self._submit(frame)

    def close(self) -> None:
        """Drop all images and stop decoding ahead."""
        with self._lock:
            threads, self._threads = self._threads, None
            self._images.clear()
            self._pending.clear()
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)

    def _image(self, frame: int) -> Tensor:
        with self._lock:
            if frame in self._images:
                self._images.move_to_end(frame)
                return self._images[frame]
            pending = self._pending.get(frame) or self._submit(frame)
        try:
            return pending.result()
        except Exception:
            with self._lock:
                if self._pending.get(frame) is pending:
                    del self._pending[frame]
            raise

    def _submit(self, frame: int) -> Future[Tensor]:
        """Have a frame decoded; the lock is held."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="images")
        self._pending[frame] = self._threads.submit(self._decode, frame)
        return self._pending[frame]

    def _decode(self, frame: int) -> Tensor:
        image = self._read(frame)
        assert image.shape == (3, *self._image_hw), f"frame {frame} is {tuple(image.shape)}"
        with self._lock:
            self.num_decoded += 1
            if self._pending.pop(frame, None) is not None:
                self._images[frame] = image
                while len(self._images) > self._capacity:
                    self._images.popitem(last=False)
        return image
