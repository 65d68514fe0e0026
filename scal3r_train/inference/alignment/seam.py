"""A seam: the similarity, scale included, between two neighbouring chunks, from the frames that both have seen.

Every chunk is predicted in its own coordinates with its own scale. Where two chunks share frames, the same pixel is
the same point of the scene (correspondences.py, point_seam.py), and the cameras of the shared frames are the same
cameras (camera_seam.py): two estimates, each with the noise that it shows. Where they agree, the seam is their mean,
weighted by what each knows; nonsense in one leaves the seam to the other; nonsense in both is a break
(docs/numerics.md#seams). `align_chunks` is the whole; `chain` strings seams into world_from_chunk, where the world is
chunk 0's coordinate frame (OpenCV axes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.geometry.sim3_fit import fit_kabsch, fit_umeyama, spread
from scal3r_train.inference.alignment.camera_seam import (
    CameraFit,
    fit_cameras,
    join_by_cameras,
    middle_of_shared_cameras,
)
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry, shared_frames
from scal3r_train.inference.alignment.correspondences import (
    Correspondences,
    find_correspondences,
    keep_confident,
)
from scal3r_train.inference.alignment.point_noise import DepthAxis
from scal3r_train.inference.alignment.point_seam import PointFit, fit_points, solve_on_all_pixels
from scal3r_train.inference.alignment.seam_wander import Wander, seam_wander
from scal3r_train.inference.alignment.settings import AlignmentSettings

ROBUST_MODES = ("sim3", "sim3_scale_locked")
SMALL_SHIFT = 0.02  # of the median depth: centres that agree to this agree, however little the camera moves


@dataclass(frozen=True)
class SeamQuality:
    """How well a seam holds: plain values, as `scene.json` keeps them.

    Residuals are relative to the scene's scale, the median distance of the earlier chunk's points from their middle;
    None unless points were used, or compared with cameras that `evidence: cameras` joined.

    Attributes:
        method: `points` (shared pixels, with or without the cameras), `cameras` (the poses of shared frames, because
            they alone were asked, too few pixels were valid or these are nonsense), or `break` (the trajectory is torn
            here, and the later chunk merely placed where the earlier one ends).
        trusted: whether enough points fit.
        scale: of the later chunk, in units of the earlier one.
        num_points: shared pixels used or compared.
        residual_rms, residual_median: of all of them.
        inlier_share: how many of them fit, in [0, 1].
        spread, centre: that scale and that middle, in the earlier chunk's units and coordinates; without residuals the
            middle of the shared cameras.
        with_cameras: whether cameras were weighed in.
        points_noise: median residual of the points under their own fit, relative to depth.
        cameras_turn_deg: median difference of the rotations of one frame under the cameras' own fit.
        cameras_shift: the same of their centres, relative to how far these lie from their mean.
        disagreement: between the two fits, in standard deviations.
        log_scale_std: standard deviation of the log of the scale, as the overlap shows it; None if it was given.
        reason: why the method, in one line; None for points and cameras that agree.
        num_frames: shared frames.
        turn_deg: largest angle between the viewing directions of two shared frames, in the earlier chunk.
        wander: how much parts of the overlap disagree on the seam (`seam_wander`).
    """

    method: Literal["points", "cameras", "break"]
    trusted: bool
    scale: float
    num_points: int
    residual_rms: float | None = None
    residual_median: float | None = None
    inlier_share: float | None = None
    spread: float | None = None
    centre: tuple[float, float, float] | None = None
    with_cameras: bool = False
    points_noise: float | None = None
    cameras_turn_deg: float | None = None
    cameras_shift: float | None = None
    disagreement: float | None = None
    log_scale_std: float | None = None
    reason: str | None = None
    num_frames: int = 0
    turn_deg: float = 0.0
    wander: Wander | None = None

    def as_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Seam:
    """The transform that joins a chunk to the one before it, and what it is worth.

    `covariance` [7, 7] is of `earlier_from_later` @ Exp(error), as the overlap itself shows it; None where nothing was
    measured.
    """

    earlier_from_later: Sim3
    quality: SeamQuality
    covariance: Tensor | None = None


def align_chunks(earlier: ChunkGeometry, later: ChunkGeometry, settings: AlignmentSettings) -> Seam:
    """Align `later` to `earlier`; always a seam, whose quality says what it is worth.

    Raises UserError when cameras have to be used and are not finite.
    """
    shared = find_correspondences(earlier, later, settings)
    if settings.mode in ROBUST_MODES:
        shared = keep_confident(shared, settings)
    scene_scale = 0.0
    if len(shared) >= settings.min_points:
        scene_scale = float(min(spread(shared.earlier), spread(shared.later)))
    cameras = _hear_cameras(earlier, later, scene_scale, settings)
    points = None
    if scene_scale > 0 and settings.evidence != "cameras":
        points = _hear_points(earlier, later, shared, cameras, settings)
    quality = SeamQuality(
        "points",
        trusted=False,
        scale=math.nan,
        num_points=len(shared),
        points_noise=None if points is None else points.noise,
        cameras_turn_deg=cameras.turn_deg,
        cameras_shift=cameras.shift,
    )
    if points is None:
        if settings.evidence == "cameras":
            seam = _without_points(earlier, later, cameras, settings, quality)
            known = scene_scale > 0 and seam.quality.method == "cameras"
            return _compared(seam, shared, earlier, later, settings) if known else seam
        quality = replace(quality, reason=f"only {len(shared)} shared pixels are valid")
        return _without_points(earlier, later, cameras, settings, quality)
    if settings.evidence == "both" and points.noise > settings.max_points_noise:
        reason = f"shared pixels differ by {points.noise:.0%} of their depth, more than {settings.max_points_noise:.0%}"
        return _without_points(
            earlier, later, cameras, settings, replace(quality, reason=reason), nonsense=True
        )
    seam = _with_points(points, cameras, shared, settings, quality)
    return _with_overlap(seam, points, shared, earlier, later)


def given_scale(settings: AlignmentSettings) -> float | None:
    """Return the scale that a mode gives to every seam; None where the seam has to show it."""
    if settings.mode == "sim3_scale_locked":
        return settings.locked_scale
    return 1.0 if settings.mode == "se3" else None


def chain(seams: Sequence[Seam]) -> list[Sim3]:
    """world_from_chunk of all chunks (one more than seams); the world is chunk 0."""
    world_from_chunk = [Sim3.identity()]
    for seam in seams:
        world_from_chunk.append(world_from_chunk[-1] @ seam.earlier_from_later)
    return world_from_chunk


@dataclass(frozen=True, eq=False)
class _HeardCameras:
    """The cameras' fit under the mode (None: nothing to hear), what is wrong with it, and its residuals.

    The verdict and the residuals are those of a fit with a free scale, whatever scale the mode gives.
    """

    fit: CameraFit | None = None
    fault: str | None = None
    turn_deg: float | None = None
    shift: float | None = None

    @property
    def sound(self) -> CameraFit | None:
        """The fit, unless it is nonsense."""
        return None if self.fault else self.fit

    @property
    def witness(self) -> CameraFit | None:
        """The fit, if it can speak against points: poses that are all the same agree whatever they are."""
        return self.sound if self.fit is not None and self.fit.moves else None


def _hear_cameras(
    earlier: ChunkGeometry, later: ChunkGeometry, scene_scale: float, settings: AlignmentSettings
) -> _HeardCameras:
    free = None if settings.evidence == "points" else fit_cameras(earlier, later, None)
    if free is None:
        return _HeardCameras()
    scale = given_scale(settings)
    turn, most = math.degrees(free.turn), settings.max_camera_turn_deg
    shift = free.shift / free.radius if free.radius > 0 else None
    fault = None
    if turn > most:
        fault = f"cameras of shared frames turn by {turn:.0f} degrees against each other, more than {most:g}"
    elif free.shift > max(settings.max_camera_shift * free.radius, SMALL_SHIFT * scene_scale):
        fault = (
            f"centres of shared cameras differ by {free.shift / max(free.radius, 1e-300):.0%} of their spread"
        )
    return _HeardCameras(free if scale is None else fit_cameras(earlier, later, scale), fault, turn, shift)


def _hear_points(
    earlier: ChunkGeometry,
    later: ChunkGeometry,
    shared: Correspondences,
    cameras: _HeardCameras,
    settings: AlignmentSettings,
) -> PointFit:
    """The points' fit under the mode; its noise is that of a fit with a free scale."""
    scale, robust = given_scale(settings), settings.mode in ROBUST_MODES
    axis = None
    if settings.depth_noise and robust and not cameras.fault:  # depths are those cameras' too
        axis = DepthAxis.of(later.extrinsics[[pair[1] for pair in shared_frames(earlier, later)]])
    witness = cameras.witness
    fit = fit_points(shared, axis, settings, None, None if witness is None else witness.sim3)
    if math.isinf(fit.noise):
        return fit
    if scale is not None and robust:
        fit = replace(fit_points(shared, axis, settings, scale), noise=fit.noise)
    if not robust:
        plain = fit_kabsch if settings.mode == "se3" else fit_umeyama
        return replace(fit, sim3=plain(shared.later, shared.earlier))
    if settings.all_pixels and settings.max_points_per_frame is None:
        fit = solve_on_all_pixels(fit, earlier, later, shared, axis, settings, scale)
    return fit


