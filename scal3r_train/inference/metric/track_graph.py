"""A GPS track as measurements of where the chunks lie: it bends the chain of seams to itself, as far as it is exact.

Every fix is a factor on the chunk that holds its frame, in the pose graph that loops are closed in, beside the
seams and the accepted loops. What a fix errs is estimated with it, level and vertical apart: from the misfit of the
whole as one piece first, then from what is left, until it settles. A receiver's error wanders slowly, so fixes that
follow one another closely show no more than one of them: their information is divided by how many err together.
Fixes that lie far off, measured by a single one's error, lose weight round by round.
Shapes: M fixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.chunk_scales import ChunkScales, with_estimated_scales
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.seam_covariance import SeamErrors
from scal3r_train.inference.alignment.settings import MetricSettings
from scal3r_train.inference.loop_closure.edges import LoopEdge, edge_covariance, pose_edges, scale_factors
from scal3r_train.inference.loop_closure.pose_graph import optimise_pose_graph
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from scal3r_train.inference.loop_closure.unary_factors import PositionFactors
from scal3r_train.inference.metric.chunk_cameras import ChunkCameras
from scal3r_train.inference.metric.track import Track
from scal3r_train.inference.metric.track_fit import STD_OF_MEDIAN

MAX_ROUNDS = 6
SETTLED = 0.05  # relative change of the error
MIN_STD_M = 1e-3
PLUMB_STD_RAD = 0.3  # how far from upright cameras are held
WIDTH = 3.0  # of a fix's errors, up to which it counts fully
OUTLIER_WEIGHT = 0.25  # below it a fix counts as an outlier


@dataclass(frozen=True, eq=False)
class TrackPlacement:
    """Chunks at their places on a track.

    Attributes:
        track_from_chunk: of every chunk, in metres.
        std_m: errors of a fix, level and vertical.
        num_outliers: fixes that the others outvoted.
    """

    track_from_chunk: list[Sim3]
    std_m: tuple[float, float]
    num_outliers: int


def place_on_track(
    seams: Sequence[Seam],
    ranges: Sequence[range],
    scales: ChunkScales | None,
    loops: Sequence[LoopEdge],
    start: Sequence[Sim3],
    cameras: ChunkCameras,
    track: Track,
    metric: MetricSettings,
    settings: LoopEdgeSettings,
    *,
    hold_upright: bool,
) -> TrackPlacement:
    """Return the chunks of a scene of several where seams, accepted loops and the track agree best.

    Args:
        seams, loops: that hold the chunks together.
        ranges: frames of all chunks.
        scales: of all chunks, if they were estimated together.
        start: track_from_chunk, in metres, as the scene in one piece lies on the track.
        cameras: of all chunks.
        track: east, north, up.
        metric: what the user knows of the track.
        settings: of the pose graph.
        hold_upright: whether the turn about the track is open and cameras count as held upright.
    """
    chunk, points = cameras.points(track.frame)
    positions = torch.from_numpy(track.position)
    errors = SeamErrors.of(seams, ranges, settings.noise)
    of_loops = [edge_covariance(edge, errors, settings.noise) for edge in loops]
    edges = pose_edges(seams, with_estimated_scales(errors.covariances, scales), loops, of_loops)
    common = scale_factors(scales)
    nodes = Sim3Batch.stack(start)
    misfit = positions - _placed(nodes, chunk, points)
    std = _std(misfit, metric.gps_std_m)
    together = track.num_together(metric.gps_correlation_s, len(start))
    plumb = _plumb_lines(nodes, cameras) if hold_upright else None
    for _ in range(MAX_ROUNDS):
        weights = _weights(misfit, std)
        factors = _factors(chunk, points, positions, std, weights / together, plumb)
        result = optimise_pose_graph(nodes, edges, settings.graph, common, positions=factors)
        nodes, before = result.nodes, std
        misfit = positions - _placed(nodes, chunk, points)
        std = _std(misfit, metric.gps_std_m)
        if max(abs(new / old - 1) for new, old in zip(std, before, strict=True)) < SETTLED:
            break
    return TrackPlacement(nodes.unstack(), std, int((_weights(misfit, std) < OUTLIER_WEIGHT).sum()))


def _std(misfit: Tensor, given: float | None) -> tuple[float, float]:
    """Errors along a level axis and upward of misfits [M, 3]."""
    if given is not None:
        return given, given
    level, vertical = misfit[:, :2].abs().median(), misfit[:, 2].abs().median()
    return max(STD_OF_MEDIAN * float(level), MIN_STD_M), max(STD_OF_MEDIAN * float(vertical), MIN_STD_M)


def _weights(misfit: Tensor, std: tuple[float, float]) -> Tensor:
    """Weights [M] in (0, 1] of misfits [M, 3]: beyond `WIDTH` errors they fall with the square."""
    level, vertical = std
    errors = (misfit / torch.tensor([level, level, vertical], dtype=torch.float64)).norm(dim=1)
    return (WIDTH / errors.clamp(min=WIDTH)) ** 2


def _placed(nodes: Sim3Batch, chunk: Tensor, points: Tensor) -> Tensor:
    at = nodes.take(chunk)
    return at.scale[:, None] * (at.rotation @ points[..., None])[..., 0] + at.translation


def _plumb_lines(nodes: Sim3Batch, cameras: ChunkCameras) -> tuple[Tensor, Tensor, Tensor]:
    """One point of each of K chunks, as high above its cameras as they lie apart, and where it should be.

    A straight track leaves the turn about itself open; these hold it, and hardly anything else. Returns points [K, 3],
    positions [K, 3] and those heights [K] in metres.
    """
    points, positions, lengths = [], [], []
    for node, chunk_from_cam in zip(nodes.unstack(), cameras.chunk_from_cam, strict=True):
        middle = chunk_from_cam[:, :, 3].mean(dim=0)
        length = (
            (chunk_from_cam[:, :, 3] - middle).norm(dim=1).max().clamp(min=1e-9 + 1e-3 / float(node.scale))
        )
        up = -chunk_from_cam[:, :, 1].mean(dim=0)
        points.append(middle + length * up / up.norm().clamp(min=1e-9))
        metres = node.scale * length
        positions.append(node.apply(middle) + metres * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        lengths.append(metres)
    return torch.stack(points), torch.stack(positions), torch.stack(lengths)


def _factors(
    chunk: Tensor,
    points: Tensor,
    positions: Tensor,
    std: tuple[float, float],
    weights: Tensor,
    plumb: tuple[Tensor, Tensor, Tensor] | None,
) -> PositionFactors:
    level, vertical = std
    information = torch.diag(torch.tensor([level, level, vertical], dtype=torch.float64) ** -2)
    information = weights[:, None, None] * information
    robust = torch.zeros(len(points), dtype=torch.bool)  # the weights are: measured by a single fix's error
    if plumb is None:
        return PositionFactors(chunk, points, positions, information, robust)
    plumb_points, plumb_positions, lengths = plumb
    weak = (
        torch.eye(3, dtype=torch.float64)
        / ((PLUMB_STD_RAD * lengths) ** 2 + level**2 + vertical**2)[:, None, None]
    )
    return PositionFactors(
        torch.cat([chunk, torch.arange(len(plumb_points))]),
        torch.cat([points, plumb_points]),
        torch.cat([positions, plumb_positions]),
        torch.cat([information, weak]),
        torch.cat([robust, torch.zeros(len(plumb_points), dtype=torch.bool)]),
    )
