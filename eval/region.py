"""The part of space where a cloud is compared with true depth that ends at a distance. Shapes: N points, S cameras."""

from __future__ import annotations

import numpy as np

from scal3r_train.metrics.nearest import NearestPoints


class CameraRegion:
    """What is within a distance of at least one true camera.

    True depth that is cut at a distance says nothing of what lies beyond: a right point there would be an error, a true
    point there that other frames happen to show could not be asked for.

    Attributes:
        reach: the distance, in the truth's units.
    """

    def __init__(self, centres: np.ndarray, reach: float) -> None:
        """Take camera centres [S, 3] float64, S > 0, in the truth's world."""
        assert reach > 0
        self.reach = reach
        self._cameras = NearestPoints(np.ascontiguousarray(centres))

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Return which of the points [N, 3] float64 of the truth's world are inside, [N] bool."""
        return self._cameras.are_within(points, self.reach)
