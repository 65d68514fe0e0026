"""Single frames of video files, by their number in the order in which they are shown.

Of several streams the largest that is a film counts, as for players: covers and thumbnails are streams too. Numbers
count the presentation times that the container lists, so no frame need be decoded to count them; a frame is found by
its time. Decoding begins at the key frame before. Containers without true presentation times (AVI lists those of
decoding, which B-frames leave) are decoded from the start and their frames counted as they come. One video stays open
in a process, since frames are mostly read in order. Rotation that the container asks for is applied, and pixels that
are not square are made so in width. Of a file that was cut off, the frames that are left count. PyAV is optional.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from scal3r_train.config import UserError

DECODE_ON = 48  # frames that are decoded and dropped rather than looked up anew
DAMAGE = (ArithmeticError, LookupError, TypeError, UnicodeError)  # what PyAV ends in on headers without sense
NUM_TRIED = 50  # frames that tell whether listed times are those of the pictures


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


def _container(path: Path) -> Any:
    """An open file, whose titles may be in any encoding. Raises av.FFmpegError."""
    return _av().open(str(path), metadata_errors="replace")


def num_lost_frames(path: Path) -> int:
    """How many frames at the end of a damaged file the container lists or begins, but cannot give; 0 for a whole one.

    Raises UserError as `presentation_times`, which leaves these frames out.
    """
    return _contents(path).num_lost


def video_notes(path: Path) -> tuple[str, ...]:
    """Return what a user should know of how a video is read, a line each: streams, timing, pixels, interlacing.

    Raises UserError as `presentation_times`.
    """
    return _contents(path).notes


@dataclass(frozen=True)
class _Contents:
    """What a container lists.

    Attributes:
        ticks: presentation times of all frames [S] int64; of a video that is decoded in order, their numbers.
        seconds_per_tick: their unit.
        num_lost: frames at the end that are damaged or not there.
        stream: number of the film among the container's streams of pictures.
        is_in_order: the listed times are not those of the pictures.
        stored_wh: width and height of the first frame as it is stored.
        pixel_aspect: width of a pixel over its height.
        notes: what else a user should know, a line each.
    """

    ticks: np.ndarray
    seconds_per_tick: float
    num_lost: int
    stream: int
    is_in_order: bool
    stored_wh: tuple[int, int]
    pixel_aspect: float
    notes: tuple[str, ...]


@lru_cache(maxsize=64)
def _contents(path: Path) -> _Contents:
    av = _av()
    times, num_lost, last_key = [], 0, 0
    try:
        with _container(path) as container:
            number, notes = _film(container, path)
            stream = container.streams.video[number]
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
            rate = float(stream.average_rate or stream.guessed_rate or 0)
        first = _First.of(path, number)
    except (av.FFmpegError, *DAMAGE) as error:
        raise _refusal(path, error) from None
    notes += first.notes
    if not times or None in times or not first.is_shown_as_listed:
        if rate <= 0:
            raise UserError(
                f"video {path} cannot be read: frames without times or rate; encode it again, to .mp4 for example"
            )
        num_frames = _num_decodable(path, number)
        notes += (
            "its listed times are not those of its pictures, so its frames are counted as they are decoded",
        )
        return _Contents(
            np.arange(num_frames),
            1 / rate,
            max(len(times) - num_frames, 0),
            number,
            True,
            first.wh,
            first.aspect,
            notes,
        )
    num_lost = max(num_lost, num_listed - num_discarded - len(times))
    kept = sorted(set(times))
    if num_lost:
        # What the end refers to may be missing: only what comes out of the decoder counts.
        shown = _decodable_from(path, number, last_key)
        num_lost += sum(time >= last_key and time not in shown for time in kept)
        kept = [time for time in kept if time < last_key or time in shown]
        if not kept:
            raise UserError(f"video {path} cannot be read: no frame can be decoded; is the file damaged?")
    return _Contents(
        np.array(kept, np.int64), seconds_per_tick, num_lost, number, False, first.wh, first.aspect, notes
    )


def _film(container: Any, path: Path) -> tuple[int, tuple[str, ...]]:
    """Number of the stream that is the film, and a line where there was a choice."""
    streams = list(container.streams.video)
    if not streams:
        raise UserError(f"video {path} cannot be read: it has no pictures")
    attached = _av().stream.Disposition.attached_pic
    films = [stream for stream in streams if not stream.disposition & attached] or streams
    film = max(films, key=lambda stream: (stream.width * stream.height, -stream.index))
    if len(streams) == 1:
        return 0, ()
    others = ", ".join(
        f"{stream.width}x{stream.height}{' (a cover)' if stream.disposition & attached else ''}"
        for stream in streams
        if stream is not film
    )
    return streams.index(film), (
        f"of {len(streams)} streams of pictures the largest film is read, {film.width}x{film.height}; "
        f"left out: {others}",
    )


@dataclass(frozen=True)
class _First:
    """What the first frames of a film show.

    Attributes:
        wh: stored width and height.
        aspect: width of a pixel over its height.
        is_shown_as_listed: they come out of the decoder in the order of their times.
        notes: for the user.
    """

    wh: tuple[int, int]
    aspect: float
    is_shown_as_listed: bool
    notes: tuple[str, ...]

    @staticmethod
    def of(path: Path, number: int) -> _First:
        times, frame, is_interlaced = [], None, False
        with _container(path) as container:
            stream = container.streams.video[number]
            try:
                for frame in itertools.islice(container.decode(stream), NUM_TRIED):
                    times.append(frame.pts)
                    is_interlaced |= bool(frame.interlaced_frame)
                    if len(times) == 1:
                        wh = frame.width, frame.height
            except _av().FFmpegError:
                pass  # the damage is found where frames are counted
            if not times:
                raise UserError(f"video {path} cannot be read: no frame can be decoded; is the file damaged?")
            ratio = stream.sample_aspect_ratio
            aspect = float(ratio) if ratio else 1.0
        notes = []
        if aspect != 1:
            notes.append(
                f"its pixels are {aspect:.4g} times as wide as high; pictures are widened to square ones"
            )
        if is_interlaced:
            notes.append(
                "it is interlaced: two half pictures of different times lie in each; deinterlace it for best results"
            )
        increase = None not in times and all(a <= b for a, b in itertools.pairwise(times))
        return _First(wh, aspect, increase, tuple(notes))


def _num_decodable(path: Path, number: int) -> int:
    """How many frames come out of the decoder."""
    num = 0
    with _container(path) as container:
        try:
            for _ in container.decode(container.streams.video[number]):
                num += 1
        except _av().FFmpegError:
            pass  # the damage; what came before it counts
    if not num:
        raise UserError(f"video {path} cannot be read: no frame can be decoded; is the file damaged?")
    return num


def _decodable_from(path: Path, number: int, time: int) -> set[int]:
    """Presentation times of the frames that can be decoded from the key frame at `time` on."""
    av = _av()
    shown: set[int] = set()
    try:
        with _container(path) as container:
            stream = container.streams.video[number]
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
        self._contents = _contents(path)
        self._ticks = self._contents.ticks
        self._av = _av()
        try:
            self._container = _container(path)
        except self._av.FFmpegError as error:
            raise _refusal(path, error) from None
        self._stream = self._container.streams.video[self._contents.stream]
        self._frames: Iterator[Any] = iter(())
        self._next = -1  # number of the frame that comes next; negative: unknown

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self._ticks):
            raise UserError(f"video {self.path} has {len(self._ticks)} frames, none has number {number}")
        try:
            if self._contents.is_in_order:
                frame = self._counted_to(number)
            elif 0 <= self._next <= number < self._next + DECODE_ON:
                frame = self._forward_to(number)
            else:
                frame = self._from_key_frame(number)
        except (self._av.FFmpegError, *DAMAGE) as error:
            self._next = -1
            raise UserError(f"video {self.path}: frame {number} cannot be decoded: {error}") from None
        if frame is None:
            raise UserError(f"video {self.path}: frame {number} cannot be decoded; is the file damaged?")
        if (frame.width, frame.height) != self._contents.stored_wh:
            seconds = self._ticks[number] * self._contents.seconds_per_tick
            width, height = self._contents.stored_wh
            raise UserError(
                f"video {self.path}: from frame {number} on, at {seconds:.3f} s, pictures are "
                f"{frame.width}x{frame.height} instead of {width}x{height}; cut it there and give the parts one by one"
            )
        image = frame.to_ndarray(format="rgb24")
        if self._contents.pixel_aspect != 1:
            width = max(1, round(image.shape[1] * self._contents.pixel_aspect))
            image = cv2.resize(image, (width, image.shape[0]), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))  # both count anticlockwise

    def _counted_to(self, number: int) -> Any:
        """Frame `number` as they come out of the decoder, from where it is or from the start; None beyond the end."""
        if not 0 <= self._next <= number:
            self._container.close()
            self._container = _container(self.path)
            self._stream = self._container.streams.video[self._contents.stream]
            self._frames, self._next = self._container.decode(self._stream), 0
        for frame in self._frames:
            self._next += 1
            if self._next == number + 1:
                return frame
        self._next = -1
        return None

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
