"""One recording of Aria Digital Twin through the authors' package, projectaria_tools (optional).

What is used of it: projects.adt.AriaDigitalTwinDataPathsProvider(folder).get_datapaths(with_skeletons),
AriaDigitalTwinDataProvider(paths) and of that get_aria_device_capture_timestamps_ns, get_aria_camera_calibration,
get_aria_image_by_timestamp_ns, get_depth_image_by_timestamp_ns, get_aria_3d_pose_by_timestamp_ns, whose answers hold
is_valid(), data() and dt_ns(), how far the nearest answer is from the time that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scal3r_data_tools.formats.aria import NUM_PARAMETERS, AriaCamera
from scal3r_data_tools.formats.optional import optional
from scal3r_train.config import UserError

COLOUR_STREAM = "214-1"
INSTALL = "pip install projectaria-tools (Python up to 3.12)"


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
