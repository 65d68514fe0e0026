"""A scene that is being exported: its cameras in memory, its points in an open file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_train.scene.export.kept_points import kept_points
from scal3r_train.scene.export.options import ExportOptions
from scal3r_train.scene.folder import read_steady
from scal3r_train.scene.ply import PlyReader, PlyWriter
from scal3r_train.scene.scene import SceneCameras, open_scene


@dataclass(frozen=True, eq=False)
class ExportSource:
    """What is exported.

    Attributes:
        folder: the scene folder.
        cameras: of the scene.
        options: what the user chose.
        notes: what the user should know, one line each; added to while writing.
    """

    folder: Path
    cameras: SceneCameras
    options: ExportOptions
    notes: list[str]
    _points: PlyReader

    @staticmethod
    @contextmanager
    def open(folder: Path, options: ExportOptions) -> Iterator[ExportSource]:
        """Give the scene of a folder, as it is now even if another process replaces it.

        Raises:
            UserError: it is no scene folder, or damaged.
        """
        cameras, points = read_steady(folder, lambda: open_scene(folder))
        with points:
            yield ExportSource(folder, cameras, options, [], points)

    @property
    def num_points(self) -> int:
        """Points of the scene, those included that the options leave out."""
        return self._points.num_points

    @property
    def images_root(self) -> Path:
        """Where the names of the input images start."""
        return self.options.images or self.cameras.images_root

    def all_points(self) -> Iterator[np.ndarray]:
        """Yield all points of the scene in blocks of `ply.VERTEX`, in the order of frames."""
        return self._points.blocks()

    def points(self, folder: Path) -> Iterator[np.ndarray]:
        """Yield the points that the options leave in blocks of `ply.VERTEX`; `folder` takes a temporary file."""
        return kept_points(self._points, self.options, folder)

    def write_ply(self, path: Path) -> str:
        """Write the points that the options leave as a PLY file of the scene's layout; return its contents in words."""
        with path.open("wb") as file:
            writer = PlyWriter(file)
            for vertices in self.points(path.parent):
                writer.append(vertices)
            writer.finish()
        return f"{writer.num_points} points"
