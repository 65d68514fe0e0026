"""What pycolmap does for `--refine`: SIFT features, matches, tracks for given cameras, bundle adjustment.

Frame i of S is image i + 1 of the database and of every model. Nothing here decides anything; that is `refine.py`. As
many threads are taken as torch takes, which heeds the process's cores and OMP_NUM_THREADS. pycolmap is optional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.sim3_fit import fit_umeyama
from scal3r_train.scene.export.colmap import SharedCameras
from scal3r_train.scene.export.pinhole_errors import Pinholes, Tracks

MAX_IMAGE_SIDE, MAX_FEATURES = 1600, 4096
LARGEST_CREATE_ANGLE_DEG = (
    3.0  # between rays that may still be one point, while cameras are as they were predicted
)
SMALLEST_ANGLE_DEG = (
    0.3  # between the rays of a point; far ones say little about places, but much about rotations
)
SQUARE = 0.03  # pixels whose focal lengths differ by less are taken for square, so that one number is refined, not two
FEATURE_THRESHOLD = 0.003  # half of COLMAP's: smooth pictures have features too
FEWEST_OBSERVATIONS = 20  # of a frame whose camera is moved
MAX_ITERATIONS, FUNCTION_TOLERANCE = 60, 1e-6
MOST_MATCHES_KEPT = 300  # of a pair, for measuring


@dataclass(frozen=True, eq=False)
class Matches:
    """What was matched between two frames and verified by geometry alone: pixels [M, 4], x y in each."""

    frames: tuple[int, int]
    pixels: np.ndarray


def require_pycolmap(what: str = "--refine") -> ModuleType:
    """Return pycolmap, which keeps its log to itself; UserError naming what needs it when it is not installed."""
    try:
        import pycolmap  # noqa: PLC0415  optional
    except ImportError:
        raise UserError(f"{what} needs pycolmap; run pip install 'scal3r_train[refine]'") from None
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    return pycolmap


def model_of(
    cameras: SharedCameras, cam_from_world: np.ndarray, names: Sequence[str], *, keep_aspect: bool
) -> Any:
    """Return a pycolmap.Reconstruction of frames with poses [S, 3, 4] and names, without points.

    Cameras whose pixels are about square have one focal length unless `keep_aspect`.
    """
    pycolmap = require_pycolmap()
    model = pycolmap.Reconstruction()
    for number, ((height, width), (fx, fy, cx, cy)) in enumerate(
        zip(cameras.image_hw.tolist(), cameras.intrinsics.tolist(), strict=True), 1
    ):
        kind, params = "PINHOLE", [fx, fy, cx, cy]
        if not keep_aspect and abs(fy / fx - 1) < SQUARE:
            kind, params = "SIMPLE_PINHOLE", [(fx + fy) / 2, cx, cy]
        camera = pycolmap.Camera(camera_id=number, model=kind, width=width, height=height, params=params)
        camera.has_prior_focal_length = True
        model.add_camera_with_trivial_rig(camera)
    for number, (pose, of_camera, name) in enumerate(
        zip(cam_from_world, (cameras.of_frame + 1).tolist(), names, strict=True), 1
    ):
        image = pycolmap.Image(name=name, camera_id=of_camera, image_id=number)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    return model


def find_matches(database: Path, model: Any, images: Path, pairs: Sequence[tuple[int, int]]) -> list[Matches]:
    """Fill a new database with features of the model's images and matches between pairs of frames; return these.

    Only matches that agree with some motion of the camera are left, whatever the model says it was.
    """
    pycolmap = require_pycolmap()
    opened = pycolmap.Database.open(database)
    for write, parts in (
        (opened.write_camera, model.cameras),
        (opened.write_rig, model.rigs),
        (opened.write_frame, model.frames),
        (opened.write_image, model.images),
    ):
        for number in sorted(parts):
            write(parts[number], True)
    opened.close()
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.max_image_size, extraction.sift.max_num_features = MAX_IMAGE_SIDE, MAX_FEATURES
    extraction.sift.peak_threshold = FEATURE_THRESHOLD
    extraction.num_threads = torch.get_num_threads()
    names = [model.images[number].name for number in sorted(model.images)]
    pycolmap.extract_features(
        database, images, names, extraction_options=extraction, device=pycolmap.Device.cpu
    )
    listed = database.with_name("pairs.txt")
    listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in pairs), encoding="utf-8")
    matching, pairing = pycolmap.FeatureMatchingOptions(), pycolmap.ImportedPairingOptions()
    matching.num_threads, pairing.match_list_path = torch.get_num_threads(), str(listed)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = 0
    pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)
    return _verified(database)


def with_tracks(model: Any, database: Path, images: Path, work: Path, limit: float) -> Any:
    """Return the model with points that its cameras see within `limit` pixels, found anew from all matches."""
    pycolmap = require_pycolmap()
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = 0
    options.num_threads = options.mapper.num_threads = torch.get_num_threads()
    options.triangulation.create_max_angle_error = LARGEST_CREATE_ANGLE_DEG
    options.triangulation.continue_max_angle_error = LARGEST_CREATE_ANGLE_DEG
    options.triangulation.merge_max_reproj_error = options.triangulation.complete_max_reproj_error = limit
    options.mapper.filter_max_reproj_error = limit
    options.mapper.filter_min_tri_angle = options.triangulation.min_angle = SMALLEST_ANGLE_DEG
    return pycolmap.triangulate_points(model, database, images, work, options=options)


def adjust(model: Any, centres: np.ndarray, stddev: float, loss_scale: float, *, refine_focal: bool) -> int:
    """Move cameras and points of a model where its observations want them; return how many cameras took part.

    Args:
        model: whose cameras with fewer than FEWEST_OBSERVATIONS stay as they are.
        centres: [S, 3] where the cameras are expected, which also fixes world and scale.
        stddev: how exact that is, in world units.
        loss_scale: pixels beyond which an observation pulls less (Cauchy).
        refine_focal: whether focal lengths are moved too; principal points stay.

    Raises:
        RuntimeError, ValueError: as pycolmap does, when the problem cannot be solved.
    """
    pycolmap = require_pycolmap()
    config, priors = pycolmap.BundleAdjustmentConfig(), []
    for number, image in model.images.items():
        if image.num_points3D < FEWEST_OBSERVATIONS:
            continue
        config.add_image(number)
        priors.append(
            pycolmap.PosePrior(
                pose_prior_id=number,
                corr_data_id=image.data_id,
                position=centres[number - 1],
                position_covariance=np.eye(3) * stddev**2,
                coordinate_system=pycolmap.PosePriorCoordinateSystem.CARTESIAN,
            )
        )
    if len(priors) < 3:
        raise ValueError("fewer than three cameras see enough of the same points")
    options, prior_options = pycolmap.BundleAdjustmentOptions(), pycolmap.PosePriorBundleAdjustmentOptions()
    options.refine_focal_length, options.refine_principal_point = refine_focal, False
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_scale
    options.ceres.solver_options.max_num_iterations = MAX_ITERATIONS
    options.ceres.solver_options.function_tolerance = FUNCTION_TOLERANCE
    options.ceres.solver_options.num_threads = torch.get_num_threads()
    prior_options.ceres.prior_position_loss_function_type = pycolmap.LossFunctionType.CAUCHY
    prior_options.alignment_ransac.random_seed = 0
    adjuster = pycolmap.create_pose_prior_bundle_adjuster(options, prior_options, config, priors, model)
    if not adjuster.solve().is_solution_usable():
        raise RuntimeError("the adjustment does not converge")
    return len(priors)


def pinholes_of(model: Any) -> Pinholes:
    """Return the cameras of a model."""
    images = [model.images[number] for number in sorted(model.images)]
    poses = np.stack([image.cam_from_world().matrix() for image in images])
    return Pinholes(poses, np.stack([_intrinsics(model.cameras[image.camera_id]) for image in images]))


def as_pinhole(model: Any) -> None:
    """Write all cameras of a model with two focal lengths."""
    for camera in model.cameras.values():
        params = _intrinsics(camera)
        camera.model = require_pycolmap().CameraModelId.PINHOLE
        camera.params = params


def place_like(model: Any, before: Pinholes) -> None:
    """Move a model as a whole, by a similarity, so that its cameras lie and look as nearly as can be as before.

    Places alone would leave the turn about a straight path open; so the points count that lie ahead of every camera and
    to its side too, at half the path's extent.
    """
    pycolmap = require_pycolmap()
    source, target = (_probes(cameras, before) for cameras in (pinholes_of(model), before))
    target_from_source = fit_umeyama(torch.from_numpy(source), torch.from_numpy(target))
    matrix = target_from_source.matrix().numpy()
    model.transform(pycolmap.Sim3d(matrix[:3]))


def _probes(cameras: Pinholes, before: Pinholes) -> np.ndarray:
    """Return [3 S, 3]: camera centres, and points ahead and to the right of them."""
    length = np.linalg.norm(np.ptp(before.centres, axis=0)) / 2
    axes = cameras.cam_from_world[:, [2, 0], :3] * length
    return np.concatenate([cameras.centres, cameras.centres + axes[:, 0], cameras.centres + axes[:, 1]])


def _intrinsics(camera: Any) -> np.ndarray:
    params = camera.params
    return params[[0, 0, 1, 2]] if len(params) == 3 else params


def tracks_of(model: Any) -> Tracks:
    """Return the observations of a model's points."""
    numbers = sorted(model.points3D)
    row_of = {number: row for row, number in enumerate(numbers)}
    track, frame, pixels = [], [], []
    for number in sorted(model.images):
        seen = model.images[number].get_observation_points2D()
        track += [row_of[point.point3D_id] for point in seen]
        frame += [number - 1] * len(seen)
        pixels += [point.xy for point in seen]
    points = np.array([model.points3D[number].xyz for number in numbers]).reshape(-1, 3)
    return Tracks(points, np.array(track, int), np.array(frame, int), np.array(pixels).reshape(-1, 2))


def _verified(database: Path) -> list[Matches]:
    pycolmap = require_pycolmap()
    opened = pycolmap.Database.open(database)
    numbers = [image.image_id for image in opened.read_all_images()]
    places = {number: opened.read_keypoints(number)[:, :2] for number in numbers}
    result = []
    for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True):
        first, second = pycolmap.pair_id_to_image_pair(pair)
        chosen = geometry.inlier_matches
        chosen = chosen[:: max(1, -(-len(chosen) // MOST_MATCHES_KEPT))]
        if len(chosen):
            pixels = np.hstack([places[first][chosen[:, 0]], places[second][chosen[:, 1]]]).astype(np.float64)
            result.append(Matches((first - 1, second - 1), pixels))
    opened.close()
    return result
