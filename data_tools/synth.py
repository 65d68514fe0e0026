"""scal3r data synth: write procedural towns and their index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scal3r_data_tools.adapters import towns
from scal3r_data_tools.jobs import run_jobs
from scal3r_train.config import UserError, dump_yaml, load_config
from scal3r_train.data.index.index import write_index
from scal3r_train.data.io.depth_codec import encode_uint16
from scal3r_train.data.synthetic.settings import TownSettings, write_blackouts
from scal3r_train.data.synthetic.town import FRAMES_PER_SECOND, TownDrive
from scal3r_train.parallel.claimed_output import claimed, whole_folder

SETTINGS_FILE, INDEX_FILE = "towns.yaml", "index.parquet"
PNG_COMPRESSION = 1


class SynthSettings(TownSettings):
    """Settings of the towns and of the work."""

    num_workers: int = Field(
        2, gt=0, le=256, description="processes that render; the result does not depend on it [processes]"
    )


def main(output: str | os.PathLike[str], overrides: Sequence[str] = ()) -> int:
    """Write settings.num_sequences towns below `output`, complete or not at all; returns 0.

    A folder that already holds the same towns is left alone. Raises UserError for any other folder with content.
    """
    output = Path(output)
    settings = load_config(SynthSettings, None, overrides)
    towns_settings = TownSettings(**settings.model_dump(exclude={"num_workers"}))
    if output.is_dir() and any(output.iterdir()):
        if _made_with(output) == towns_settings:
            return 0
        raise UserError(f"{output} holds something else already; remove it or name another folder")
    with claimed(output, "folder", is_folder=True), whole_folder(output) as folder:
        _write_all(folder, settings)
        write_index(folder / INDEX_FILE, towns.index(folder, towns.Options()))
        (folder / SETTINGS_FILE).write_text(dump_yaml(towns_settings), encoding="utf-8")
    return 0


def _made_with(folder: Path) -> TownSettings | None:
    """Return the settings of the towns in a folder, also of those made before some settings existed; None: no towns."""
    path = folder / SETTINGS_FILE
    try:
        return load_config(TownSettings, path) if path.is_file() else None
    except UserError:
        return None


def sequence_name(settings: TownSettings, number: int) -> str:
    """Name of a town sequence; seeds make names differ, so that folders can be merged."""
    return f"town_{settings.seed:03d}_{number:05d}"


def write_town(folder: Path, settings: TownSettings, number: int) -> None:
    """Render one sequence into `folder/<sequence name>`, in the layout of adapters/towns.py."""
    drive = TownDrive(settings, number)
    target = folder / sequence_name(settings, number)
    for name in ("rgb", "depth"):
        (target / name).mkdir(parents=True)
    for i, (image, depth) in enumerate(drive.render()):
        for name, pixels in (("rgb", image), ("depth", encode_uint16(depth, towns.DEPTH_CODEC))):
            Image.fromarray(pixels).save(target / name / f"{i:06d}.png", compress_level=PNG_COMPRESSION)
    num = settings.num_frames
    camera = np.tile([*drive.intrinsics, settings.width, settings.height], (num, 1))
    times = np.arange(num)[:, None] / FRAMES_PER_SECOND
    for name, table, header in (
        (towns.POSE_FILE, drive.extrinsics.reshape(num, 12), "cam_from_world 3x4, OpenCV axes, metres"),
        (towns.CAMERA_FILE, camera, "fx fy cx cy width height, pixel centres at half integers"),
        (towns.TIME_FILE, times, "seconds"),
    ):
        np.savetxt(target / name, table, fmt="%.17g", header=header)
    write_blackouts(target, drive.is_hidden)


def _write_all(folder: Path, settings: SynthSettings) -> None:
    jobs = [(folder, settings, number) for number in range(settings.num_sequences)]
    run_jobs(write_town, jobs, settings.num_workers, "towns")
