"""JSON files of data sets, gzipped ones too: whole, or long lists one entry at a time."""

from __future__ import annotations

import codecs
import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from scal3r_train.config import UserError
from scal3r_train.text_file import parse_json, whole_number

BLOCK_BYTES = 1 << 20
MAX_BYTES = 1 << 30
MAX_ENTRY_BYTES = 8 << 20  # each of a list that is read entry by entry
GZIP_START = b"\x1f\x8b"
BETWEEN = " \t\r\n,"


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises UserError naming the file when it is missing or damaged."""
    try:
        return parse_json(_content(path).removeprefix(codecs.BOM_UTF8))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _content(path: Path) -> bytes:
    """Bytes of a file, unpacked; ValueError beyond MAX_BYTES."""
    with _opened(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it holds more than {MAX_BYTES >> 20} MiB")
    return data


def _opened(path: Path) -> BinaryIO:
    """The file, unpacked while it is read where it is gzipped."""
    with path.open("rb") as probe:
        is_gzipped = probe.read(2) == GZIP_START
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzipped else path.open("rb")


def entry(mapping: Any, key: str, path: Path) -> Any:
    """Return mapping[key]. Raises UserError naming the file when there is no such key."""
    if not isinstance(mapping, dict) or key not in mapping:
        raise UserError(f"{path} has no '{key}'; is this the dataset's own layout?")
    return mapping[key]


def is_finite_number(value: Any, above: float | None = None) -> bool:
    """Whether a value of a JSON file is a number (true and "1" are none), and above a bound if one is given."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return above is None or value > above


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def stream_list(path: Path) -> Iterator[dict[str, Any]]:
    """Return the objects of a JSON list in their order.

    Raises UserError naming the file when it is missing, damaged, or no list of objects.
    """
    try:
        with _opened(path) as file:
            yield from _objects(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _objects(file: _Readable) -> Iterator[dict[str, Any]]:
    decoder, utf8 = json.JSONDecoder(parse_int=whole_number), codecs.getincrementaldecoder("utf-8")()
    text = utf8.decode(file.read(BLOCK_BYTES)).lstrip()
    if not text.startswith("["):
        raise ValueError("not a JSON list")
    place = 1
    while True:
        while place < len(text) and text[place] in BETWEEN:
            place += 1
        if text[place : place + 1] == "]":
            return
        try:
            found, place = decoder.raw_decode(text, place)
        except ValueError as error:  # so far incomplete, unless nothing more comes
            block = file.read(BLOCK_BYTES)
            if len(text) - place > MAX_ENTRY_BYTES:
                raise ValueError(f"an entry is longer than {MAX_ENTRY_BYTES >> 20} MiB, or damaged") from None
            if not block:
                raise ValueError(f"it ends too early or is damaged: {error}") from None
            text, place = text[place:] + utf8.decode(block), 0
            continue
        if not isinstance(found, dict):
            raise ValueError("not a list of objects")
        yield found
