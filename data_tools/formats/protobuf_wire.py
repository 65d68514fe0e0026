"""The wire format of protocol buffers, as much of it as reading a known message takes.

A message is a run of fields, each a key (field number and wire type) and a value: 0 variable-length integer, 1 eight
bytes, 2 a length and as many bytes (texts, messages), 5 four bytes. Fields may come in any order and repeat; those that
are not known are skipped by their wire type.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Return field numbers and values: integers, or the raw bytes of all else. Raises ValueError when it is cut off."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            length, place = _varint(message, place)
        elif kind in (FIXED_64, FIXED_32):
            length = 8 if kind == FIXED_64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {place}")
        if place + length > len(message):
            raise ValueError("a field goes beyond the end")
        yield number, message[place : place + length]
        place += length


def all_messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """Return the repeated messages of one field. Raises ValueError as `fields`."""
    for found, value in fields(message):
        if found == number:
            yield _bytes(value)


def message_at(message: memoryview, number: int) -> memoryview:
    """Return the message or text of one field; the last one counts, an empty one when there is none."""
    return next(iter([*all_messages(message, number)][-1:]), memoryview(b""))


def integer_at(message: memoryview, number: int) -> int:
    """Return the integer of one field, 0 when there is none (what is zero may be left out)."""
    values = [value for found, value in fields(message) if found == number and isinstance(value, int)]
    return values[-1] if values else 0


def float_at(message: memoryview, number: int) -> float:
    """Return the 4-byte float of one field, 0 when there is none."""
    data = bytes(message_at(message, number))
    if not data:
        return 0.0
    if len(data) != 4:
        raise ValueError(f"field {number} is no 4-byte float")
    return float(struct.unpack("<f", data)[0])


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("an integer where a message is expected")
    return value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("an integer goes beyond the end")
