"""Texture files as pixels. Shapes: H W pixels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from scal3r_data_tools.preparing.circuits.sgi import decode_sgi, is_sgi
from scal3r_train.config import UserError
from scal3r_train.text_file import read_file_bytes

MAX_SIDE = 1024
GREY_AND_OPACITY = 2


def read_texture(path: Path) -> np.ndarray:
    """Return RGBA [H, W, 4] uint8, top row first, shrunk to MAX_SIDE. Raises UserError for a file that is no image."""
    try:
        data = read_file_bytes(path)
        if is_sgi(data) and data[11] == GREY_AND_OPACITY:
            image = Image.fromarray(decode_sgi(data, path), "LA")
        else:
            image = Image.open(BytesIO(data))
        pixels = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"texture {path} cannot be read: {error}") from None
    scale = MAX_SIDE / max(pixels.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in pixels.size)
        pixels = pixels.resize((width, height), Image.Resampling.BOX)
    return np.asarray(pixels)


def find_file(name: str, folders: list[Path]) -> Path | None:
    """Return the first file of that name in the folders, with its sub-folder or without; None when there is none."""
    for folder in folders:
        for candidate in (folder / name, folder / Path(name).name):
            if candidate.is_file():
                return candidate
    return None