def _without_points(
    earlier: ChunkGeometry,
    later: ChunkGeometry,
    cameras: _HeardCameras,
    settings: AlignmentSettings,
    quality: SeamQuality,
    *,
    nonsense: bool = False,
) -> Seam:
    """A seam by cameras, or a break; with `nonsense` points were heard and are not believed."""
    scale, fit = given_scale(settings), cameras.sound
    quality = replace(quality, centre=middle_of_shared_cameras(earlier, later))
    known = scale is not None or (fit is not None and fit.log_scale_std <= settings.max_scale_std)
    if fit is not None and known:
        quality = replace(
            quality,
            method="cameras",
            scale=fit.sim3.scale.item(),
            with_cameras=True,
            log_scale_std=None if scale is not None else fit.log_scale_std,
        )
        return Seam(fit.sim3, quality, fit.covariance)
    sim3, joined = join_by_cameras(earlier, later, scale)
    joined = joined and not nonsense and not cameras.fault
    said = [quality.reason, cameras.fault]
    if nonsense and not cameras.fault:
        said.append("cameras of shared frames do not show the scale")
    return Seam(
        sim3,
        replace(
            quality,
            method="cameras" if joined else "break",
            scale=sim3.scale.item(),
            with_cameras=joined,
            reason="; ".join(line for line in said if line) or None,
        ),
    )


