"""scal3r data preview: one picture of an index, per sequence its frames, depth, overlay, cameras and a point cloud.

docs/data/preview.md says how to read it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from scal3r_data_tools.jobs import progress
from scal3r_data_tools.previewing.block import sequence_block
from scal3r_data_tools.previewing.canvas import INK, broken_box, legend, stacked, text_line
from scal3r_data_tools.previewing.colours import DROPPED, EDGE, INVALID, SKY
from scal3r_train.config import StrictModel, UserError, atomic_output, load_config
from scal3r_train.data.index.index import SequenceIndex, load_index
from scal3r_train.parallel.claimed_output import claimed

MARGIN = 14
LEGEND = (
    (SKY, "sky"),
    (INVALID, "no depth"),
    (DROPPED, "depth taken away by a mask or limit"),
    (EDGE, "edge of the depth, on the grey image"),
    (None, "frames are undistorted and upright; broken ones are red"),
)


class PreviewSettings(StrictModel):
    """Settings of a preview."""

    sequences: Annotated[int, Field(ge=1)] | tuple[str, ...] = Field(
        8,
        description="how many sequences, spread over the index, or the names of some in brackets [sequences]",
    )
    frames: int = Field(6, ge=1, le=20, description="frames shown of each sequence [frames]")
    cloud_frames: int = Field(
        4, ge=0, le=20, description="frames of the point cloud, that see the same; 0: none [frames]"
    )
    width: int = Field(1800, ge=480, le=10_000, description="width of the picture [pixels]")


def main(path: str | os.PathLike[str], output: str | os.PathLike[str], overrides: Sequence[str] = ()) -> int:
    """Write a picture of some sequences of an index as a PNG; returns 0. `overrides` are key=value: PreviewSettings.

    Only the frames that are shown are read. Raises UserError when the index cannot be read or lacks a sequence that is
    named; a sequence or frame that cannot be read becomes a red box.
    """
    settings = load_config(PreviewSettings, None, overrides)
    if Path(output).suffix.lower() != ".png":
        raise UserError(f"output {output} must end in .png")
    index = load_index(path)
    with claimed(Path(output), "preview", is_folder=False):
        picture = _picture(Path(path).name, index, settings)
        with atomic_output(output) as temporary:
            Image.fromarray(picture).save(temporary)
    return 0


def _picture(name: str, index: SequenceIndex, settings: PreviewSettings) -> np.ndarray:
    """Return the whole picture, [H, W, 3] uint8."""
    rows = shown_rows(index, settings.sequences)
    width = settings.width - 2 * MARGIN
    title = f"{name}: {len(rows)} of {len(index)} sequences, {sum(index.num_frames)} frames in all"
    pieces = [text_line(title, width, 18, bold=True), legend(LEGEND, width)]
    for row in progress(rows, len(rows), "preview"):
        pieces += [np.full((2, width, 3), INK, np.uint8), _block(index, row, settings, width)]
    return np.pad(stacked(pieces, width), [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)], constant_values=255)


def shown_rows(index: SequenceIndex, sequences: int | tuple[str, ...]) -> list[int]:
    """Return the rows of the sequences that are named, or of so many, spread over the index.

    Raises UserError for a name that is not there, and for none.
    """
    if isinstance(sequences, int):
        if sequences < 1:
            raise UserError(f"sequences={sequences} shows nothing; it must be at least 1")
        return np.unique(np.linspace(0, len(index) - 1, min(sequences, len(index))).astype(int)).tolist()
    unknown = [name for name in sequences if name not in index.sequence_ids]
    if unknown or not sequences:
        some = ", ".join(index.sequence_ids[:8]) + (", ..." if len(index) > 8 else "")
        raise UserError(f"{index.path} has no sequence named {', '.join(unknown) or '[]'}; it holds {some}")
    return [row for name in sequences for row, other in enumerate(index.sequence_ids) if other == name]


def _block(index: SequenceIndex, row: int, settings: PreviewSettings, width: int) -> np.ndarray:
    try:
        record = index[row]
    except UserError as error:
        name = text_line(index.sequence_ids[row], width, 16, bold=True)
        return stacked([name, broken_box(str(error), (60, width))], width)
    return sequence_block(record, settings.frames, settings.cloud_frames, width)
