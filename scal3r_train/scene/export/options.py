"""The options of `scal3r export`: which points, which images, how written."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel

THINNING = ("min_confidence", "min_confidence_ratio", "voxel_size", "max_points")


class ExportOptions(StrictModel):
    """Options of `scal3r export`; which of them a format heeds is listed in `export_scene.py`."""

    min_confidence: float | None = Field(
        None, ge=0, description="Points below this confidence are left out [confidence]"
    )
    min_confidence_ratio: float | None = Field(
        None,
        ge=0,
        description="Points below this share of the mean confidence of the scene's points are left out [share]",
    )
    voxel_size: float | None = Field(
        None, gt=0, description="One point, the most confident, stays per cube of this edge [scene units]"
    )
    max_points: int | None = Field(
        None,
        ge=1,
        description="Bound on the points; which of them stay is pseudo-random, always the same [points]",
    )
    images: Path | None = Field(
        None, description="Folder of the input images; without, the one that scene.json names."
    )
    write_images: bool = Field(
        False, description="Write the images too, upright and undistorted, as the cameras see them."
    )
    text: bool = Field(False, description="COLMAP: .txt files instead of .bin.")
    single_camera: bool = Field(
        False,
        description="COLMAP, Gaussians: one camera per image size, with the median of the frames' intrinsics.",
    )
    refine: bool = Field(
        False,
        description="COLMAP: bundle adjustment by pycolmap on SIFT tracks, which become the model's points.",
    )
    overwrite: bool = Field(False, description="Replace an earlier export.")

    @model_validator(mode="after")
    def _together(self) -> ExportOptions:
        if self.min_confidence is not None and self.min_confidence_ratio is not None:
            raise ValueError("give min_confidence or min_confidence_ratio, not both")
        useless = sorted(self.model_fields_set & {*THINNING, "single_camera"}) if self.refine else []
        if useless:
            raise ValueError(f"refine makes its own points and shares cameras: {useless[0]} has no effect")
        return self
