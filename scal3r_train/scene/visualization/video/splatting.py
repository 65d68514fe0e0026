"""Points of a cloud as discs that hide each other, drawn fast on the CPU.

Points come in the order of frames, so that runs of them lie close together: runs out of view are left out whole, and of
runs so far away that points lie closer than pixels only every second, fourth, .. point is drawn. The rest is projected,
sorted from far to near and written, each disc over what is behind it. Shapes: N points, H W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

RUN = 512  # points
DENSE_ENOUGH = 0.6  # pixels between points, closer than which some are left out
CLOSING = 1.25  # diameter of a disc in distances between points, at which few gaps are left
LARGEST_SHARE = 1 / 25  # of the picture's height: diameter of a disc
MOST_THINNED = 64
DEPTH_LEVELS = 60_000  # logarithmic: sorting 16-bit numbers is fast
SHADE_REACH, SHADE_STEP, SHADE = 2, 0.06, 0.35


class Splatter:
    """A cloud that is drawn again and again."""

    def __init__(self, positions: np.ndarray, colours: np.ndarray, spacing: float) -> None:
        """Prepare to draw.

        Args:
            positions: [N, 3] world coordinates, finite.
            colours: [N, 3] uint8.
            spacing: about how far neighbouring points are apart, in world units; sets the size of discs.
        """
        self._positions = np.ascontiguousarray(positions, np.float32)
        self._colours = np.ascontiguousarray(colours)
        self._spacing = spacing
        starts = np.arange(0, len(positions), RUN)
        if len(starts):
            low = np.minimum.reduceat(self._positions, starts, axis=0)
            high = np.maximum.reduceat(self._positions, starts, axis=0)
        else:
            low = high = np.zeros((0, 3), np.float32)
        self._middle = (low + high).astype(np.float64) / 2
        self._radius = np.linalg.norm(high - low, axis=1).astype(np.float64) / 2

    def draw(
        self, observer: np.ndarray, focal: float, num_shown: int, background: np.ndarray, nearest: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the first `num_shown` points.

        Args:
            observer: observer_from_world [3, 4]; the principal point is the middle of the picture.
            focal: pixels.
            num_shown: of the points, in their order.
            background: [H, W, 3] uint8 that is drawn on; not changed.
            nearest: depth before which nothing is drawn, in world units.

        Returns:
            The image [H, W, 3] uint8 and the depth of what is seen [H, W] float32, inf for background.
        """
        hw = background.shape[:2]
        image, depth = background.copy(), np.full(hw, np.inf, np.float32)
        chosen = self._in_view(observer, focal, hw, num_shown, nearest)
        matrix = observer.astype(np.float32)
        local = self._positions[chosen] @ matrix[:, :3].T + matrix[:, 3]
        z = local[:, 2]
        ahead = z > nearest
        local, z, chosen = local[ahead], z[ahead], chosen[ahead]
        pixels = local[:, :2] / z[:, None] * np.float32(focal) + np.array(hw[::-1], np.float32) / 2
        size = (
            np.round(CLOSING * self._spacing * focal / z + 0.4)
            .clip(1, max(1, hw[0] * LARGEST_SHARE))
            .astype(np.int64)
        )
        inside = ((pixels > -size[:, None]) & (pixels < np.array(hw[::-1]) + size[:, None])).all(-1)
        pixels, z, size, chosen = pixels[inside], z[inside], size[inside], chosen[inside]
        if not len(z):
            return image, depth
        # Far to near: of equal places the last one written stays.
        order = np.argsort(_levels(z), kind="stable")
        margin = 2 * int(size.max())  # around the picture, so that no disc leaves it
        seen = np.full((hw[0] + 2 * margin, hw[1] + 2 * margin), -1, np.int32)
        _write_discs(seen, pixels[order] + np.float32(margin), size[order])
        seen = seen[margin : margin + hw[0], margin : margin + hw[1]]
        filled = seen >= 0
        winner = order[seen[filled]]
        image[filled] = self._colours[chosen[winner]]
        depth[filled] = z[winner]
        _shade(image, depth)
        return image, depth

    def _in_view(
        self, observer: np.ndarray, focal: float, hw: tuple[int, int], num_shown: int, nearest: float
    ) -> np.ndarray:
        """Return the indices of points of runs that may be in the picture, ascending."""
        num_runs = -(-num_shown // RUN)
        local = self._middle[:num_runs] @ observer[:, :3].T + observer[:, 3]
        radius = self._radius[:num_runs]
        # Planes through the observer and the picture's sides; a run is out when its ball lies beyond one.
        visible = local[:, 2] + radius > nearest
        for axis, side in ((0, hw[1]), (1, hw[0])):
            slope = side / 2 / focal * 1.02
            visible &= np.abs(local[:, axis]) - radius * np.hypot(1, slope) < slope * np.maximum(
                local[:, 2], 0
            )
        runs = np.flatnonzero(visible)
        closest = np.maximum(np.linalg.norm(local[runs], axis=1) - radius[runs], 1e-30)
        gap = self._spacing * focal / closest  # pixels between points, at least
        thinned = np.square(DENSE_ENOUGH / np.maximum(gap, 1e-9)) if self._spacing else np.ones(len(runs))
        stride = 2 ** np.floor(np.log2(np.clip(thinned, 1, MOST_THINNED))).astype(np.int64)
        count = RUN // stride
        index = np.repeat(runs * RUN, count) + _within(count) * np.repeat(stride, count)
        return index[index < num_shown]


def _within(count: np.ndarray) -> np.ndarray:
    """Return 0 .. count - 1 for every entry, one after another."""
    stop = np.cumsum(count)
    return np.arange(int(stop[-1]) if len(stop) else 0) - np.repeat(stop - count, count)


def _levels(z: np.ndarray) -> np.ndarray:
    """Return 16-bit numbers [N] that are smaller the larger a depth [N] is."""
    logarithm = np.log(z)
    low, high = float(logarithm.min()), float(logarithm.max())
    scale = DEPTH_LEVELS / max(high - low, 1e-6)
    return ((high - logarithm) * scale).clip(0, DEPTH_LEVELS).astype(np.uint16)


def _write_discs(seen: np.ndarray, pixels: np.ndarray, size: np.ndarray) -> None:
    """Write the number of each disc around places [N, 2] into an image [H, W] that holds all of it, in order."""
    x, y, first, count = _discs(int(size.max()))
    # The corner of a disc of even diameter lies on a pixel's corner, so that discs stay around their places.
    corner = np.floor(pixels - (size[:, None] / 2 - 0.5).astype(np.float32)).astype(np.int64)
    width = seen.shape[1]
    number = count[size]
    place = np.repeat(corner[:, 1] * width + corner[:, 0], number)
    place += (y * width + x)[np.repeat(first[size], number) + _within(number)]
    seen.reshape(-1)[place] = np.repeat(np.arange(len(size), dtype=np.int32), number)


@lru_cache
def _discs(largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x and y of all cells of discs of diameters 1 to `largest`; where each diameter's begin, and how many."""
    cells: list[np.ndarray] = []
    first, count = np.zeros(largest + 1, np.int64), np.zeros(largest + 1, np.int64)
    for diameter in range(1, largest + 1):
        y, x = np.mgrid[0:diameter, 0:diameter]
        middle = (diameter - 1) / 2
        round_ones = (x - middle) ** 2 + (y - middle) ** 2 <= (diameter / 2) ** 2 + 0.1
        chosen = np.stack([x[round_ones], y[round_ones]], -1)
        first[diameter], count[diameter] = sum(len(one) for one in cells), len(chosen)
        cells.append(chosen)
    x, y = np.concatenate(cells).T
    return x, y, first, count


def _shade(image: np.ndarray, depth: np.ndarray) -> None:
    """Darken pixels behind their neighbours, which shows the shape of a cloud; changes the image [H, W, 3]."""
    inverse = np.where(np.isfinite(depth), 1 / np.where(np.isfinite(depth), depth, 1), 0).astype(np.float32)
    behind = np.zeros_like(inverse)
    reach = SHADE_REACH
    for mine, other in (
        (np.s_[reach:], np.s_[:-reach]),
        (np.s_[:-reach], np.s_[reach:]),
        (np.s_[:, reach:], np.s_[:, :-reach]),
        (np.s_[:, :-reach], np.s_[:, reach:]),
    ):
        # 1 - neighbour / own depth, from inverse depths; background (0) is behind all.
        step = 1 - inverse[mine] / np.maximum(inverse[other], np.float32(1e-30))
        behind[mine] += np.clip(step, 0, SHADE_STEP)
    behind[inverse == 0] = 0
    factor = 1 - behind * np.float32(SHADE / (4 * SHADE_STEP))
    np.multiply(image, factor[..., None], out=image, casting="unsafe")
