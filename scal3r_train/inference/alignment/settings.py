"""Settings of the seams between chunks, of what their residuals mean, of fused overlaps, and of metric scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel
from scal3r_train.data.io.depth_codec import CODECS
from scal3r_train.geometry.sim3_fit import RobustFitSettings

FrameNumber = Annotated[int, Field(ge=0)]
METRIC_SOURCES = ("gps", "distance", "camera_height", "depth", "poses")


class MetricSettings(StrictModel):
    """Where metric scale comes from, which no network knows: exactly one source (docs/metric_scale.md)."""

    gps: Path | None = Field(
        None, description="Track of the camera in latitude and longitude: CSV, GPX, NMEA, or rows of numbers."
    )
    distance: tuple[FrameNumber, FrameNumber, Annotated[float, Field(gt=0)]] | None = Field(
        None, description="Two frames of the scene, and how far apart the camera was in them [m]"
    )
    camera_height: float | None = Field(
        None, gt=0, description="Height of the camera above the ground that it sees [m]"
    )
    depth: Path | None = Field(None, description="Folder of depth maps of a sensor, named as the images are.")
    poses: Path | None = Field(
        None, description="Trajectory of the camera in metres, in TUM or KITTI format, in any world."
    )
    depth_codec: str = Field(
        "",
        description="How the files of `depth` are read, as for `scal3r data index posed`; needed with PNG.",
    )
    time_offset_s: float = Field(
        0.0, description="What has to be added to the images' times to give those of the file [s]"
    )
    max_gap_s: float = Field(
        2.0, gt=0, description="Longest gap between two entries of a track that is bridged by a line [s]"
    )
    gps_std_m: float | None = Field(
        None,
        gt=0,
        description="Error of a position of the track; null: estimated from the track's misfit [m]",
    )
    gps_correlation_s: float = Field(
        30.0,
        ge=0,
        description="Fixes closer in time than this err together, and count as one in the pose graph [s]",
    )

    @model_validator(mode="after")
    def _one_source(self) -> MetricSettings:
        given = [name for name in METRIC_SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            named = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"metric scale comes from exactly one of {', '.join(METRIC_SOURCES)}; {named}")
        if self.distance is not None and self.distance[0] == self.distance[1]:
            raise ValueError(f"distance is between two frames, not from {self.distance[0]} to itself")
        if self.depth_codec and (self.depth is None or self.depth_codec not in CODECS):
            raise ValueError(f"depth_codec goes with depth and is one of {', '.join(CODECS)}")
        return self

    @property
    def source(self) -> str:
        """The name of the source that is given."""
        return next(name for name in METRIC_SOURCES if getattr(self, name) is not None)


class CommonScaleSettings(StrictModel):
    """One scale for all chunks up to a spread that the seams show, in mode sim3 (docs/alignment.md)."""

    enabled: bool = Field(
        True, description="Estimate chunks' scales together; false: every seam's own scale is taken as it is."
    )
    usual_noise_factor: float = Field(
        3.0,
        gt=1,
        description="How much noisier or better than they state seams usually are, either way [factor]",
    )
    max_noise_factor: float = Field(
        5.0,
        gt=1,
        description="How much noisier than they state seams are at most; beyond it chunks' scales drift [factor]",
    )
    freedom: float = Field(
        4.0,
        ge=1,
        description="Degrees of freedom of the t distributions of errors; fewer: wild ones count less [-]",
    )


class AlignmentSettings(StrictModel):
    """How adjacent chunks are aligned; the reference's values are named where the default differs."""

    mode: Literal["sim3", "sim3_scale_locked", "sim3_unweighted", "se3"] = Field(
        "sim3",
        description="confidence-weighted robust similarity; the same with a scale that is given (1: robust SE(3)); "
        "plain Umeyama; plain rigid (scale 1)",
    )
    evidence: Literal["both", "points", "cameras"] = Field(
        "both",
        description="what joins two chunks: shared pixels and the cameras of shared frames, each with the noise it "
        "shows, so that nonsense in one is outvoted by the other; or one of them alone (shared pixels still say how "
        "well cameras fit, and so judge loops)",
    )
    locked_scale: float = Field(
        1.0, gt=0, description="scale of every seam in mode sim3_scale_locked [factor]"
    )
    confidence_threshold_ratio: float = Field(
        0.1, ge=0, lt=1, description="pixels below this share of the median confidence are not used [share]"
    )
    confidence_floor: float = Field(
        1.0,
        ge=0,
        description="least confidence a head can state; the threshold counts from here (reference: 0) [confidence]",
    )
    max_points_per_frame: int | None = Field(
        None, gt=0, description="use only this many most confident pixels of each shared frame [pixels]"
    )
    max_points: int = Field(
        30_000,
        ge=3,
        description="correspondences of the robust rounds, drawn uniformly (reference: unlimited) [points]",
    )
    all_pixels: bool = Field(
        True,
        description="one more solve over every shared pixel, with the weights that the rounds led to (robust modes, "
        "and where max_points_per_frame is null)",
    )
    depth_noise: bool = Field(
        True,
        description="how noise grows with depth is measured and noisy depths weigh less; false: all depths alike "
        "(robust modes)",
    )
    min_points: int = Field(
        50, ge=3, description="with fewer correspondences cameras are used instead [points]"
    )
    seed: int = Field(0, ge=0, description="seed of the draw of correspondences [-]")
    inlier_residual: float = Field(
        0.05,
        gt=0,
        description="residual, relative to the scene's scale, up to which a point is an inlier [share]",
    )
    min_inlier_share: float = Field(0.5, ge=0, le=1, description="below this a seam is not trusted [share]")
    max_points_noise: float = Field(
        0.25,
        gt=0,
        description="median residual, relative to depth, beyond which points are nonsense [share]",
    )
    max_camera_turn_deg: float = Field(
        10.0,
        gt=0,
        description="median difference between the rotations of shared frames beyond which cameras are nonsense [deg]",
    )
    max_camera_shift: float = Field(
        0.3,
        gt=0,
        description="the same of their centres, relative to how far these lie from their mean [share]",
    )
    max_scale_std: float = Field(
        0.1,
        gt=0,
        description="cameras alone join chunks only if their scale is known better than this [share]",
    )
    max_disagreement: float = Field(
        6.0,
        gt=0,
        description="beyond it points and cameras are not averaged: points are believed if they are trusted "
        "[standard deviations]",
    )
    world: Literal["first_camera", "first_chunk"] = Field(
        "first_camera",
        description="the scene's coordinates: those of the camera of the first frame, or those in which the network "
        "predicts chunk 0, near the camera of its middle frame (the release)",
    )
    robust: RobustFitSettings = RobustFitSettings()
    common_scale: CommonScaleSettings = CommonScaleSettings()
    metric: MetricSettings | None = Field(
        None, description="Where metric scale comes from; null: the scene keeps the prediction's unit."
    )


