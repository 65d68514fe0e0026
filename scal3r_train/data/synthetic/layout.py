"""Where a town's houses, trees, poles and hedges stand: along both sides of the path, never on it.

World: metres, z up. Every object is an upright solid: a box turned by a yaw, or a cylinder.
Shapes: N objects; M path points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.data.synthetic.path import POINT_SPACING_M, TownPath

WALL, PLAIN, FOLIAGE = 0, 1, 2
ROAD_CELL_M = 0.5
ROAD_MARGIN_M = 40.0
ROAD_MAX_M = 8.0


@dataclass(frozen=True)
class Town:
    """Everything that can be seen.

    centre [N, 2], half_size [N, 2] (both radii of a cylinder), z_range [N, 2], axis [N, 2] = cos, sin of the yaw,
    is_cylinder [N] bool, material [N] int, colour [N, 3] RGB 0..1, pattern [N, 4] (window period along and up,
    texture phase, texture contrast); road [I, J] float32: distance to the path in metres (capped) on a grid with
    cells of ROAD_CELL_M whose first corner is road_origin [2]; sun [3] unit vector towards the sun.
    """

    centre: np.ndarray
    half_size: np.ndarray
    z_range: np.ndarray
    axis: np.ndarray
    is_cylinder: np.ndarray
    material: np.ndarray
    colour: np.ndarray
    pattern: np.ndarray
    road: np.ndarray
    road_origin: np.ndarray
    sun: np.ndarray


@dataclass(frozen=True)
class _Row:
    """A row of like objects along the path: how far apart, how far from the path, how large (ranges in metres)."""

    step: tuple[float, float]
    offset: tuple[float, float]
    along: tuple[float, float]
    deep: tuple[float, float]
    height: tuple[float, float]
    clearance: float
    material: int
    is_cylinder: bool = False
    foot: float = 0.0


HOUSES = _Row((6, 10), (4.5, 9), (2.5, 4.5), (2.5, 4), (3.5, 8), 2.4, WALL)
TOWERS = _Row((11, 17), (24, 45), (4, 8), (4, 8), (8, 20), 4.0, WALL)
HEDGES = _Row((7, 14), (2.2, 4.5), (0.6, 1.8), (0.3, 0.8), (0.6, 1.7), 1.5, PLAIN)
TREES = _Row((6, 12), (2.6, 8), (0.9, 1.9), (1, 1), (3.5, 6.5), 2.2, FOLIAGE, True, 2.0)
POLES = _Row((11, 18), (2.0, 3.0), (0.09, 0.14), (1, 1), (4, 6), 1.4, PLAIN, True)


def make_town(rng: np.random.Generator, path: TownPath) -> Town:
    """Place objects at a clearance from the path; houses also clear of each other."""
    parts: list[dict[str, np.ndarray]] = []
    taken = np.zeros((0, 3))
    for row in (HOUSES, TOWERS):
        part = _place(rng, path, row)
        keep, taken = _apart(part, taken)
        part = {name: value[keep] for name, value in part.items()}
        parts += [part, _roofs(rng, part)]
    for row in (HEDGES, TREES, POLES):
        part = _place(rng, path, row)
        keep = _outside(part["centre"], taken)
        part = {name: value[keep] for name, value in part.items()}
        parts.append(part)
        if row is TREES:
            parts.append(_trunks(rng, part))
    road, origin = _road_map(path)
    angle, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.1)
    sun = np.array([np.cos(angle) * np.cos(rise), np.sin(angle) * np.cos(rise), np.sin(rise)])
    fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Town(**fields, road=road, road_origin=origin, sun=sun)


def _place(rng: np.random.Generator, path: TownPath, row: _Row) -> dict[str, np.ndarray]:
    """Objects of one row on both sides of the path that keep their clearance from all of it."""
    arcs, sides = [], []
    for side in (-1.0, 1.0):
        arc = rng.uniform(0, row.step[1])
        while arc < path.length:
            arcs.append(arc)
            sides.append(side)
            arc += rng.uniform(*row.step)
    num = len(arcs)
    index = np.minimum((np.array(arcs) / POINT_SPACING_M).astype(int), len(path.xy) - 1)
    half = np.stack([rng.uniform(*row.along, num), rng.uniform(*row.deep, num)], -1)
    if row.is_cylinder:
        half[:, 1] = half[:, 0]
    heading = path.heading[index]
    normal = np.stack([-np.sin(heading), np.cos(heading)], -1) * np.array(sides)[:, None]
    distance = rng.uniform(*row.offset, num) + half[:, 1]
    yaw = heading + rng.normal(0, 0.12, num)
    height = rng.uniform(*row.height, num)
    part = {
        "centre": path.xy[index] + normal * distance[:, None],
        "half_size": half,
        "z_range": np.stack([np.full(num, row.foot), height], -1),
        "axis": np.stack([np.cos(yaw), np.sin(yaw)], -1),
        "is_cylinder": np.full(num, row.is_cylinder),
        "material": np.full(num, row.material),
        "colour": _colours(rng, num, row.material),
        "pattern": _patterns(rng, num),
    }
    keep = _clearance(part, path) > row.clearance
    return {name: value[keep] for name, value in part.items()}


def _colours(rng: np.random.Generator, num: int, material: int) -> np.ndarray:
    if material == FOLIAGE:
        return np.array([0.25, 0.45, 0.18]) * rng.uniform(0.6, 1.3, (num, 1)) + rng.uniform(0, 0.12, (num, 3))
    grey = rng.uniform(0.35, 0.8, (num, 1))
    return np.clip(grey * rng.uniform(0.65, 1.25, (num, 3)), 0.1, 0.95)


def _patterns(rng: np.random.Generator, num: int) -> np.ndarray:
    low, high = [1.6, 2.2, 0.0, 0.12], [3.6, 3.2, 50.0, 0.34]
    return rng.uniform(low, high, (num, 4))


def _clearance(part: dict[str, np.ndarray], path: TownPath) -> np.ndarray:
    """Distance [N] from each object's footprint (as a box) to the nearest path point, 0 inside."""
    points = path.xy[::5]
    nearest = np.full(len(part["centre"]), np.inf)
    for i, (centre, half, axis) in enumerate(
        zip(part["centre"], part["half_size"], part["axis"], strict=True)
    ):
        offset = points - centre
        local = np.stack([offset @ axis, offset @ np.array([-axis[1], axis[0]])], -1)
        nearest[i] = np.linalg.norm(np.maximum(np.abs(local) - half, 0), axis=-1).min()
    return nearest


