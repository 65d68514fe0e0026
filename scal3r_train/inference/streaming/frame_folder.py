"""A folder that images are being written into: which of them are complete, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scal3r_train.config import UserError
from scal3r_train.data.index.source import in_order, is_image_name, record_of_images
from scal3r_train.data.io.image_codec import read_image, read_image_size
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.notes import is_text, printable, tell

IMAGES_PER_SCAN = 64

# Size in bytes and time of the last change.
FileState = tuple[int, int]


@dataclass(frozen=True)
class UnreadableImage:
    """An image that cannot be read, so that images after it have to wait.

    Attributes:
        name: of its file.
        unchanged_s: seconds since its file last changed, as far as was seen.
        reason: what is wrong with it.
    """

    name: str
    unchanged_s: float
    reason: str


class FrameFolder:
    """Images of a folder in the order of `record_from_images`, each once it can be decoded.

    A file is tried once its size and time are the same in two scans, or once a later image is there. Images after one
    that cannot be read have to wait for it. Hidden files are none.

    Attributes:
        left_out: files that were passed over: those that came after a later image had been taken, and at the end those
            that cannot be read.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with an existing folder, of which nothing is listed yet."""
        self._folder = folder.resolve()
        self._clock = clock
        self._files: dict[str, FileState] = {}
        self._changed_at: dict[str, float] = {}
        self._last_change = clock()
        self._sizes: dict[str, tuple[int, int]] = {}
        self._names: list[str] = []
        self._num_fixed = 0
        self._unreadable: tuple[str, str] | None = None
        self._is_closed = self._leaves_out_broken = False
        self.left_out: list[str] = []

    @property
    def num_images(self) -> int:
        """How many complete images there are."""
        return len(self._names)

    @property
    def idle_s(self) -> float:
        """Seconds since the last change that was seen."""
        return self._clock() - self._last_change

    @property
    def unreadable(self) -> UnreadableImage | None:
        """The image that the latest scan could not get past."""
        if self._unreadable is None:
            return None
        name, reason = self._unreadable
        return UnreadableImage(name, self._clock() - self._changed_at[name], reason)

    def record(self) -> SequenceRecord:
        """Return the complete images as a sequence; at least one is needed."""
        return record_of_images(self._folder, self._names, [self._sizes[name] for name in self._names])

    def fix_order(self, num_images: int) -> None:
        """Fix the order of the first images: nothing is put between them any more."""
        self._num_fixed = max(self._num_fixed, num_images)

    def close(self, *, leave_out_broken: bool) -> None:
        """List the folder a last time: what is there now is all, and completely written.

        `leave_out_broken`: pass over images that cannot be read; else those before the first such image are all.
        """
        self._list()
        self._is_closed, self._leaves_out_broken = True, leave_out_broken

    def scan(self) -> int:
        """List the folder, decode at most IMAGES_PER_SCAN new ones, and return how many are complete now and were not.

        Raises:
            UserError: the folder is gone.
        """
        unchanged = set(self._files) if self._is_closed else self._list()
        before = len(self._sizes)
        pending = self._pending()
        names, self._unreadable = self._names[: self._num_fixed], None
        for place, name in enumerate(pending):
            if name not in self._sizes:
                is_written = name in unchanged or place + 1 < len(pending)
                if not is_written or len(self._sizes) - before == IMAGES_PER_SCAN:
                    break
                if (reason := self._decode(name)) is not None:
                    if self._leaves_out_broken:
                        self._leave_out(name, reason)
                        continue
                    self._unreadable = name, reason
                    break
            names.append(name)
        self._names = names
        return len(self._sizes) - before

    def _list(self) -> set[str]:
        """List the folder; return the files that are as they were the last time."""
        found: dict[str, FileState] = {}
        try:
            for path in self._folder.iterdir():
                if is_image_name(path.name):
                    try:
                        status = path.stat()
                    except FileNotFoundError:
                        continue
                    found[path.name] = status.st_size, status.st_mtime_ns
        except OSError as error:
            raise UserError(f"folder {self._folder} cannot be read: {error.strerror}") from None
        unchanged = {name for name, state in found.items() if self._files.get(name) == state}
        now = self._clock()
        if len(unchanged) < len(found):
            self._last_change = now
        self._changed_at = {name: self._changed_at[name] if name in unchanged else now for name in found}
        self._files = found
        return unchanged

    def _pending(self) -> list[str]:
        """Return files that are not taken, in order; those that have come too late are left out."""
        for name in self._files:
            if not is_text(name) and printable(name) not in self.left_out:
                self._leave_out(name, "its name is no UTF-8 text, which a scene could not hold")
        taken = set(self._names[: self._num_fixed])
        ordered = in_order({*filter(is_text, self._files), *taken} - set(self.left_out))
        if not taken:
            return ordered
        last = self._names[self._num_fixed - 1]
        place = ordered.index(last)
        for name in ordered[:place]:
            if name not in taken:
                self._leave_out(name, f"it came after {last} had been taken")
        return [name for name in ordered[place + 1 :] if name not in taken]

    def _decode(self, name: str) -> str | None:
        """Decode an image and note its size; return what is wrong with it."""
        path = self._folder / name
        try:
            read_image(path)
            self._sizes[name] = read_image_size(path)
        except UserError as error:
            return str(error)
        return None

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out.append(printable(name) if not is_text(name) else name)
        tell(f"{self._folder / name} is left out: {reason}")