def _with_points(
    points: PointFit,
    cameras: _HeardCameras,
    shared: Correspondences,
    settings: AlignmentSettings,
    quality: SeamQuality,
) -> Seam:
    """A seam by points, and by cameras where they are sound and agree."""
    sim3, covariance = points.sim3, points.covariance
    scale = given_scale(settings)
    quality = replace(quality, reason=cameras.fault, **_residuals(sim3, shared, settings))
    witness = cameras.witness
    if witness is not None and settings.mode in ROBUST_MODES:
        mean, mean_covariance, apart = _weighted_mean(
            (sim3, covariance), (witness.sim3, witness.covariance), has_scale=scale is None
        )
        if apart <= settings.max_disagreement or not quality.trusted:
            sim3, covariance = mean, mean_covariance
            quality = replace(quality, with_cameras=True, **_residuals(sim3, shared, settings))
        else:
            reason = f"cameras say otherwise, {apart:.1f} standard deviations away; points are trusted"
            quality = replace(quality, reason=reason)
        quality = replace(quality, disagreement=apart)
    log_scale_std = None if scale is not None else float(covariance[6, 6].sqrt())
    return Seam(sim3, replace(quality, scale=sim3.scale.item(), log_scale_std=log_scale_std), covariance)


def _compared(
    seam: Seam,
    shared: Correspondences,
    earlier: ChunkGeometry,
    later: ChunkGeometry,
    settings: AlignmentSettings,
) -> Seam:
    """A seam that owes nothing to points, with how well they fit it in its quality."""
    fits = _residuals(seam.earlier_from_later, shared, settings)
    return _with_overlap(replace(seam, quality=replace(seam.quality, **fits)), None, shared, earlier, later)


