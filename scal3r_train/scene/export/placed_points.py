"""Where the points of a scene lie in the coordinates of surveying programs, z up.

A scene with a georeference: easting, northing and height in its zone of UTM. Others: the scene's world with its axes
turned, (x, z, -y), so that the first camera looks along y and z points up. Everything is float64 from the scene's own
float32 on, and files count from an offset near the middle: at UTM coordinates of millions of metres float32 would round
to half a metre. Shapes: N points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scal3r_train.geometry.geodesy import UtmZone
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.metric_scale import Georeference
from scal3r_train.scene.ply import positions_of

STEPS_ACROSS = 1e7  # of the grid of a file, at least, from one end of the scene to the other
FINEST_NEEDED_M = 1e-4
LARGEST_FINE_M = 1e5  # beyond it a tenth of a millimetre would not fit into 32 bits


@dataclass(frozen=True, eq=False)
class PointPlace:
    """How points are written.

    Attributes:
        georeference: of the scene, None without.
        zone: of UTM, None without a georeference.
        offset: [3] float64, whole numbers, what a file counts from.
        step: the grid of formats that store whole numbers.
        confidence_range: least and greatest of the scene.
    """

    georeference: Georeference | None
    zone: UtmZone | None
    offset: np.ndarray
    step: float
    confidence_range: tuple[float, float]

    @staticmethod
    def of(source: ExportSource) -> PointPlace:
        """Return the place of a scene's points, all of which are read once for their bounds."""
        lows, highs = _bounds(source.blocks())
        info = source.cameras.info
        georeference = info.georeference
        zone = None if georeference is None else UtmZone.of(georeference.origin)
        extent = float((highs[:3] - lows[:3]).max())
        step = 10.0 ** math.floor(math.log10(extent / STEPS_ACROSS)) if extent > 0 else FINEST_NEEDED_M
        if info.scale is not None and extent < LARGEST_FINE_M:
            step = min(step, FINEST_NEEDED_M)
        start = PointPlace(georeference, zone, np.zeros(3), step, (float(lows[3]), float(highs[3])))
        middle = start.coordinates((lows[None, :3] + highs[None, :3]) / 2)[0]
        # A scene in its own unit may be smaller than one: its numbers are small anyway.
        offset = np.zeros(3) if georeference is None else np.round(middle)
        return PointPlace(georeference, zone, offset, step, start.confidence_range)

    @property
    def wkt(self) -> str:
        """The coordinate system as well-known text, empty without a georeference."""
        return "" if self.zone is None else self.zone.wkt()

    @property
    def words(self) -> str:
        """The coordinate system for people."""
        return "the scene's axes, z up" if self.zone is None else f"{self.zone.name} (EPSG:{self.zone.epsg})"

    def coordinates(self, positions: np.ndarray) -> np.ndarray:
        """Return positions [N, 3] of the scene's world in the file's coordinates [N, 3] float64, offset included."""
        if self.georeference is None or self.zone is None:
            return positions.astype(np.float64)[:, [0, 2, 1]] * [1, 1, -1]
        return self.zone.from_geodetic(self.georeference.geodetic(positions))


def _bounds(blocks: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest x, y, z and confidence, [4] float64; zeros for no points."""
    lows, highs = np.full(4, np.inf), np.full(4, -np.inf)
    for vertices in blocks:
        values = np.column_stack([positions_of(vertices), vertices["confidence"]]).astype(np.float64)
        lows, highs = np.minimum(lows, values.min(axis=0)), np.maximum(highs, values.max(axis=0))
    return (
        (lows, highs) if np.isfinite(lows).all() and np.isfinite(highs).all() else (np.zeros(4), np.zeros(4))
    )
