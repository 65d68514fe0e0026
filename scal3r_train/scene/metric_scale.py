"""Metric scale and place of a scene, as scene.json states them (docs/metric_scale.md)."""

from __future__ import annotations

import numpy as np

from scal3r_train.config import StrictModel
from scal3r_train.geometry.geodesy import geodetic_from_enu

RigidRows = tuple[
    tuple[float, float, float, float], tuple[float, float, float, float], tuple[float, float, float, float]
]


class MetricScale(StrictModel):
    """Where a scene's metres come from, and how sure they are.

    `source` is a key of `alignment.metric` and `file` what it names, with `file_sha256` of its content;
    `metres_per_unit` is the length in metres of one unit in which chunk 0 was predicted, and `relative_std` its error
    (one standard deviation, as a share; None where nothing shows it). `num_measurements` were used of `num_given`;
    `residual_m` is their robust standard deviation in metres, None where they are no lengths. `notes` say what was
    assumed and what is not known.
    """

    source: str
    file: str | None = None
    file_sha256: str | None = None
    metres_per_unit: float
    relative_std: float | None
    num_measurements: int
    num_given: int
    residual_m: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The scale in one line."""
        error = "of unknown error" if self.relative_std is None else f"+- {100 * self.relative_std:.2g} %"
        return f"scale {error} from {self.source}"


class Georeference(StrictModel):
    """Where on the Earth a scene in metres lies.

    The origin of a tangent frame (x east, y north, z up; WGS84, degrees, and metres as the track counted heights), and
    `enu_from_world` [3, 4] by rows, the rigid transform that takes the scene's points there.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    enu_from_world: RigidRows

    @property
    def origin(self) -> np.ndarray:
        """Latitude, longitude and height of the origin, [3] float64."""
        return np.array([self.latitude_deg, self.longitude_deg, self.altitude_m])

    def geodetic(self, points: np.ndarray) -> np.ndarray:
        """Return latitude, longitude (degrees) and height (metres) [N, 3] of points [N, 3] of the scene's world."""
        enu_from_world = np.array(self.enu_from_world)
        return geodetic_from_enu(
            points.astype(np.float64) @ enu_from_world[:, :3].T + enu_from_world[:, 3], self.origin
        )