def _with_overlap(
    seam: Seam, points: PointFit | None, shared: Correspondences, earlier: ChunkGeometry, later: ChunkGeometry
) -> Seam:
    """The seam with what its overlap is like in its quality: how long it is, how much it turns, how its parts agree."""
    rows = [pair[0] for pair in shared_frames(earlier, later)]
    wander = None
    if points is not None:
        wander = seam_wander(seam.earlier_from_later, shared.earlier, shared.later, points.weights, len(rows))
    turn = turn_deg(earlier.extrinsics[rows])
    return replace(seam, quality=replace(seam.quality, num_frames=len(rows), turn_deg=turn, wander=wander))


def turn_deg(extrinsics: Tensor) -> float:
    """Return the largest angle in degrees between the viewing directions of cameras [P, 3, 4] cam_from_chunk."""
    forward = extrinsics[:, 2, :3].double()
    return float(torch.rad2deg(torch.arccos((forward @ forward.T).clamp(-1, 1).nan_to_num(1.0)).max()))


def _weighted_mean(
    one: tuple[Sim3, Tensor], other: tuple[Sim3, Tensor], *, has_scale: bool
) -> tuple[Sim3, Tensor, float]:
    """(mean, covariance [7, 7], distance in standard deviations) of two estimates; with or without scale."""
    free = 7 if has_scale else 6
    between = Sim3Batch.stack([one[0]]).inverse() @ Sim3Batch.stack([other[0]])
    apart = sim3_tangent.log(between)[0, :free]
    # Of a scale that is given nothing is wrong: what is known of the rest is what was known together with it.
    known = [torch.linalg.inv(covariance)[:free, :free] for _, covariance in (one, other)]
    both = torch.linalg.inv(known[0] + known[1])
    step = apart.new_zeros(7)
    step[:free] = both @ known[1] @ apart
    mean = (Sim3Batch.stack([one[0]]) @ sim3_tangent.exp(step[None])).unstack()[0]
    covariance = apart.new_zeros(7, 7)
    covariance[:free, :free] = (both + both.T) / 2
    # Large where both doubt: inverse of the sum of both covariances.
    distance = apart @ (known[0] @ both @ known[1]) @ apart
    return mean, covariance, float(distance.clamp(min=0).sqrt())


def _residuals(sim3: Sim3, shared: Correspondences, settings: AlignmentSettings) -> dict[str, Any]:
    """The fields of a seam's quality that say how well points fit."""
    scene_scale = spread(shared.earlier)
    residuals = (shared.earlier - sim3.apply(shared.later)).norm(dim=1) / scene_scale
    inlier_share = (residuals <= settings.inlier_residual).double().mean().item()
    return {
        "trusted": inlier_share >= settings.min_inlier_share,
        "residual_rms": residuals.square().mean().sqrt().item(),
        "residual_median": residuals.median().item(),
        "inlier_share": inlier_share,
        "spread": scene_scale.item(),
        "centre": tuple(shared.earlier.median(dim=0).values.tolist()),
    }
