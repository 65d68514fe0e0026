"""Pictures that lie among the images of a sequence and that nothing uses: frames that no list names, or unread kinds.

Adapters say what their lists lack; this looks from the other side, at the folders, and is the same for all of them.
Several pictures of one frame (its mask, its depth, a brighter version) count as the frame: a frame is what the name
says up to its last digit, the whole stem where there is none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath

from scal3r_train.config import UserError
from scal3r_train.data.index.source import OTHER_CONTENT, PICTURE_SUFFIXES, is_image_name, unread_kind
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.image_codec import DamagedImageError, read_image_header
from scal3r_train.data.io.left_out import IMAGE, NOT_LISTED, Ledger, leave_out
from scal3r_train.data.sequence import SequenceRecord

DEPTH_SUFFIXES = (".exr", ".hdr")


def frame_of(name: str) -> str:
    """Return what tells the frame of a file name: up to its last digit, or the stem."""
    found = re.match(r".*\d", name[: name.rfind(".")] if "." in name else name)
    return found[0] if found else PurePath(name).stem


class Unused:
    """The pictures of all folders of images that no record has used so far."""

    def __init__(self) -> None:
        """Know no folder yet."""
        self._folders: dict[Path, dict[str, str]] = {}

    def look(self, record: SequenceRecord, ledger: Ledger) -> None:
        """Take what a sequence uses, and what was said to be left out, from what lies in its folders."""
        if record.packed is not None or video_frame(record, record.image[0]) is not None:
            return
        others = _by_folder(record.root, (*record.depth, *record.mask))
        for folder, frames in _by_folder(record.root, record.image).items():
            unused = self._folders.get(folder)
            if unused is None:
                unused = self._folders[folder] = _pictures(folder)
            said = {frame_of(name) for name in ledger.names.get(folder, ())}
            for frame in frames | others.get(folder, set()) | said:
                unused.pop(frame, None)

    def leave_out(self) -> None:
        """Say what is left."""
        for folder, unused in self._folders.items():
            by_kind: dict[str, list[str]] = {}
            for name in unused.values():
                if _is_depth(folder / name):
                    continue
                by_kind.setdefault("" if is_image_name(name) else PurePath(name).suffix.lower(), []).append(
                    name
                )
            for suffix, names in by_kind.items():
                if suffix:
                    leave_out(unread_kind(suffix), names, folder, f"{suffix} file")
                else:
                    leave_out(NOT_LISTED, names, folder, IMAGE)


def _by_folder(root: Path, names: Iterable[str]) -> dict[Path, set[str]]:
    """Frames of the files, by the folder that they lie in; sets have millions, so names are cut as text."""
    found: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        found.setdefault(folder, set()).add(frame_of(file))
    by_folder: dict[Path, set[str]] = {}
    for place, frames in found.items():
        by_folder.setdefault(Path(os.path.normpath(root / place)), set()).update(frames)
    return by_folder


def _is_depth(path: Path) -> bool:
    """Whether a picture is a depth map of a frame that is not used: 16-bit and grey."""
    try:
        read_image_header(path)
    except DamagedImageError:
        return False
    except UserError:
        return path.suffix.lower() == ".png"
    return False


def _pictures(folder: Path) -> dict[str, str]:
    """One name for each frame of a folder."""
    kinds = tuple(suffix for suffix in PICTURE_SUFFIXES if suffix not in DEPTH_SUFFIXES)
    found: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries if entry.is_file()):
            is_picture = is_image_name(name) or (name.lower().endswith(kinds) and not name.startswith("."))
            if is_picture and not OTHER_CONTENT.search(name):
                found.setdefault(frame_of(name), name)
    return found
