"""Drives round the circuits of two free racing games, as `scal3r data prepare circuits` renders them.

Layout: CIRCUIT/NNN/{rgb/%06d.jpg, depth/%06d.png}, cam_from_world.txt (3x4 row by row, OpenCV axes, metres),
intrinsics.txt (fx fy cx cy width height, pixel centres at half integers), times.txt (seconds), one line a frame, and
drive.json (game, licence, authors). Depth is uint16 centimetres, 65535 = sky, 0 = too far. Folders whose names begin
with a dot are unfinished. Which circuits are for testing and validation is written down here, whatever a folder says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import folders_where
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import StrictModel
from scal3r_train.data.io.left_out import SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord

POSE_FILE, CAMERA_FILE, TIME_FILE = "cam_from_world.txt", "intrinsics.txt", "times.txt"
DRIVE_FILE = "drive.json"
DEPTH_CODEC = "uint16_cm_sky"
# the shared sample game_loop is a drive round aalborg
TEST = frozenset(("aalborg", "dirt-3", "g-track-3", "ruudskogen", "wheel-1"))
VALIDATION = frozenset(("e-track-4", "eroad"))

UNFINISHED = Cause("not rendered to the end", "run `scal3r data prepare circuits` again")


class Options(StrictModel):
    """What one unit of length in the index is."""

    camera_height: float | None = Field(
        None,
        gt=0,
        description="the index's unit is chosen for each drive such that its camera is mounted this high above the "
        "road, which a single picture of a road shows; null: metres (kart tracks: their game's unit) [scene units]",
    )


def is_held_out(circuit: str) -> bool:
    """Tell whether training must not see a circuit."""
    return circuit in TEST | VALIDATION


def split_of(circuit: str) -> str:
    """Return the split of a circuit: test, val or train."""
    return "test" if circuit in TEST else "val" if circuit in VALIDATION else "train"


def drive_name(circuit: str, number: int) -> str:
    """Folder of a drive below the output."""
    return f"{circuit}/{number:03d}"


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all finished drives below the folder, or of the folder itself."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: bool(names & {DRIVE_FILE, "rgb"}), 2):
        if folder.name.startswith(".") or not (folder / DRIVE_FILE).is_file():
            leave_out(UNFINISHED, [folder.name], folder.parent, SEQUENCE)
        else:
            yield _drive(folder, options)


@names_file("folder")
def _drive(folder: Path, options: Options) -> SequenceRecord:
    facts = read_json(folder / DRIVE_FILE)
    circuit, licence, authors = (
        str(entry(facts, key, folder / DRIVE_FILE)) for key in ("circuit", "licence", "authors")
    )
    poses = read_table(folder / POSE_FILE, 12).reshape(-1, 3, 4)
    num = len(poses)
    is_metric, unit = bool(entry(facts, "is_metric", folder / DRIVE_FILE)), 1.0
    if options.camera_height is not None:
        style = entry(facts, "style", folder / DRIVE_FILE)
        is_metric, unit = False, float(entry(style, "height", folder / DRIVE_FILE)) / options.camera_height
    poses[:, :, 3] /= unit
    camera = read_table(folder / CAMERA_FILE, 6, num_rows=num)
    return SequenceRecord(
        dataset="circuits",
        sequence_id=f"{circuit}/{folder.name}",
        root=folder,
        image=tuple(f"rgb/{i:06d}.jpg" for i in range(num)),
        depth=tuple(f"depth/{i:06d}.png" for i in range(num)),
        depth_codec=DEPTH_CODEC,
        depth_scale=1 / unit,
        camera_model="pinhole",
        intrinsics=camera[:, :4],
        cam_from_world=poses,
        timestamp=read_table(folder / TIME_FILE, 1, num_rows=num)[:, 0],
        image_size=camera[:, [5, 4]].astype(np.int64),
        split=split_of(circuit),
        is_metric=is_metric,
        is_synthetic=True,
        licence=licence,
        source=f"{entry(facts, 'game', folder / DRIVE_FILE)}, {circuit}: {authors}",
    )
