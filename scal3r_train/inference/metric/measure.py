"""From a placement in the prediction's unit to one in metres: what each source shows, and how sure it is.

The world stays the camera of the first frame; its unit becomes the metre. Every process measures in its own chunks, and
the main process decides. Shapes: S frames, M pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.loop_closure.edges import LoopEdge
from scal3r_train.inference.metric.camera_height import MIN_FRAMES, down_in_world
from scal3r_train.inference.metric.chunk_cameras import ChunkCameras
from scal3r_train.inference.metric.frame_measurements import centres, depth_ratios, heights
from scal3r_train.inference.metric.jackknife import jackknife_std, middle_mean
from scal3r_train.inference.metric.scale_drift import drift_of_distance
from scal3r_train.inference.metric.sources import MetricSource, named_file, source_sha256
from scal3r_train.inference.metric.track import Track
from scal3r_train.inference.metric.track_fit import fit_track, turned_by_gravity
from scal3r_train.inference.metric.track_graph import place_on_track
from scal3r_train.inference.prediction import ChunkPrediction, SavedPrediction
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.parallel.collectives import from_main
from scal3r_train.scene.metric_scale import Georeference, MetricScale

NO_SPREAD = "what shows a scale shows it too few times to say how sure it is"


@dataclass(frozen=True, eq=False)
class InMetres:
    """A placement in metres.

    Attributes:
        placement: of all chunks.
        scale: where its metres come from.
        georeference: where on the Earth it lies; None without a GPS track.
    """

    placement: Placement
    scale: MetricScale
    georeference: Georeference | None = None


def to_metres(
    run: ReconstructionRun,
    source: MetricSource,
    predictions: Mapping[int, SavedPrediction],
    after: Mapping[int, ChunkPrediction],
    placement: Placement,
    loops: Sequence[LoopEdge],
) -> InMetres:
    """Return the placement in metres; every process must call this, and all get the same answer.

    Args:
        run: of the video.
        source: of the metres.
        predictions: of this process's chunks.
        after: the first overlap of the chunk that follows them.
        placement: of all chunks, in the prediction's unit.
        loops: that were closed.

    Raises:
        UserError: on all processes, when the source does not show a scale, or a file cannot be read.
    """
    cameras = ChunkCameras.gather(run, predictions)
    if source.track is not None:
        track = source.track
        found = from_main(lambda: _by_track(run, source, track, cameras, placement, loops))
    elif source.settings.distance is not None:
        found_centres = centres(run, source.settings.distance[:2], predictions, after, placement)
        found = from_main(lambda: _by_distance(run, source, found_centres, cameras, placement))
    elif source.settings.camera_height is not None:
        found_heights = heights(run, cameras, predictions, placement)
        found = from_main(lambda: _by_height(source, found_heights, cameras, placement))
    else:
        assert source.sensor is not None
        ratios = depth_ratios(run, source.sensor, predictions, placement)
        found = from_main(lambda: _by_depth(source, ratios, cameras, placement))
    return found


def _by_track(
    run: ReconstructionRun,
    source: MetricSource,
    track: Track,
    cameras: ChunkCameras,
    placement: Placement,
    loops: Sequence[LoopEdge],
) -> InMetres:
    positions = torch.from_numpy(track.position)
    fit = fit_track(cameras.placed(track.frame, placement.world_from_chunk), positions)
    residual = float(fit.std_m.norm() / math.sqrt(3))
    relative_std = fit.relative_std
    if source.settings.gps is not None and relative_std is not None:
        together = track.num_together(source.settings.gps_correlation_s, len(cameras.chunk_from_cam))
        relative_std = max(relative_std, fit.std_of_independent(len(track.frame) / together))
    notes = list(track.notes)
    if source.settings.gps is None:
        factor = float(fit.track_from_world.scale)
        scale = _scale(source, factor, relative_std, len(track.frame), residual, notes)
        return InMetres(_scaled(placement, factor), scale)
    enu_from_world = fit.track_from_world
    if fit.is_line:
        notes.append(
            "the track is a straight line, which leaves the turn about it open: the cameras count as held upright"
        )
        down = down_in_world(cameras.world_from_cam(placement.world_from_chunk))
        enu_from_world = turned_by_gravity(enu_from_world, positions, down)
    enu_from_chunk = [enu_from_world @ one for one in placement.world_from_chunk]
    if placement.seams:
        settings = run.recipe.pose_graph
        placed = place_on_track(
            placement.seams,
            placement.layout.ranges,
            placement.scales,
            loops,
            enu_from_chunk,
            cameras,
            track,
            source.settings,
            settings,
            hold_upright=fit.is_line,
        )
        # The error of the scale stays that of the whole in one piece: chunks that have followed the fixes show none.
        enu_from_chunk = placed.track_from_chunk
        residual = math.sqrt((2 * placed.std_m[0] ** 2 + placed.std_m[1] ** 2) / 3)
        notes.append(
            f"the chunks lie where seams, loops and fixes agree best; a fix errs {placed.std_m[0]:.3g} m along a "
            f"level axis and {placed.std_m[1]:.3g} m in height, {placed.num_outliers} of {len(track.frame)} count as "
            "outliers"
        )
    enu_from_first = enu_from_chunk[0].apply_to_world_from_cam(cameras.chunk_from_cam[0][0])
    world_from_enu = Sim3.from_rigid(invert_extrinsics(enu_from_first))
    moved = replace(
        placement,
        world_from_chunk=[world_from_enu @ one for one in enu_from_chunk],
        median_depth=placement.median_depth * _growth(enu_from_chunk[0], placement),
    )
    factor = _growth(enu_from_chunk[0], placement)
    scale = _scale(source, factor, relative_std, len(track.frame), residual, notes)
    assert track.origin is not None
    latitude, longitude, altitude = track.origin.tolist()
    rows = tuple(tuple(row) for row in enu_from_first.tolist())
    place = Georeference.model_validate(
        {
            "latitude_deg": latitude,
            "longitude_deg": longitude,
            "altitude_m": altitude,
            "enu_from_world": rows,
        }
    )
    return InMetres(moved, scale, place)


def _by_distance(
    run: ReconstructionRun,
    source: MetricSource,
    centres: Mapping[int, Tensor],
    cameras: ChunkCameras,
    placement: Placement,
) -> InMetres:
    assert source.settings.distance is not None
    one, two, metres = source.settings.distance
    apart = float((centres[one] - centres[two]).norm())
    centre_std = cameras.centre_std(placement.world_from_chunk)
    if not apart > 3 * (centre_std or 0):
        raise UserError(
            f"alignment.metric.distance: the cameras of frames {one} and {two} are {apart:.3g} units apart, and one is "
            f"only known to {centre_std or 0:.2g}; name frames that are further apart"
        )
    notes = ["the stated distance counts as exact"]
    relative_std = None
    if centre_std is not None:
        drift = drift_of_distance(cameras, placement.seams, (one, two), run.recipe.pose_graph.noise)
        relative_std = math.hypot(drift, math.sqrt(2) * centre_std / apart)
    else:
        notes.append("a single chunk has no overlap that would show how exact its cameras are")
    factor = metres / apart
    return InMetres(_scaled(placement, factor), _scale(source, factor, relative_std, 1, None, notes))


def _by_height(
    source: MetricSource,
    heights: Mapping[int, float],
    cameras: ChunkCameras,
    placement: Placement,
) -> InMetres:
    assert source.settings.camera_height is not None
    if len(heights) < MIN_FRAMES:
        raise UserError(
            f"alignment.metric.camera_height: {len(heights)} of the frames looked at see a level ground below the "
            f"camera, {MIN_FRAMES} are needed; take another source"
        )
    notes = [
        f"the stated height counts as exact, and as the median of those above the ground in {len(heights)} frames",
        "cameras count as held upright, and the lowest level plane of a view as the ground",
    ]
    factor = source.settings.camera_height / math.exp(_median(_logs(heights)))
    scale = _scale(
        source, factor, _std_of_frames(heights, _median, cameras, placement), len(heights), None, notes
    )
    return InMetres(_scaled(placement, factor), scale)


def _by_depth(
    source: MetricSource,
    ratios: Mapping[int, float],
    cameras: ChunkCameras,
    placement: Placement,
) -> InMetres:
    if not ratios:
        raise UserError(
            f"alignment.metric.depth {source.settings.depth}: no frame has 100 pixels with both a measured and a "
            "predicted depth; is depth_codec right?"
        )
    factor = math.exp(middle_mean(_logs(ratios)))
    scale = _scale(
        source,
        factor,
        _std_of_frames(ratios, middle_mean, cameras, placement),
        len(ratios),
        None,
        ["the sensor's own scale counts as exact"],
    )
    return InMetres(_scaled(placement, factor), scale)


def _logs(values: Mapping[int, float]) -> np.ndarray:
    """Logarithms of values by frame, [N] in the order of frames."""
    return np.log([values[frame] for frame in sorted(values)])


def _median(values: np.ndarray) -> float:
    """Heights are of two kinds where a table is taken for the ground; a mean would mix them."""
    return float(np.median(values))


def _std_of_frames(
    values: Mapping[int, float],
    middle: Callable[[np.ndarray], float],
    cameras: ChunkCameras,
    placement: Placement,
) -> float | None:
    """Error of the middle of some frames' values, as a share: of the depths, and of the path beside the depths."""
    logs = _logs(values)
    own = jackknife_std(len(logs), lambda kept: middle(logs[kept]))
    return None if own is None else math.hypot(own, cameras.path_scale_std(placement.world_from_chunk) or 0.0)


def _scale(
    source: MetricSource,
    factor: float,
    relative_std: float | None,
    num: int,
    residual: float | None,
    notes: Sequence[str],
) -> MetricScale:
    path = named_file(source.settings)
    return MetricScale(
        source=source.settings.source,
        file=None if path is None else str(path),
        file_sha256=source_sha256(source.settings),
        metres_per_unit=factor,
        relative_std=relative_std,
        num_measurements=num,
        num_given=max(num, source.num_given),
        residual_m=residual,
        notes=tuple(notes) if relative_std is not None else (*notes, NO_SPREAD),
    )


def _growth(placed_first: Sim3, placement: Placement) -> float:
    """By how much chunk 0, and with it its unit, has grown."""
    return float(placed_first.scale / placement.world_from_chunk[0].scale)


def _scaled(placement: Placement, factor: float) -> Placement:
    """The placement with all lengths times a factor; the first camera stays the origin."""
    eye = torch.eye(3, dtype=torch.float64)
    metres = Sim3(torch.tensor(factor, dtype=torch.float64), eye, torch.zeros(3, dtype=torch.float64))
    moved = [metres @ one for one in placement.world_from_chunk]
    return replace(placement, world_from_chunk=moved, median_depth=placement.median_depth * factor)
