"""Unpacking of Aria Digital Twin's VRS recordings into images, depth and tables that aria_digital_twin.py indexes.

Source: a folder of sequences, each with video.vrs, depth_images.vrs, aria_trajectory.csv and the rest as downloaded (or
one sequence). Output: SEQUENCE/{rgb, depth, calibration.json, frames.txt}. A sequence is written under a temporary name
and renamed; frames that are already in the temporary folder are not written again, finished sequences are skipped.

Recordings are read by the authors' package, projectaria_tools (optional). What is used of it:
projects.adt.AriaDigitalTwinDataPathsProvider(folder).get_datapaths(with_skeletons),
AriaDigitalTwinDataProvider(paths) and of that get_aria_device_capture_timestamps_ns, get_aria_camera_calibration,
get_aria_image_by_timestamp_ns, get_depth_image_by_timestamp_ns, get_aria_3d_pose_by_timestamp_ns, whose answers hold
is_valid(), data() and dt_ns(), how far the nearest answer is from the time that was asked for.
Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pydantic import Field

from scal3r_data_tools.adapters.aria_digital_twin import CALIBRATION_FILE, FRAMES_FILE, RECORDING
from scal3r_data_tools.formats.aria import NUM_PARAMETERS, AriaCamera
from scal3r_data_tools.formats.optional import optional
from scal3r_data_tools.jobs import progress
from scal3r_train.config import StrictModel, UserError, atomic_output, write_text_atomically
from scal3r_train.notes import note

COLOUR_STREAM = "214-1"
INSTALL = "pip install projectaria-tools (Python up to 3.12)"
HEADER = "number, seconds, world_from_cam 3x4 row by row (OpenCV axes, metres)"
OPTIONS_FILE = "options.json"
PNG_COMPRESSION = 1


@dataclass(frozen=True)
class RecordedFrame:
    """What the glasses saw at one time.

    Attributes:
        image: [H, W, 3] uint8, as recorded.
        depth: [H, W] uint16 millimetres along z, None when there is none.
        world_from_device: [3, 4].
    """

    image: np.ndarray
    depth: np.ndarray | None
    world_from_device: np.ndarray


class Recording(Protocol):
    """A recording: its colour camera, the times of its images, and what there is at each."""

    @property
    def camera(self) -> AriaCamera:
        """The colour camera."""

    @property
    def times_ns(self) -> list[int]:
        """Times of all images, device clock."""

    def frame(self, time_ns: int, tolerance_ns: int) -> RecordedFrame | None:
        """What there is at a time of `times_ns`; None when image or pose are missing or further off."""


def open_recording(folder: Path, *, with_people: bool) -> Recording:
    """Open the recording of a sequence's folder; `with_people`: depth in which people hide what is behind them.

    Raises UserError without projectaria_tools, and when the folder holds no complete recording.
    """
    adt = optional("projectaria_tools.projects.adt", "aria_digital_twin", INSTALL)
    try:
        paths = adt.AriaDigitalTwinDataPathsProvider(str(folder)).get_datapaths(with_people)
        provider = adt.AriaDigitalTwinDataProvider(paths)
    except Exception as error:  # the package raises what C++ throws, without a common type
        raise UserError(f"{folder} cannot be opened as a recording of Aria Digital Twin: {error}") from None
    return _VrsRecording(provider, folder)


class _VrsRecording:
    def __init__(self, provider: Any, folder: Path) -> None:
        stream_id = optional("projectaria_tools.core.stream_id", "aria_digital_twin", INSTALL)
        self._provider, self._stream = provider, stream_id.StreamId(COLOUR_STREAM)
        self._folder = folder

    @property
    def camera(self) -> AriaCamera:
        calibration = self._provider.get_aria_camera_calibration(self._stream)
        parameters = np.array([] if calibration is None else calibration.get_projection_params(), np.float64)
        if parameters.shape != (NUM_PARAMETERS,):
            raise UserError(
                f"{self._folder}: its colour camera has {len(parameters)} lens parameters, not {NUM_PARAMETERS}"
            )
        width, height = (int(side) for side in calibration.get_image_size())
        pose = np.array(calibration.get_transform_device_camera().to_matrix(), np.float64)
        return AriaCamera((height, width), parameters, pose[:3])

    @property
    def times_ns(self) -> list[int]:
        return [int(time) for time in self._provider.get_aria_device_capture_timestamps_ns(self._stream)]

    def frame(self, time_ns: int, tolerance_ns: int) -> RecordedFrame | None:
        image = _found(self._provider.get_aria_image_by_timestamp_ns, tolerance_ns, time_ns, self._stream)
        pose = _found(self._provider.get_aria_3d_pose_by_timestamp_ns, tolerance_ns, time_ns)
        if image is None or pose is None:
            return None
        depth = None
        if self._provider.has_depth_images():
            depth = _found(
                self._provider.get_depth_image_by_timestamp_ns, tolerance_ns, time_ns, self._stream
            )
        return RecordedFrame(
            image=np.asarray(image.to_numpy_array(), np.uint8),
            depth=None if depth is None else np.asarray(depth.to_numpy_array(), np.uint16),
            world_from_device=np.array(pose.transform_scene_device.to_matrix(), np.float64)[:3],
        )


def _found(ask: Callable[..., Any], tolerance_ns: int, *question: Any) -> Any:
    """The answer's data, None when there is none near enough."""
    answer = ask(*question)
    if not answer.is_valid() or abs(answer.dt_ns()) > tolerance_ns:
        return None
    return answer.data()


Opener = Callable[[Path, "Options"], Recording]


class Options(StrictModel):
    """Settings of the unpacking; `every` and `with_people` change what is written."""

    every: int = Field(
        3, ge=1, le=1000, description="take every Nth image (they come 30 times a second) [images]"
    )
    with_people: bool = Field(
        default=False, description="depth with people in it, where the sequence has that"
    )
    max_time_difference_ms: float = Field(
        5.0, gt=0, le=100, description="pose and depth must be nearer in time to an image than this [ms]"
    )
    jpeg_quality: int = Field(95, ge=50, le=100, description="quality of the images [JPEG quality]")
    num_workers: int = Field(2, ge=1, le=256, description="sequences that are unpacked at a time [processes]")


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
