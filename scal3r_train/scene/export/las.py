"""LAS 1.4, and LAZ, which is the same compressed: points of format 7 with 16-bit colours, through laspy.

Coordinates are whole numbers of `PointPlace.step` from an offset in the header, which with a georeference also names
the UTM zone (as well-known text). `confidence` is an extra dimension (float32, as the network says it); `intensity`,
which every viewer can show, is 65,535 (1 - 1 / confidence): 0 at the least confidence of 1, half of the range at 2.
Specification: ASPRS LAS 1.4 R15.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from scal3r_train import __version__
from scal3r_train.config import UserError
from scal3r_train.scene.export.output import own_error
from scal3r_train.scene.export.placed_points import PointPlace
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.ply import colours_of, positions_of

POINT_FORMAT, VERSION = 7, "1.4"
BYTE_TO_16_BITS = 257
MOST = 65535


def write_las(source: ExportSource, path: Path) -> str:
    """Write a LAS file; return its contents in words."""
    return _write(source, path, compress=False)


def write_laz(source: ExportSource, path: Path) -> str:
    """Write a LAZ file; return its contents in words."""
    return _write(source, path, compress=True)


def _write(source: ExportSource, path: Path, *, compress: bool) -> str:
    laspy = _laspy(compress=compress)
    place = PointPlace.of(source)
    header = laspy.LasHeader(version=VERSION, point_format=POINT_FORMAT)
    header.offsets, header.scales = place.offset, np.full(3, place.step)
    header.generating_software = f"scal3r_train {__version__}"
    header.add_extra_dim(laspy.ExtraBytesParams("confidence", np.float32, "of the prediction, from 1"))
    if place.wkt:
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(place.wkt))
        header.global_encoding.wkt = True
    num_points = 0
    try:
        with laspy.open(str(path), mode="w", header=header, do_compress=compress) as writer:
            for vertices in source.points(path.parent):
                writer.write_points(_record(laspy, writer.header, place, vertices))
                num_points += len(vertices)
    except RuntimeError as error:  # of lazrs, which turns a full disk into its own
        raise own_error(path, error) from error
    return f"{num_points} points in {place.words}, grid {place.step:g}"


def _record(laspy: ModuleType, header: Any, place: PointPlace, vertices: np.ndarray) -> Any:
    """Points of a block as laspy wants them."""
    record = laspy.ScaleAwarePointRecord.zeros(len(vertices), header=header)
    placed = place.coordinates(positions_of(vertices))
    counts = np.rint((placed - place.offset) / place.step).astype(np.int64)
    assert np.abs(counts).max(initial=0) < 2**31, "the scene is larger than its grid allows"
    record["X"], record["Y"], record["Z"] = counts.T.astype(np.int32)
    colours = colours_of(vertices).astype(np.uint16) * BYTE_TO_16_BITS
    record["red"], record["green"], record["blue"] = colours.T
    record["return_number"][:] = record["number_of_returns"][:] = 1
    record["confidence"] = vertices["confidence"]
    record["intensity"] = np.rint(MOST * (1 - 1 / np.maximum(vertices["confidence"], 1))).astype(np.uint16)
    return record


def _laspy(*, compress: bool) -> ModuleType:
    """Import laspy. Raises UserError saying what to install."""
    try:
        import laspy  # noqa: PLC0415  optional

        if compress:
            import lazrs  # noqa: F401, PLC0415  optional
    except ImportError as error:
        raise UserError(
            f"--to {'laz' if compress else 'las'} needs {error.name}: pip install 'scal3r_train[geo]'"
        ) from None
    return laspy
