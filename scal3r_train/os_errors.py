"""What the operating system refuses, in one line: what, why, and what helps. Imports nothing of this project."""

from __future__ import annotations

import errno
import os
import re

# What stops every file alike; no other input, setting or sequence would change it.
MACHINE_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
)
ROOM, RIGHTS, PLACE = (
    "make room and run again",
    "check its permissions or name another place",
    "check the path",
)
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM), RIGHTS),
    errno.EROFS: "name a place that is not read-only",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is in the way: remove it or name another place"),
    errno.EISDIR: "a folder is in the way: remove it or name another place",
    **dict.fromkeys((errno.ENOENT, errno.ELOOP), PLACE),
    errno.ENAMETOOLONG: "shorten the name",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "the disk, or the network to it, fails: look into `dmesg`"),
}
WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # met only by those who write
IN_TEXT = re.compile(r"os error (\d+)")  # of what is written in Rust, as safetensors
TEMPORARY = re.compile(
    r"\.(.+)\.\d+\.partial(\.[^.]*)?"
)  # what `config.atomic_output` calls a file meanwhile


def number_of(error: BaseException | None) -> int | None:
    """Return the operating system's number of an error, or of the one that it came from; None when there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if type(error).__name__ == "SafetensorError" and (found := IN_TEXT.search(str(error))):
            return int(found[1])
        error = error.__cause__
    return None


def is_of_the_machine(error: BaseException | None) -> bool:
    """Return whether an error comes from a disk that is full, fails or may not be written, at any depth."""
    return number_of(error) in MACHINE_ERRORS


def told(error: BaseException, output: str | None = None) -> str | None:
    """Return the line for an error of the operating system, None for one that only a programmer can mend.

    Args:
        error: it, or what it caused.
        output: what was being written, such as "index towns.parquet"; named unless the error names another file.
    """
    number, path = number_of(error), _path_of(error)
    if number is None or number not in ADVICE:
        return None
    if path is None or number in WRITTEN or _is_of(path, output):
        where, verb = output or path or "a file", "written"
    else:
        where, verb = path, "used"
    if (temporary := TEMPORARY.search(where)) is not None:
        where = where.replace(temporary[0], f"{temporary[1]}{temporary[2] or ''}")
    return f"{where} cannot be {verb}: {os.strerror(number)}; {ADVICE[number]}"


def _is_of(path: str, output: str | None) -> bool:
    """Return whether a file is what is being written, a part of it, or what it is called meanwhile."""
    if TEMPORARY.search(path) is not None or output is None:
        return TEMPORARY.search(path) is not None
    words = output.split(" ")
    places = (" ".join(words[first:]) for first in range(len(words)))
    return any(place and (path == place or path.startswith(f"{place}/")) for place in places)


def _path_of(error: BaseException | None) -> str | None:
    """Return the file that an error, or the one that it came from, names."""
    while error is not None:
        if isinstance(error, OSError) and error.filename is not None:
            name = error.filename2 if error.filename2 is not None else error.filename
            return os.fsdecode(name) if isinstance(name, bytes | str) else None
        error = error.__cause__
    return None
