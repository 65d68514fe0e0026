"""`scal3r export --to colmap --refine`: the scene's cameras, moved to where features that were matched want them.

SIFT features are matched between frames that see the same things (`view_pairs.py`), without believing the cameras;
tracks are triangulated with them, within limits that become narrower; and bundle adjustment moves cameras, focal
lengths and points, while a weak prior holds every camera near its place, so that world and scale stay the scene's and
weakly tied parts stay where they were. The result is believed only when, of all verified matches, the median epipolar
error became smaller, and the median reprojection error of its tracks too; otherwise the scene's own cameras are
written. refinement.json says what was done and how far cameras moved. Shapes: S frames.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.scene.export import bundle_adjustment, colmap
from scal3r_train.scene.export.bundle_adjustment import Matches
from scal3r_train.scene.export.images import IMAGES_NAME, image_names, put_images
from scal3r_train.scene.export.pinhole_errors import Pinholes, epipolar_errors, reprojection_errors
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.export.view_pairs import view_pairs

RECORD_NAME = "refinement.json"
# How far observations may be off, as a share of the focal length: first as far as predicted cameras are, then narrower.
ROUNDS = (0.03, 0.01, 0.0, 0.0)
FINAL_LIMIT = 4.0  # pixels, in the last rounds
PRIOR_SHARE = 0.01  # of the extent of the camera path: how exact its places are taken to be
FEWEST_TRACKS = 100


def write_colmap(source: ExportSource, folder: Path) -> str:
    """Write COLMAP's model, refined when the options ask for it; return its contents in words.

    Raises:
        UserError: pycolmap is not installed, or an image cannot be read or is not of the size that the scene says.
    """
    if not source.options.refine:
        return colmap.write(source, folder)
    bundle_adjustment.require_pycolmap()
    names = image_names(source)
    work = folder / ".refine"
    work.mkdir()
    try:
        model, record = _refined(source, _images(source, names, folder, work), work)
    finally:
        shutil.rmtree(work)
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if model is None:
        source.notes.append(f"not refined, these are the scene's own cameras: {record['reason']}")
        return colmap.write_model(source, folder, names)
    bundle_adjustment.as_pinhole(model)
    for number, name in enumerate(names, 1):
        model.images[number].name = name
    if source.options.text:
        model.write_text(folder)
    else:
        model.write_binary(folder)
    return (
        f"{len(names)} images, {len(model.cameras)} cameras, {len(model.points3D)} points\n{_words(record)}"
    )


def _images(source: ExportSource, names: list[str], folder: Path, work: Path) -> Path:
    """Return a folder of all images, upright and undistorted, called by number: COLMAP's lists know no blanks."""
    put_images(source, names, folder)
    written = folder / IMAGES_NAME
    if not source.options.write_images:
        wanted = replace(source, options=source.options.model_copy(update={"write_images": True}), notes=[])
        put_images(wanted, names, work, place=_link)
        written = work / IMAGES_NAME
    numbered = work / "numbered"
    numbered.mkdir()
    for number, name in enumerate(names):
        _link(written / name, numbered / f"{number:08d}{PurePosixPath(name).suffix}")
    return numbered


def _link(path: Path, target: Path) -> None:
    os.symlink(path.resolve(), target)