def _apart(part: dict[str, np.ndarray], taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep objects, first come first served, whose circles overlap others only slightly. taken: [., 3] x, y, radius."""
    keep = np.zeros(len(part["centre"]), bool)
    for i, (centre, half) in enumerate(zip(part["centre"], part["half_size"], strict=True)):
        radius = 0.8 * float(np.hypot(*half))
        gap = np.linalg.norm(taken[:, :2] - centre, axis=-1) - taken[:, 2] - radius
        if not (gap < 0).any():
            keep[i] = True
            taken = np.concatenate([taken, [[*centre, radius]]])
    return keep, taken


def _outside(centre: np.ndarray, taken: np.ndarray) -> np.ndarray:
    gap = np.linalg.norm(centre[:, None] - taken[:, :2], axis=-1) - taken[:, 2]
    return (gap > 0).all(-1) if len(taken) else np.ones(len(centre), bool)


def _roofs(rng: np.random.Generator, houses: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A flat overhanging slab on every house."""
    num = len(houses["centre"])
    top = houses["z_range"][:, 1:]
    red = np.array([0.5, 0.25, 0.2]) * rng.uniform(0.5, 1.4, (num, 1)) + rng.uniform(0, 0.1, (num, 3))
    return houses | {
        "half_size": houses["half_size"] + 0.35,
        "z_range": np.concatenate([top, top + rng.uniform(0.4, 1.3, (num, 1))], -1),
        "material": np.full(num, PLAIN),
        "colour": red,
        "pattern": _patterns(rng, num),
    }


def _trunks(rng: np.random.Generator, trees: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The trunk below every crown."""
    num = len(trees["centre"])
    return trees | {
        "half_size": np.repeat(rng.uniform(0.15, 0.28, (num, 1)), 2, axis=1),
        "z_range": np.stack([np.zeros(num), trees["z_range"][:, 0]], -1),
        "material": np.full(num, PLAIN),
        "colour": np.array([0.35, 0.25, 0.17]) * rng.uniform(0.6, 1.3, (num, 1)),
    }


def _road_map(path: TownPath) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the path on a grid, capped at ROAD_MAX_M: painted around every path point."""
    origin = path.xy.min(0) - ROAD_MARGIN_M
    size = np.ceil((path.xy.max(0) + ROAD_MARGIN_M - origin) / ROAD_CELL_M).astype(int) + 1
    road = np.full(size, ROAD_MAX_M, np.float32)
    reach = int(ROAD_MAX_M / ROAD_CELL_M) + 1
    for point in path.xy[::3]:
        cell = ((point - origin) / ROAD_CELL_M).astype(int)
        x0, y0 = cell - reach
        x1, y1 = cell + reach + 1
        dx = origin[0] + np.arange(x0, x1) * ROAD_CELL_M - point[0]
        dy = origin[1] + np.arange(y0, y1) * ROAD_CELL_M - point[1]
        patch = road[x0:x1, y0:y1]
        np.minimum(patch, np.hypot(dx[:, None], dy).astype(np.float32), out=patch)
    return road, origin