class SeamNoiseSettings(StrictModel):
    """What a seam's residual says about its error."""

    points_per_measurement: int = Field(
        10_000,
        ge=1,
        description="Points that err together; a seam has num_points / this measurements, at least 1 [points]",
    )
    min_relative_std: float = Field(
        1e-4,
        gt=0,
        description="Least error of scale and of rotation in radians, however well the points fit [share]",
    )
    untrusted_factor: float = Field(
        5.0, ge=1, description="Error of a seam that is not trusted, times this [factor]"
    )
    cameras_relative_std: float = Field(
        0.1, gt=0, description="Error of a seam joined by cameras that do not show their own [share]"
    )
    odometry_turn_std_deg: float = Field(
        0.04,
        ge=0,
        description="By how much the cameras of a chunk turn wrongly along it, where they join chunks [deg/frame]",
    )
    odometry_distance_std: float = Field(
        0.1, ge=0, description="Error of the distance that they travel, where they join chunks [share]"
    )
    break_relative_std: float = Field(3.0, gt=0, description="Error where the trajectory is torn [share]")


class FusionSettings(StrictModel):
    """What becomes of a frame that two chunks predicted, and when two depths of a pixel are the same surface."""

    mode: Literal["blend", "nearest"] = Field(
        "blend",
        description="blend: the weighted mean of both predictions; nearest: the one of the chunk whose own frames are "
        "nearer, as it is (the release)",
    )
    max_relative_difference: float = Field(
        0.05,
        gt=0,
        description="Largest difference relative to the smaller depth; beyond it the depth of greater weight "
        "is taken as it is [share]",
    )
