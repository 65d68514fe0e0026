"""Drives round circuits, rendered into the layout that adapters/circuits.py indexes.

A drive is a function of the seed, the circuit's name and its number. It is written into a folder with a leading dot
and renamed when it is complete; what such a folder holds already is not drawn again. Drives are made in rounds: the
first of every circuit, then the second of each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from scal3r_data_tools.adapters import circuits as layout
from scal3r_data_tools.jobs import run_jobs
from scal3r_data_tools.preparing.circuits.drive import (
    FRAMES_PER_SECOND,
    CameraPath,
    Style,
    camera_path,
    draw_style,
)
from scal3r_data_tools.preparing.circuits.licences import UNKNOWN
from scal3r_data_tools.preparing.circuits.photograph import depth_counts, photograph
from scal3r_data_tools.preparing.circuits.places import Circuit, find_circuits
from scal3r_data_tools.preparing.circuits.renderer import Fog, Renderer
from scal3r_train.config import StrictModel, UserError, write_text_atomically
from scal3r_train.notes import note

OPTIONS_FILE = "options.json"
PNG_COMPRESSION = 6
HELD_OUT_DRIVES = 2  # one in each direction


class Options(StrictModel):
    """What is rendered. The choice of circuits and drives may change from start to start, the rest may not."""

    circuits: tuple[str, ...] = Field((), description="names of circuits in brackets; none: all")
    drives: int = Field(
        2, ge=1, le=1000, description="drives round each; even ones forwards, odd ones backwards [drives]"
    )
    width: int = Field(252, ge=16, le=4096, description="width of the pictures [pixels]")
    height: int = Field(140, ge=16, le=4096, description="height of the pictures [pixels]")
    supersampling: int = Field(2, ge=1, le=8, description="colour is rendered so many times larger [factor]")
    laps: float = Field(
        1.1,
        gt=0,
        le=100,
        description="how far a drive goes; more than 1: the first places are seen again [laps]",
    )
    max_frames: int = Field(
        0,
        ge=0,
        description="a drive round a training circuit ends there, after 2 or more; 0: after its laps [frames]",
    )
    seed: int = Field(0, ge=0, description="seed of the circuits' drives [-]")
    num_workers: int = Field(
        2, gt=0, le=256, description="processes that render; the result does not depend on it [processes]"
    )

    @field_validator("max_frames")
    @classmethod
    def _moves(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a drive has at least 2 frames, or 0: all of its laps")
        return value

    def of_frames(self) -> str:
        """What the files depend on, as text."""
        return self.model_dump_json(exclude={"circuits", "drives", "num_workers"})


def prepare(source: Path, output: Path, options: Options) -> None:
    """Render what is not there yet. Raises UserError for an unknown circuit, other options than before, no OpenGL."""
    source, output = source.resolve(), output.resolve()
    known = {circuit.name: circuit for circuit in find_circuits(source)}
    unknown = [name for name in options.circuits if name not in known]
    if unknown:
        raise UserError(f"{source} has no circuit named {', '.join(unknown)}; known are {', '.join(known)}")
    _same_options(output, options)
    jobs = [
        (known[name], number, output, options)
        for number in range(options.drives)
        for name in dict.fromkeys(options.circuits or known)
        if not (layout.is_held_out(name) and number >= HELD_OUT_DRIVES)
        and not (output / layout.drive_name(name, number)).is_dir()
    ]
    if jobs:
        run_jobs(render_drive, jobs, options.num_workers, "circuits")


def render_drive(circuit: Circuit, number: int, output: Path, options: Options) -> None:
    """Write one drive, complete or, if it is stopped, into a folder that the next start goes on with."""
    target = output / layout.drive_name(circuit.name, number)
    partial = target.with_name(f".{target.name}.partial")
    for name in ("rgb", "depth"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    world, route = circuit.load()
    seed = [options.seed, crc32(circuit.name.encode()), number]
    rng = np.random.default_rng(seed)
    style = draw_style(rng, number)
    max_frames = 0 if layout.is_held_out(circuit.name) else options.max_frames
    path = camera_path(route, style, rng, options.laps, max_frames)
    focal = options.width / 2 / np.tan(style.field_of_view / 2)
    intrinsics = np.array([focal, focal, options.width / 2, options.height / 2])
    renderer = Renderer(world, (options.height, options.width), options.supersampling)
    _write_frames(renderer, partial, path, style, intrinsics, seed)
    renderer.close()
    _write_tables(partial, path, intrinsics, options)
    licence = circuit.licence(world)
    if UNKNOWN in licence.terms:
        note(f"{circuit.name}: the licence of some of its files is not written down below {circuit.source}")
    document = {
        "circuit": circuit.name,
        "game": circuit.game,
        "licence": licence.terms,
        "authors": licence.authors,
        "is_metric": circuit.game == "TORCS",
        "lap_m": round(route.length, 3),
        "driven_m": round(float(path.driven[-1]), 3),
        "style": {key: np.asarray(value).tolist() for key, value in vars(style).items()},
    }
    write_text_atomically(partial / layout.DRIVE_FILE, json.dumps(document, indent=1, sort_keys=True))
    os.replace(partial, target)


def _write_frames(
    renderer: Renderer,
    folder: Path,
    path: CameraPath,
    style: Style,
    intrinsics: np.ndarray,
    seed: list[int],
) -> None:
    fog = Fog(style.fog_colour, style.fog_per_m)
    for number in range(_first_to_write(folder), len(path.driven)):
        image, depth = renderer.render(path.world_from_cam[number], intrinsics, fog)
        rng = np.random.default_rng([*seed, number])
        picture = Image.fromarray(photograph(image, style, path.exposure[number], rng))
        picture.save(folder / "rgb" / f"{number:06d}.jpg", quality=style.jpeg_quality)
        counts = Image.fromarray(depth_counts(depth))
        counts.save(folder / "depth" / f"{number:06d}.png", compress_level=PNG_COMPRESSION)


def _first_to_write(folder: Path) -> int:
    """The last frame that was begun: depth is written last, so all frames before are whole."""
    stems = [path.stem for path in (folder / "depth").glob("*.png")]
    return max((int(stem) for stem in stems if stem.isdecimal()), default=0)


def _write_tables(folder: Path, path: CameraPath, intrinsics: np.ndarray, options: Options) -> None:
    num = len(path.driven)
    rotation = path.world_from_cam[:, :, :3].transpose(0, 2, 1)
    cam_from_world = np.concatenate([rotation, -rotation @ path.world_from_cam[:, :, 3:]], -1)
    camera = np.tile([*intrinsics, options.width, options.height], (num, 1))
    times = np.arange(num)[:, None] / FRAMES_PER_SECOND
    for name, table, header in (
        (
            layout.POSE_FILE,
            cam_from_world.reshape(num, 12),
            "cam_from_world 3x4, OpenCV axes, metres; world y up",
        ),
        (layout.CAMERA_FILE, camera, "fx fy cx cy width height, pixel centres at half integers"),
        (layout.TIME_FILE, times, "seconds"),
    ):
        np.savetxt(folder / name, table, fmt="%.12g", header=header)


def _same_options(output: Path, options: Options) -> None:
    """Refuse to mix frames of different options in one folder."""
    path, wanted = output / OPTIONS_FILE, options.of_frames()
    if path.is_file() and path.read_text(encoding="utf-8") == wanted:
        return
    if path.is_file() and any(output.glob("*/*/rgb/*")):
        raise UserError(f"{output} was made with other options ({path}); give the same, or another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, wanted)
