"""A video that is written frame by frame: mp4, mov, mkv and webm by PyAV, gif and webp by Pillow.

Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from scal3r_train.config import UserError

# By suffix: the encoders that may be there, best first, with their options. All players know the first ones.
ENCODERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    suffix: [("libx264", {"crf": "20", "preset": "veryfast"}), ("mpeg4", {"qscale": "3"})]
    for suffix in (".mp4", ".mov", ".mkv")
}
ENCODERS[".webm"] = [("libvpx-vp9", {"crf": "32", "b": "0"}), ("libvpx", {"crf": "10", "b": "4M"})]
ANIMATIONS = (".gif", ".webp")
SUFFIXES = (*ENCODERS, *ANIMATIONS)
GIF_COLOURS, WEBP_QUALITY, LARGEST_GIF_RATE = 128, 70, 50


class VideoFile(Protocol):
    """Takes frames."""

    def add(self, frame: np.ndarray) -> None:
        """Append a frame [H, W, 3] uint8."""


def refuse_format(path: Path, hw: tuple[int, int], fps: float) -> None:
    """Raise UserError when a file of this name cannot be written, before anything is rendered."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"output {path} must end in one of {' '.join(SUFFIXES)}")
    if suffix == ".gif" and fps > LARGEST_GIF_RATE:
        raise UserError(f"a gif has at most {LARGEST_GIF_RATE} frames a second; use --fps 25")
    if suffix in ENCODERS:
        if any(side % 2 for side in hw):
            raise UserError(f"{suffix} needs even sides, not {hw[1]}x{hw[0]}; change --size")
        _encoder(_av(), suffix)


@contextmanager
def video_file(path: Path, fps: float, hw: tuple[int, int]) -> Iterator[VideoFile]:
    """Give a new video of a rate in frames/s and a size, complete when the block ends.

    Raises:
        OSError: the file cannot be written.
        UserError: as `refuse_format`.
    """
    refuse_format(path, hw, fps)
    if path.suffix.lower() in ANIMATIONS:
        animation = _Animation(path, fps)
        yield animation
        animation.finish()
        return
    av = _av()
    try:
        with _Film(av, path, fps, hw) as film:
            yield film
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OSError(error.errno, error.strerror) from None


class _Film:
    """A stream of compressed frames."""

    def __init__(self, av: ModuleType, path: Path, fps: float, hw: tuple[int, int]) -> None:
        self._av = av
        name, options = _encoder(av, path.suffix.lower())
        fast = {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".mov") else {}
        self._container = av.open(str(path), "w", options=fast)
        self._stream: Any = self._container.add_stream(name, rate=Fraction(fps).limit_denominator(1001))
        self._stream.height, self._stream.width = hw
        self._stream.pix_fmt, self._stream.options = "yuv420p", options

    def add(self, frame: np.ndarray) -> None:
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
        self._container.mux(self._stream.encode(picture))

    def __enter__(self) -> _Film:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()


class _Animation:
    """Frames that a picture file holds; kept in memory, for gif with few colours, until all are there."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._frames: list[Image.Image] = []

    def add(self, frame: np.ndarray) -> None:
        picture = Image.fromarray(frame)
        if self._path.suffix.lower() == ".gif":
            picture = picture.quantize(GIF_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        self._frames.append(picture)

    def finish(self) -> None:
        # Gifs count in hundredths of a second, webp in thousandths; sums are rounded, so that the whole is right.
        unit = 10 if self._path.suffix.lower() == ".gif" else 1
        ends = np.round(np.arange(len(self._frames) + 1) * 1000 / self._fps / unit).astype(int) * unit
        options: dict[str, Any] = {"duration": np.diff(ends).tolist(), "loop": 0, "save_all": True}
        if self._path.suffix.lower() == ".webp":
            options |= {"quality": WEBP_QUALITY, "method": 3}
        self._frames[0].save(self._path, append_images=self._frames[1:], **options)


def _av() -> ModuleType:
    try:
        import av  # noqa: PLC0415  optional
    except ImportError:
        raise UserError(
            "writing this video needs PyAV: pip install 'scal3r_train[video]', or let OUT end in .gif or .webp"
        ) from None
    return av


def _encoder(av: ModuleType, suffix: str) -> tuple[str, dict[str, str]]:
    for name, options in ENCODERS[suffix]:
        if name in av.codecs_available:
            return name, options
    raise UserError(f"PyAV has no encoder for {suffix} here; let OUT end in .mp4, .webm, .gif or .webp")
