"""Tables of numbers in text files, as most datasets store poses and cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.text_file import as_number, is_number, read_text_file, words_of


def named_text(path: Path, remedy: str) -> str:
    """Return the text of a file that a user named. Raises UserError, with the remedy where it does not exist."""
    try:
        return read_text_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; it must be a text file") from None


def read_table(
    path: Path,
    num_columns: int | None,
    num_rows: int | None = None,
    skip_rows: int = 0,
    *,
    separator: str | None = None,
    is_finite: bool = True,
) -> np.ndarray:
    """Numbers [rows, num_columns] float64; `#` starts a comment, a first line of words is a heading.

    Blanks, tabs, commas and semicolons divide numbers, or only the separator that is given; num_columns is that of the
    first row if it is None.

    Raises UserError naming the file when it is missing, not numeric, of another shape, or (with is_finite) not finite.
    """
    try:
        lines = [line.partition("#")[0] for line in read_text_file(path).splitlines()[skip_rows:]]
        words = [_words(line, separator) for line in lines if line.strip()]
        if words and not any(map(is_number, words[0])):  # a heading
            words = words[1:]
        rows = [[as_number(word) for word in row] for row in words if row]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    num_columns = len(rows[0]) if num_columns is None and rows else num_columns or 1
    bad = next((number for number, row in enumerate(rows) if len(row) != num_columns), None)
    if bad is not None:
        raise UserError(f"{path}: row {bad} has {len(rows[bad])} numbers, expected {num_columns}")
    if num_rows is not None and len(rows) != num_rows:
        raise UserError(f"{path}: {len(rows)} rows, expected {num_rows}; are files missing?")
    table = np.array(rows, np.float64).reshape(-1, num_columns)
    if is_finite and not np.isfinite(table).all():
        raise UserError(f"{path}: row {int(np.argmin(np.isfinite(table).all(1)))} is not finite")
    return table


def _words(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return words_of(line)
    return [word.strip() for word in line.split(separator) if word.strip()]


def read_named_rows(path: Path, num_columns: int) -> dict[str, np.ndarray]:
    """Rows of a name and numbers, by name, [num_columns] float64 each, which may be not finite; `#` starts a comment.

    Raises UserError naming the file when it is missing, not numeric or of another shape.
    """
    rows: dict[str, np.ndarray] = {}
    try:
        for line in read_text_file(path).splitlines():
            words = line.partition("#")[0].rsplit(maxsplit=num_columns)  # names may hold blanks
            if not words:
                continue
            if len(words) != num_columns + 1:
                raise UserError(f"{path}: '{line}' is no name and {num_columns} numbers")
            rows[words[0].strip()] = np.array([as_number(word) for word in words[1:]])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except (ValueError, OSError) as error:
        raise (
            error if isinstance(error, UserError) else UserError(f"{path} cannot be read: {error}")
        ) from None
    return rows


def cam_from_world(world_from_cam: np.ndarray) -> np.ndarray:
    """Invert rigid transforms [S, 3, 4] float64."""
    return invert_extrinsics(torch.from_numpy(world_from_cam)).numpy()
