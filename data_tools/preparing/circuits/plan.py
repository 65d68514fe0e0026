"""Track descriptions of TORCS (.xml): light and sky, and the course as straights and arcs.

The course is a list of segments in driving order: straights of a length, arcs of a radius (which may change to an end
radius in steps) and an angle. It starts at the origin heading along x; where the mesh has it is found by laying the
road's edges over the mesh's vertices. Metres. Shapes: N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.spatial import cKDTree

from scal3r_data_tools.preparing.circuits.route import resampled
from scal3r_data_tools.preparing.circuits.safe_xml import parse_xml
from scal3r_train.config import UserError

DEFAULT_WIDTH_M = 10.0
CELL_M = 0.5
REFINING_M = (1.0, 0.6, 0.3, 0.2, 0.1, 0.1)
MAX_GAP_M = 1.0


@dataclass(frozen=True)
class Description:
    """A track's description: its file, parameters by name, and the section of its course."""

    path: Path
    graphic: Element
    main: Element

    def text(self, key: str, default: str) -> str:
        """A text of the section on graphics."""
        return next((e.get("val", "") for e in self.graphic.iter("attstr") if e.get("name") == key), default)

    def numbers(self, keys: list[str], default: float) -> np.ndarray:
        """Numbers of the section on graphics."""
        return np.array([_number(self.graphic, key, default) for key in keys])

    @property
    def width(self) -> float:
        """Of the road."""
        return _number(self.main, "width", DEFAULT_WIDTH_M)


def read_description(path: Path) -> Description:
    """Read a track's XML. Raises UserError when it is none."""
    root = parse_xml(path)
    return Description(path, _section(root, path, "Graphic"), _section(root, path, "Main Track"))


def course(description: Description) -> np.ndarray:
    """The closed middle of the road [N, 2] as seen from above (x, y), every CELL_M, starting at the origin.

    Raises UserError when the segments do not close.
    """
    segments = _section(description.main, description.path, "Track Segments", "segments")
    step_length = _number(description.main, "profil steps length", 0.0)
    points, heading = [np.zeros((1, 2))], 0.0
    for segment in (e for e in segments if e.tag == "section"):
        pieces = _pieces(segment, step_length, description.path)
        for length, curvature in pieces:
            num = max(1, int(np.ceil(length / CELL_M)))
            points.append(points[-1][-1] + _arc(length, curvature, heading, num))
            heading += length * curvature
    line = np.concatenate(points)
    gap = float(np.linalg.norm(line[-1] - line[0]))
    if gap > MAX_GAP_M:
        raise UserError(f"{description.path}: the course does not close by {gap:.1f} m")
    return resampled(line[:-1], CELL_M)


def place(line: np.ndarray, width: float, vertices: np.ndarray) -> np.ndarray:
    """Where a course lies: the translation [2] that lays the edges of its road on the most vertices [V, 2].

    First by correlating both as pictures of CELL_M, then by medians over what lies close.
    """
    along = np.roll(line, -1, 0) - np.roll(line, 1, 0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    edges = np.concatenate([line + normal * width / 2, line - normal * width / 2])
    origins = vertices.min(0), edges.min(0)
    extent = np.maximum(np.ptp(vertices, axis=0), np.ptp(edges, axis=0))
    shape = np.array([next_fast_len(int(size), real=True) for size in np.ceil(2 * (extent + 10) / CELL_M)])
    pictures = [rfft2(_picture(p, o, shape)) for p, o in zip((vertices, edges), origins, strict=True)]
    match = irfft2(pictures[0] * np.conj(pictures[1]), s=tuple(shape))
    peak = np.array(np.unravel_index(match.argmax(), match.shape))
    shift = origins[0] - origins[1] + CELL_M * np.where(peak > shape // 2, peak - shape, peak)
    for radius in REFINING_M:
        distance, nearest = cKDTree(edges + shift).query(vertices, distance_upper_bound=radius)
        close = np.isfinite(distance)
        if close.sum() < 10:
            break
        shift = shift + np.median(vertices[close] - (edges[nearest[close]] + shift), axis=0)
    return shift


def _picture(points: np.ndarray, origin: np.ndarray, shape: np.ndarray) -> np.ndarray:
    picture = np.zeros(shape, np.float32)
    cells = ((points - origin) / CELL_M).astype(int)
    cells = cells[((cells >= 0) & (cells < shape)).all(1)]
    picture[cells[:, 0], cells[:, 1]] = 1
    return picture


def _pieces(segment: Element, step_length: float, path: Path) -> list[tuple[float, float]]:
    """Lengths and curvatures (positive: left) of the arcs that a segment is built from."""
    kind = next((e.get("val") for e in segment if e.tag == "attstr" and e.get("name") == "type"), None)
    if kind == "str":
        return [(_required(segment, "lg", path), 0.0)]
    sign = {"lft": 1.0, "rgt": -1.0}.get(kind or "")
    if sign is None:
        raise UserError(f"{path}: segment '{segment.get('name')}' is of type {kind}")
    radius, angle = _required(segment, "radius", path), _required(segment, "arc", path)
    end_radius = _number(segment, "end radius", radius)
    length = (radius + end_radius) / 2 * angle
    step = _number(segment, "profil steps length", step_length)
    num = int(length / step) + 1 if step > 0 else int(_number(segment, "profil steps", 1.0))
    if radius == end_radius or num < 2:
        return [(length, sign / radius)]
    # equal lengths with radii from one to the other; scaled so that their angles add up
    radii = np.linspace(radius, end_radius, num)
    piece = angle / (1 / radii).sum()
    return [(float(piece), sign / float(r)) for r in radii]


def _arc(length: float, curvature: float, heading: float, num: int) -> np.ndarray:
    """Points [num, 2] of an arc relative to its start, which they leave out."""
    along = np.arange(1, num + 1) / num * length
    if curvature == 0:
        return along[:, None] * np.array([np.cos(heading), np.sin(heading)])
    turned = heading + along * curvature
    return np.stack([np.sin(turned) - np.sin(heading), np.cos(heading) - np.cos(turned)], 1) / curvature


def _section(parent: Element, path: Path, *names: str) -> Element:
    for element in parent.iter("section"):
        if element.get("name") in names:
            return element
    raise UserError(f"{path} has no section '{names[0]}'; is it the description of a TORCS track?")


def _number(section: Element, key: str, default: float) -> float:
    for element in section:
        if element.tag == "attnum" and element.get("name") == key:
            value = float(element.get("val", "nan"))
            return float(np.deg2rad(value)) if element.get("unit") == "deg" else value
    return default


def _required(section: Element, key: str, path: Path) -> float:
    value = _number(section, key, float("nan"))
    if not np.isfinite(value):
        raise UserError(f"{path}: segment '{section.get('name')}' has no '{key}'")
    return value
