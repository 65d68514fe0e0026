"""Pieces of the picture: lines of text, tiles with captions, red boxes; and how they are put together.

Pieces are images [H, W, 3] uint8.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

WHITE, INK, FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)
BROKEN_FILL, BROKEN_INK = (253, 226, 226), (170, 0, 0)
EMPTY_FILL = (242, 242, 242)
PADDING = 6
CAPTION_SIZE = 11
Colour = tuple[int, int, int]


def text_line(
    text: str, width: int, size: int = 13, colour: Colour = INK, *, bold: bool = False
) -> np.ndarray:
    """Text on white, wrapped to a width."""
    font = _font(size, bold=bold)
    lines = _wrapped(text, font, width)
    step = int(size * 1.4)
    picture = Image.new("RGB", (width, step * len(lines) + 2), WHITE)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((0, number * step), line, fill=colour, font=font)
    return np.asarray(picture)


def legend(entries: Sequence[tuple[Colour | None, str]], width: int) -> np.ndarray:
    """Return a line of coloured squares, each with its meaning; those without colour are text alone."""
    font = _font(CAPTION_SIZE + 1)
    picture = Image.new("RGB", (width, 20), WHITE)
    draw = ImageDraw.Draw(picture)
    x = 0.0
    for colour, text in entries:
        if colour is not None:
            draw.rectangle((x, 3, x + 12, 15), fill=colour, outline=FAINT)
            x += 17
        draw.text((x, 2), text, fill=INK, font=font)
        x += font.getlength(text) + 16
    return np.asarray(picture)


def tile(image: np.ndarray, hw: tuple[int, int], caption: str = "") -> np.ndarray:
    """Place an image that fits into the middle of a tile, with a caption in its corner."""
    picture = Image.new("RGB", (hw[1], hw[0]), WHITE)
    left, top = (hw[1] - image.shape[1]) // 2, (hw[0] - image.shape[0]) // 2
    picture.paste(Image.fromarray(image), (left, top))
    if caption:
        font, draw = _font(CAPTION_SIZE), ImageDraw.Draw(picture)
        box = (left, top, left + font.getlength(caption) + 6, top + CAPTION_SIZE + 5)
        draw.rectangle(box, fill=(0, 0, 0))
        draw.text((left + 3, top + 1), caption, fill=WHITE, font=font)
    return np.asarray(picture)


def broken_box(reason: str, hw: tuple[int, int]) -> np.ndarray:
    """Return a red box that says what is wrong."""
    return _box(reason, hw, BROKEN_FILL, BROKEN_INK)


def empty_box(reason: str, hw: tuple[int, int]) -> np.ndarray:
    """Return a grey box that says why there is nothing to show."""
    return _box(reason, hw, EMPTY_FILL, FAINT)


def grid(pieces: Sequence[np.ndarray], num_columns: int) -> np.ndarray:
    """Put pieces of one size into rows; places that are left over stay white."""
    rows = [pieces[first : first + num_columns] for first in range(0, len(pieces), num_columns)]
    lines = [side_by_side([*row, *[np.full_like(pieces[0], 255)] * (num_columns - len(row))]) for row in rows]
    return stacked(lines, lines[0].shape[1])[:-PADDING]


def side_by_side(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Put pieces of one height next to each other."""
    gap = np.full((pieces[0].shape[0], PADDING, 3), 255, np.uint8)
    spaced = [part for piece in pieces for part in (piece, gap)]
    return np.concatenate(spaced[:-1], 1)


def stacked(pieces: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Put pieces below each other on white, not wider than a width."""
    rows = []
    for piece in pieces:
        row = piece[:, :width]
        gaps = [(0, PADDING), (0, width - row.shape[1]), (0, 0)]
        rows.append(np.pad(row, gaps, constant_values=255))
    return np.concatenate(rows)


def _box(reason: str, hw: tuple[int, int], fill: Colour, ink: Colour) -> np.ndarray:
    picture = Image.new("RGB", (hw[1], hw[0]), fill)
    draw, font = ImageDraw.Draw(picture), _font(CAPTION_SIZE)
    draw.rectangle((0, 0, hw[1] - 1, hw[0] - 1), outline=ink, width=2)
    num_lines = max((hw[0] - 10) // (CAPTION_SIZE + 3), 1)
    lines = _wrapped(reason, font, hw[1] - 16)[:num_lines]
    draw.multiline_text((8, 6), "\n".join(lines), fill=ink, font=font, spacing=3)
    return np.asarray(picture)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break text where it is too long, after spaces or, in long paths, anywhere."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        while len(longer) > 1 and font.getlength(longer) > width:
            end = _num_fitting(longer, font, width)
            lines.append(longer[:end])
            longer = longer[end:]
        line = longer
    return [*lines, line]


def _num_fitting(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """Letters of a word that fit, at least one, found by halving."""
    return max(bisect_right(range(1, len(word)), width, key=lambda num: ceil(font.getlength(word[:num]))), 1)


@lru_cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # Pillow's own font has no bold and fewer letters.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
