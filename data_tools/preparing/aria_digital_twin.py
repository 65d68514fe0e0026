"""Unpacking of Aria Digital Twin's VRS recordings into images, depth and tables that aria_digital_twin.py indexes.

Source: a folder of sequences, each with video.vrs, depth_images.vrs, aria_trajectory.csv and the rest as downloaded (or
one sequence). Output: SEQUENCE/{rgb, depth, calibration.json, frames.txt}. A sequence is written under a temporary name
and renamed; frames that are already in the temporary folder are not written again, finished sequences are skipped.
Needs projectaria_tools. Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scal3r_data_tools.adapters.aria_digital_twin import CALIBRATION_FILE, FRAMES_FILE, RECORDING
from scal3r_data_tools.formats.aria import AriaCamera
from scal3r_data_tools.formats.notes import note
from scal3r_data_tools.preparing.aria_recording import Recording, open_recording
from scal3r_data_tools.progress import progress
from scal3r_train.config import StrictModel, UserError, atomic_output, write_text_atomically

HEADER = "number, seconds, world_from_cam 3x4 row by row (OpenCV axes, metres)"
OPTIONS_FILE = "options.json"
PNG_COMPRESSION = 1
Opener = Callable[[Path, "Options"], Recording]


class Options(StrictModel):
    """Settings of the unpacking; `every` and `with_people` change what is written."""

    every: int = Field(3, ge=1, le=1000, description="take every Nth image (they come 30 times a second)")
    with_people: bool = Field(
        default=False, description="depth with people in it, where the sequence has that"
    )
    max_time_difference_ms: float = Field(
        5.0, gt=0, le=100, description="pose and depth must be nearer in time to an image than this"
    )
    jpeg_quality: int = Field(95, ge=50, le=100, description="of the images")
    num_workers: int = Field(2, ge=1, le=256, description="sequences that are unpacked at a time")


def open_vrs(folder: Path, options: Options) -> Recording:
    """Open a sequence's recording with projectaria_tools."""
    return open_recording(folder, with_people=options.with_people)


def prepare(source: Path, output: Path, options: Options) -> None:
    """Unpack all sequences below `source` that are not yet in `output`.

    Raises UserError when there is none, or when one cannot be unpacked (the others are finished first).
    """
    folders = sorted(path.parent for path in [*source.glob(RECORDING), *source.glob(f"*/{RECORDING}")])
    if not folders:
        raise UserError(f"{source} holds no {RECORDING}, nor a folder with one; is this Aria Digital Twin?")
    todo = []
    for folder in folders:
        done = output / folder.resolve().name
        if done.is_dir():
            _same_options(done, options)
        else:
            todo.append(folder)
    if not todo:
        return
    problems: list[UserError] = []
    # spawn: a fork would inherit threads in an undefined state
    with ProcessPoolExecutor(min(options.num_workers, len(todo)), get_context("spawn")) as pool:
        jobs = [pool.submit(unpack, folder, output / folder.resolve().name, options) for folder in todo]
        for job in progress(as_completed(jobs), len(jobs), "aria_digital_twin"):
            try:
                job.result()
            except UserError as error:
                problems.append(error)
    if problems:
        raise UserError(
            f"{problems[0]} (and {len(problems) - 1} more problems)" if problems[1:] else str(problems[0])
        )


def unpack(folder: Path, target: Path, options: Options, opener: Opener = open_vrs) -> None:
    """Write one sequence. Raises UserError when it cannot be read or has no frame with a pose."""
    recording = opener(folder, options)
    camera, times = recording.camera, recording.times_ns
    partial = target.with_name(f".{target.name}.partial")
    for name in ("rgb", "depth"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    _same_options(partial, options)
    rows, num_absent = [], 0
    for number in range(0, len(times), options.every):
        world_from_device = _write_frame(recording, partial, number, times[number], camera, options)
        if world_from_device is None:
            num_absent += 1
            continue
        world_from_cam = camera.world_from_cam(world_from_device[None])[0]
        rows.append([number, times[number] * 1e-9, *world_from_cam.ravel()])
    if not rows:
        raise UserError(f"{folder}: no image of {len(times)} has a pose; is aria_trajectory.csv complete?")
    if num_absent:
        note(f"{folder}: {num_absent} images have no pose and are left out")
    with atomic_output(partial / FRAMES_FILE) as temporary:
        np.savetxt(temporary, np.array(rows), fmt=["%d", *["%.17g"] * 13], header=HEADER)
    write_text_atomically(partial / CALIBRATION_FILE, json.dumps(_document(camera), indent=1))
    os.replace(partial, target)


def _write_frame(
    recording: Recording, folder: Path, number: int, time_ns: int, camera: AriaCamera, options: Options
) -> np.ndarray | None:
    """Write image and depth unless they are there, and return world_from_device [3, 4]; None without a pose."""
    frame = recording.frame(time_ns, int(options.max_time_difference_ms * 1e6))
    if frame is None or not np.isfinite(frame.world_from_device).all():
        return None
    if frame.image.shape[:2] != camera.image_hw:
        raise UserError(
            f"{folder}: images are {frame.image.shape[:2]}, their calibration is for {camera.image_hw} (height, width)"
        )
    image, depth = folder / "rgb" / f"{number:06d}.jpg", folder / "depth" / f"{number:06d}.png"
    if not image.is_file():
        with atomic_output(image) as temporary:
            Image.fromarray(frame.image).convert("RGB").save(temporary, quality=options.jpeg_quality)
    if frame.depth is not None and not depth.is_file():
        with atomic_output(depth) as temporary:
            Image.fromarray(frame.depth).save(temporary, compress_level=PNG_COMPRESSION)
    return frame.world_from_device


def _same_options(folder: Path, options: Options) -> None:
    """Refuse to go on with frames that were written with other options."""
    wanted = options.model_dump_json(exclude={"num_workers"})
    path = folder / OPTIONS_FILE
    if path.is_file() and path.read_text(encoding="utf-8") != wanted:
        raise UserError(f"{folder} was made with other options; remove it, or give the same ones again")
    write_text_atomically(path, wanted)


def _document(camera: AriaCamera) -> dict[str, list[object]]:
    return {
        "image_size": list(camera.image_hw),
        "parameters": camera.parameters.tolist(),
        "device_from_cam": camera.device_from_cam.tolist(),
    }
