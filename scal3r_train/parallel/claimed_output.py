"""What every command does about its output before the work: own it, see that it can be written, clear up after a kill.

A command that is killed leaves a hidden `.partial` file or folder beside its output. The next one to own the output
knows by the lock that nobody writes it any more, and removes it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scal3r_train.config import UserError, writing
from scal3r_train.os_errors import TEMPORARY
from scal3r_train.parallel.folder_lock import lock_beside, owned

PARTIAL = "partial"


@contextmanager
def claimed(output: Path, what: str, *, is_folder: bool) -> Iterator[None]:
    """Own an output while the body makes it, in one step at its end or, of a folder, file by file.

    Args:
        output: file or folder to write.
        what: it is, for messages, such as "index": the path is added.
        is_folder: which of the two it is.

    Raises:
        UserError: before the body, when another process writes it, it cannot be written, or a folder is where a file
            should be or the other way round; in the body for whatever the operating system refuses there.
    """
    name = f"{what} {output}"
    with writing(name):
        if output.exists() and output.is_dir() != is_folder:
            found, wanted = ("file", "folder") if is_folder else ("folder", "file")
            raise UserError(f"{name} is a {found}; name a {wanted} to write")
        with owned(lock_beside(output), name):
            if is_folder and output.is_dir():
                _refuse_read_only(output)
                remove_leftovers_within(output)
            remove_leftovers(output)
            is_new = not output.exists()
            try:
                yield
            except BaseException:
                if is_folder and is_new:
                    with suppress(OSError):  # what holds finished work stays
                        output.rmdir()
                raise


def partial_of(output: Path) -> Path:
    """Return the hidden folder beside an output in which this process makes it."""
    return output.with_name(f".{output.name}.{os.getpid()}.{PARTIAL}")


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of `output`, missing or empty, on success, and goes after any error."""
    temporary = partial_of(output)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(output: Path) -> None:
    """Remove what killed processes left beside an output that this process owns, by the names of `atomic_output`."""
    stem, suffix = re.escape(output.stem), re.escape(output.suffix)
    ours = re.compile(rf"\.{re.escape(output.name)}\.\d+\.{PARTIAL}|\.{stem}\.\d+\.{PARTIAL}{suffix}")
    with os.scandir(output.parent) as entries:
        found = [entry for entry in entries if ours.fullmatch(entry.name)]
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def remove_leftovers_within(folder: Path) -> None:
    """Remove the files that killed processes left half-written in or below a folder that this process owns."""
    for place, _, names in os.walk(folder):
        for name in names:
            if TEMPORARY.fullmatch(name):
                os.unlink(os.path.join(place, name))


def _refuse_read_only(folder: Path) -> None:
    """Raise the OSError of making a file in a folder, before hours of work."""
    probe = folder / f".{os.getpid()}.{PARTIAL}"
    os.close(os.open(probe, os.O_CREAT | os.O_WRONLY, 0o666))
    os.unlink(probe)
