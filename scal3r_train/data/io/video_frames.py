"""Single frames of video files, by their number in the order in which they are shown.

Numbers count the presentation times that the container lists, so no frame need be decoded to count them; a frame is
found by its time. Decoding begins at the key frame before. One video stays open in a process, since frames are mostly
read in order. Rotation that the container asks for is applied. Of a file that was cut off, the frames that are left
count. PyAV is optional.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from scal3r_train.config import UserError

DECODE_ON = 48  # frames that are decoded and dropped rather than looked up anew


def presentation_times(path: Path) -> np.ndarray:
    """Seconds from the first frame at which each frame is shown, [S] float64, increasing.

    Raises UserError when the file is no video, has no times, or PyAV is not installed.
    """
    contents = _contents(path)
    return (contents.ticks - contents.ticks[0]) * contents.seconds_per_tick


def read_video_frame(path: Path, number: int) -> np.ndarray:
    """Decode frame `number` into [H, W, 3] uint8 RGB, upright.

    Raises UserError as `presentation_times`, and when the video has no such frame or it cannot be decoded.
    """
    with _LOCK:
        return _opened(path).read(number)


def _av() -> ModuleType:
    try:
        import av  # noqa: PLC0415  optional
    except ImportError:
        raise UserError("reading videos needs PyAV: pip install 'scal3r_train[video]'") from None
    return av


def num_lost_frames(path: Path) -> int:
    """How many frames at the end of a damaged file the container lists or begins, but cannot give; 0 for a whole one.

    Raises UserError as `presentation_times`, which leaves these frames out.
    """
    return _contents(path).num_lost


@dataclass(frozen=True)
class _Contents:
    """What a container lists.

    Attributes:
        ticks: presentation times of all frames [S] int64.
        seconds_per_tick: their unit.
        num_lost: frames at the end that are damaged or not there.
    """

    ticks: np.ndarray
    seconds_per_tick: float
    num_lost: int


@lru_cache(maxsize=64)
def _contents(path: Path) -> _Contents:
    av = _av()
    times, num_lost, last_key = [], 0, 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"video {path} cannot be read: it has no pictures")
            stream = container.streams.video[0]
            # 0 where the container does not say; AVI's number counts gaps too.
            num_listed = stream.frames if "mp4" in container.format.name else 0
            num_discarded = 0
            try:
                for packet in container.demux(stream):
                    if packet.is_corrupt:
                        num_lost += 1
                    elif packet.size and packet.is_discard:
                        num_discarded += 1
                    elif packet.size:
                        times.append(packet.dts if packet.pts is None else packet.pts)
                        last_key = times[-1] if packet.is_keyframe else last_key
            except av.FFmpegError:
                num_lost = max(num_lost, 1)
                if not times:
                    raise
            seconds_per_tick = float(stream.time_base)
    except av.FFmpegError as error:
        raise _refusal(path, error) from None
    if not times or None in times:
        raise UserError(
            f"video {path} cannot be read: frames without times; encode it again, to .mp4 for example"
        )
    num_lost = max(num_lost, num_listed - num_discarded - len(times))
    kept = sorted(set(times))
    if num_lost:
        # What the end refers to may be missing: only what comes out of the decoder counts.
        shown = _decodable_from(path, last_key)
        num_lost += sum(time >= last_key and time not in shown for time in kept)
        kept = [time for time in kept if time < last_key or time in shown]
        if not kept:
            raise UserError(f"video {path} cannot be read: no frame can be decoded; is the file damaged?")
    return _Contents(np.array(kept, np.int64), seconds_per_tick, num_lost)


def _decodable_from(path: Path, time: int) -> set[int]:
    """Presentation times of the frames that can be decoded from the key frame at `time` on."""
    av = _av()
    shown: set[int] = set()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(time, stream=stream, backward=True)
            for frame in container.decode(stream):
                if not frame.is_corrupt:
                    shown.add(frame.dts if frame.pts is None else frame.pts)
    except av.FFmpegError:
        pass  # the damage; what came before it counts
    return shown


def _refusal(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"video {path} does not exist; check the index or its root")
    return UserError(f"video {path} cannot be read: {error}")


class _OpenVideo:
    """A container that is being decoded.

    Attributes:
        path: of the file.
        process: that opened it; another one, forked from it, would share the position in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.process = path, os.getpid()
        self._ticks = _contents(path).ticks
        self._av = _av()
        try:
            self._container = self._av.open(str(path))
        except self._av.FFmpegError as error:
            raise _refusal(path, error) from None
        self._stream = self._container.streams.video[0]
        self._frames: Iterator[Any] = iter(())
        self._next = -1  # number of the frame that comes next; negative: unknown

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self._ticks):
            raise UserError(f"video {self.path} has {len(self._ticks)} frames, none has number {number}")
        try:
            if 0 <= self._next <= number < self._next + DECODE_ON:
                frame = self._forward_to(number)
            else:
                frame = self._from_key_frame(number)
        except self._av.FFmpegError as error:
            self._next = -1
            raise UserError(f"video {self.path}: frame {number} cannot be decoded: {error}") from None
        if frame is None:
            raise UserError(f"video {self.path}: frame {number} cannot be decoded; is the file damaged?")
        image = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))  # both count anticlockwise

    def _from_key_frame(self, number: int) -> Any:
        """Frame `number`, from the key frame before it, or from the first one where the container's index is wrong."""
        for start in (int(self._ticks[number]), int(self._ticks[0])):
            self._container.seek(start, stream=self._stream, backward=True)
            self._frames, self._next = self._container.decode(self._stream), 0
            if (frame := self._forward_to(number)) is not None:
                return frame
        return None

    def _forward_to(self, number: int) -> Any:
        """Decode up to frame `number`, None when it does not come."""
        wanted = self._ticks[number]
        self._next, frames = -1, self._frames
        for frame in frames:
            time = frame.dts if frame.pts is None else frame.pts
            if time == wanted:
                self._next = number + 1
                return frame
            if time is not None and time > wanted:
                return None
        return None


_LOCK = threading.Lock()  # a decoder is no thing for two threads
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
_OPEN: dict[str, _OpenVideo] = {}  # at most one
_OF_PARENT: list[
    _OpenVideo
] = []  # closing one here would wait for its threads, which a fork does not take along


def _opened(path: Path) -> _OpenVideo:
    for name, video in list(_OPEN.items()):
        if video.process != os.getpid():
            _OF_PARENT.append(_OPEN.pop(name))
        elif name != str(path):
            _OPEN.pop(name).close()
    if str(path) not in _OPEN:
        _OPEN[str(path)] = _OpenVideo(path)
    return _OPEN[str(path)]
