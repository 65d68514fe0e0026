"""A track in metres: where the camera was, and at which frame of the scene.

The denser of the two series, frames or entries of the track, is interpolated by straight lines at the other's moments,
so that nothing coarse is bridged where something fine is known. Shapes: S frames of the scene, M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.geometry.geodesy import enu_from_geodetic
from scal3r_train.inference.alignment.settings import MetricSettings
from scal3r_train.inference.input.image_times import has_times
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.metric.gps_file import GpsTrack, read_gps_track
from scal3r_train.metrics.trajectory_io import read_trajectory

MIN_PAIRS = 3
FURTHEST_M = 1e9


@dataclass(frozen=True, eq=False)
class Track:
    """Positions of the camera at moments of the scene.

    Attributes:
        frame: [M] float64 ascending, number of the frame; 2.5 lies half way between frames 2 and 3.
        position: [M, 3] float64 metres; for GPS east, north, up at `origin`.
        num_given: entries of the file, those included that belong to no frame.
        origin: [3] latitude, longitude (degrees) and height (metres) of a GPS track's frame; None for other tracks.
        pace_s: median time from one pair to the next; None where times are not known.
        notes: what the user should know.
    """

    frame: np.ndarray
    position: np.ndarray
    num_given: int
    origin: np.ndarray | None = None
    pace_s: float | None = None
    notes: tuple[str, ...] = ()

    def num_together(self, correlation_s: float, num_chunks: int) -> float:
        """Return how many fixes err together: those of a correlation time, or without times those of a chunk."""
        if self.pace_s is None:
            return max(1.0, len(self.frame) / num_chunks)
        return max(1.0, correlation_s / max(self.pace_s, 1e-9))


def open_gps(path: Path, video: Video, settings: MetricSettings) -> Track:
    """Return the positions that a GPS track gives for the frames of a video.

    Raises:
        UserError: the file cannot be used, or fewer than 3 of its fixes belong to frames.
    """
    gps = read_gps_track(path)
    origin = gps.place[0].copy()
    position = enu_from_geodetic(gps.place, origin)
    frame, position = _matched(path, video, settings, _moments(gps, video, path), position)
    notes = [] if gps.has_height else ["the track has no heights: all places count as equally high"]
    if gps.num_left_out:
        notes.append(f"{gps.num_left_out} fixes of the track are without a place or damaged")
    return Track(frame, position, len(gps), origin, _pace_of_pairs(frame, video), tuple(notes))


def open_poses(path: Path, video: Video, settings: MetricSettings) -> Track:
    """Return the positions that a trajectory file (TUM or KITTI) gives for the frames of a video; raises likewise."""
    trajectory = read_trajectory(path)
    position = trajectory.world_from_cam[:, :, 3].numpy()
    if trajectory.timestamps is not None:
        moments = _Moments(time=trajectory.timestamps.numpy())
    else:
        moments = _by_order(len(trajectory), video, path, "poses")
    frame, position = _matched(path, video, settings, moments, position)
    return Track(frame, position, len(trajectory))


@dataclass(frozen=True, eq=False)
class _Moments:
    """When the entries of a track were made: `time` [N] in seconds, or `frame` [N] of the scene, -1 for none."""

    time: np.ndarray | None = None
    frame: np.ndarray | None = None


def _moments(gps: GpsTrack, video: Video, path: Path) -> _Moments:
    if gps.time is not None:
        return _Moments(time=gps.time)
    of_input = {index: frame for frame, index in enumerate(video.frame_indices)}
    if gps.frame is not None:
        return _Moments(frame=np.array([of_input.get(index, -1) for index in gps.frame.tolist()]))
    if gps.name:
        by_name = {_stem(video.record.image[index]): frame for frame, index in enumerate(video.frame_indices)}
        frames = np.array([by_name.get(_stem(name), -1) for name in gps.name])
        if (frames < 0).all():
            raise UserError(
                f"{path} names the image {gps.name[0]}, but the frames of the scene are called "
                f"{video.record.image[video.frame_indices[0]]}"
            )
        return _Moments(frame=frames)
    return _by_order(len(gps), video, path, "fixes")


def _by_order(num: int, video: Video, path: Path, what: str) -> _Moments:
    """Entry after entry for the frames of the input, or for those that are used."""
    if num == video.record.num_frames:
        of_input = {index: frame for frame, index in enumerate(video.frame_indices)}
        return _Moments(frame=np.array([of_input.get(index, -1) for index in range(num)]))
    if num == video.num_frames:
        return _Moments(frame=np.arange(num))
    raise UserError(
        f"{path} has {num} {what} without times for {video.record.num_frames} images of which {video.num_frames} are "
        "used; give one for each image, or times"
    )


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem


def _matched(
    path: Path, video: Video, settings: MetricSettings, moments: _Moments, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Frames [M] and positions [M, 3] of the entries that belong to frames. Raises UserError for fewer than 3."""
    if moments.frame is not None:
        order = np.argsort(moments.frame, kind="stable")
        order = order[(moments.frame[order] >= 0) & _is_somewhere(position[order])]
        frame, position = moments.frame[order].astype(np.float64), position[order]
        why = "by frame"
    else:
        assert moments.time is not None
        if not has_times(video.record):
            raise UserError(
                f"{path} has times, which the images do not have; give theirs with input.timestamps, or a track with "
                "one line for each image"
            )
        times = video.timestamps.numpy() + settings.time_offset_s
        frame, position = _matched_by_time(times, moments.time, position, settings.max_gap_s)
        why = (
            f"by time: the images' run from {times[0]:.3f} to {times[-1]:.3f} s, the track's from "
            f"{np.nanmin(moments.time):.3f} to {np.nanmax(moments.time):.3f} s, max_gap_s is {settings.max_gap_s:g}; "
            "set alignment.metric.time_offset_s"
        )
    if len(frame) < MIN_PAIRS:
        raise UserError(f"{path} gives a place for {len(frame)} frames, {MIN_PAIRS} are needed ({why})")
    return frame, position