def _refined(source: ExportSource, images: Path, work: Path) -> tuple[Any | None, dict[str, Any]]:
    """Return the refined model, None when it is not to be believed, and what refinement.json says."""
    cameras = source.cameras
    hw = np.array([frame.image_hw for frame in cameras.frames], np.int64)
    intrinsics = cameras.intrinsics.numpy()[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    is_given = intrinsics_were_given(source)
    shared = colmap.SharedCameras.of(hw, intrinsics, single=not is_given)
    cam_from_world = invert_extrinsics(cameras.world_from_cam).numpy()
    names = sorted(path.name for path in images.iterdir())
    model = bundle_adjustment.model_of(shared, cam_from_world, names, keep_aspect=is_given)
    # With every frame's own intrinsics, which is what would be written.
    before = Pinholes(cam_from_world, intrinsics)
    database = work / "features.db"
    matches = bundle_adjustment.find_matches(database, model, images, view_pairs(source))
    record: dict[str, Any] = {
        "refined": False,
        "matched_pairs": len(matches),
        "matches": sum(len(pair.pixels) for pair in matches),
    }
    try:
        focal = float(np.median(intrinsics[:, :2]))
        centres, stddev = before.centres, PRIOR_SHARE * _extent(before.centres)
        moved = 0
        for share in ROUNDS:
            limit = max(share * focal, FINAL_LIMIT)
            model = bundle_adjustment.with_tracks(model, database, images, work, limit)
            if len(model.points3D) < FEWEST_TRACKS:
                raise ValueError(f"{len(model.points3D)} points are seen from three places or more")
            moved = bundle_adjustment.adjust(model, centres, stddev, limit / 4, refine_focal=not is_given)
            bundle_adjustment.place_like(model, before)
    except (RuntimeError, ValueError) as error:
        return None, record | {"reason": str(error).strip().splitlines()[-1]}
    record |= {"cameras_moved": moved} | _measured(model, before, matches)
    for kind in ("epipolar_px", "reprojection_px"):
        if not record[kind]["after"]["median"] < record[kind]["before"]["median"]:
            return None, record | {"reason": f"{kind.split('_')[0]} errors did not become smaller"}
    return model, record | {"refined": True}


def intrinsics_were_given(source: ExportSource) -> bool:
    """Whether the user or the input's index said what the intrinsics are, so that they are left alone."""
    return source.cameras.info.recipe.get("input", {}).get("intrinsics") is not None


def _measured(model: Any, before: Pinholes, matches: list[Matches]) -> dict[str, Any]:
    """Return errors before and after, and how far cameras moved."""
    after, tracks = bundle_adjustment.pinholes_of(model), bundle_adjustment.tracks_of(model)
    errors = {
        "epipolar_px": lambda cameras: np.concatenate(
            [epipolar_errors(cameras, pair.frames, pair.pixels) for pair in matches]
        ),
        "reprojection_px": lambda cameras: reprojection_errors(cameras, tracks),
    }
    relative = after.cam_from_world[:, :, :3] @ before.cam_from_world[:, :, :3].swapaxes(1, 2)
    turned = np.rad2deg(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    shifted = np.linalg.norm(after.centres - before.centres, axis=1)
    extent = _extent(before.centres)
    return {
        "tracks": len(tracks.points),
        "observations": len(tracks.track),
        **{
            kind: {"before": _quantiles(measure(before)), "after": _quantiles(measure(after))}
            for kind, measure in errors.items()
        },
        "moved": {
            "units": _quantiles(shifted),
            "percent_of_extent": _quantiles(100 * shifted / extent),
            "degrees": _quantiles(turned),
        },
        "focal_change": float(np.median(after.intrinsics[:, :2] / before.intrinsics[:, :2])) - 1,
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    median, most = np.quantile(values, [0.5, 0.95], method="lower")
    return {"median": float(median), "q95": float(most) if np.isfinite(most) else -1.0}


def _extent(centres: np.ndarray) -> float:
    """Return the diagonal of the box around camera centres [S, 3]."""
    return max(float(np.linalg.norm(np.ptp(centres, axis=0))), 1e-12)


def _words(record: dict[str, Any]) -> str:
    """Return what refinement.json says in two lines."""
    reprojection, epipolar, moved = (record[key] for key in ("reprojection_px", "epipolar_px", "moved"))
    return (
        f"median reprojection error {reprojection['before']['median']:.3g} -> {reprojection['after']['median']:.3g} "
        f"pixels ({record['observations']} observations of {record['tracks']} tracks), epipolar "
        f"{epipolar['before']['median']:.3g} -> {epipolar['after']['median']:.3g} ({record['matches']} matches)\n"
        f"{record['cameras_moved']} cameras moved by {moved['percent_of_extent']['median']:.2g} % of the path's extent "
        f"and {moved['degrees']['median']:.2g} degrees (medians), "
        f"focal lengths by {100 * record['focal_change']:+.2g} %"
    )
