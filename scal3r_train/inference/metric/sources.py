"""The source of metric scale that a recipe names, opened and checked before hours of work, not after."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from scal3r_train.config import UserError, files_sha256
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.inference.alignment.settings import MetricSettings
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.metric.sensor_depth import with_sensor_depth
from scal3r_train.inference.metric.track import Track, open_gps, open_poses


@dataclass(frozen=True, eq=False)
class MetricSource:
    """An open source; what it does not have is None.

    Attributes:
        settings: which source, and how it is read.
        track: positions of the camera, of `gps` and `poses`.
        sensor: the input with the sensor's depth maps.
        num_given: entries of the track, or maps.
    """

    settings: MetricSettings
    track: Track | None = None
    sensor: SequenceRecord | None = None
    num_given: int = 1


def open_metric_source(settings: MetricSettings | None, video: Video) -> MetricSource | None:
    """Return the source that the settings name for a video; None where they name none.

    Raises:
        UserError: it cannot be read, or does not belong to the video.
    """
    if settings is None:
        return None
    if settings.gps is not None:
        track = open_gps(settings.gps, video, settings)
        return MetricSource(settings, track, num_given=track.num_given)
    if settings.poses is not None:
        track = open_poses(settings.poses, video, settings)
        return MetricSource(settings, track, num_given=track.num_given)
    if settings.depth is not None:
        record, num = with_sensor_depth(
            video.record, video.frame_indices, settings.depth, settings.depth_codec
        )
        return MetricSource(settings, sensor=record, num_given=num)
    if settings.distance is not None:
        last = video.num_frames - 1
        if max(settings.distance[:2]) > last:
            raise UserError(
                f"alignment.metric.distance names frame {max(settings.distance[:2])}, the scene has frames 0 to {last}"
            )
    return MetricSource(settings)


def source_sha256(settings: MetricSettings | None) -> str | None:
    """Return what changes when the file that the settings name does (of a folder: names and sizes); None without.

    Raises:
        UserError: it cannot be read.
    """
    path = None if settings is None else settings.gps or settings.poses or settings.depth
    if path is None:
        return None
    try:
        if path.is_dir():
            names = sorted(f"{file.name}:{file.stat().st_size}" for file in path.iterdir())
            return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
        return files_sha256([path])
    except OSError as error:
        raise UserError(f"alignment.metric: {path} cannot be read: {error.strerror or error}") from None


def named_file(settings: MetricSettings) -> Path | None:
    """Return the file or folder that the settings name."""
    return settings.gps or settings.poses or settings.depth