def _matched_by_time(
    times: np.ndarray, track_times: np.ndarray, position: np.ndarray, max_gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate the denser series at the moments of the other: frames [M] and positions [M, 3]."""
    usable = np.flatnonzero(_is_somewhere(position))
    _, first = np.unique(track_times[usable], return_index=True)  # sorted, each time once
    track_times, position = track_times[usable[first]], position[usable[first]]
    numbers = np.arange(len(times), dtype=np.float64)
    if len(times) < 2 or (len(track_times) > 1 and _pace(track_times) < _pace(times)):
        known = _bridged(times, track_times, max_gap)
        values = [np.interp(times[known], track_times, column) for column in position.T]
        return numbers[known], np.stack(values, -1)
    known = _bridged(track_times, times, max_gap)
    return np.interp(track_times[known], times, numbers), position[known]


def _is_somewhere(position: np.ndarray) -> np.ndarray:
    """Which positions [N, 3] can be metres of a camera."""
    return np.asarray((np.abs(position) < FURTHEST_M).all(1))


def _pace_of_pairs(frame: np.ndarray, video: Video) -> float | None:
    """Median time [s] between pairs at frames [M]; None where the images have no times."""
    if not has_times(video.record):
        return None
    times = video.timestamps.numpy()
    return _pace(np.interp(frame, np.arange(len(times)), times))


def _pace(times: np.ndarray) -> float:
    return float(np.median(np.diff(times)))


def _bridged(moments: np.ndarray, times: np.ndarray, max_gap: float) -> np.ndarray:
    """Which moments [M] lie on one of `times`, or between two of them that are at most `max_gap` apart."""
    after = np.searchsorted(times, moments).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    is_between = (
        (times[before] <= moments) & (moments <= times[after]) & (times[after] - times[before] <= max_gap)
    )
    return np.asarray(is_between | (times[after] == moments))
