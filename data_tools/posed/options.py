"""What is called otherwise than usual, and what files do not say, of images with a file of poses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from scal3r_data_tools.formats.matching import MatchBy
from scal3r_train.config import StrictModel
from scal3r_train.data.camera.camera_model import CAMERA_MODELS
from scal3r_train.data.io.depth_codec import CODECS


class Options(StrictModel):
    """What is called otherwise, and what the files do not say. Paths are relative to SRC."""

    images: str = Field(
        "auto", description="Folder of the images; auto: the first of the usual names that is there."
    )
    poses: str = Field("auto", description="File of the poses, or folder with a file for each image.")
    intrinsics: str = Field(
        "auto",
        description="File of the calibration, or the numbers fx fy cx cy (pixels) themselves; none: not known.",
    )
    calibration_row: str = Field("P2", description="Line of a KITTI calib.txt that belongs to the images.")
    fov_x_deg: float | None = Field(
        None, gt=0, lt=180, description="Horizontal field of view, instead of a calibration [deg]"
    )
    calibrated_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="Width and height that the calibration is for; null: those of the images [pixels]"
    )
    camera_model: str = Field("pinhole", description=f"Lens: {', '.join(CAMERA_MODELS)}.")
    distortion: tuple[float, ...] = Field(
        (), description="Coefficients of the lens, in its model's order [-]"
    )
    pixel_centre: Literal["half", "integer"] = Field(
        "half",
        description="Coordinate of the top-left pixel's centre that cx, cy refer to: (0.5, 0.5) or (0, 0).",
    )
    poses_are: Literal["world_from_cam", "cam_from_world"] = Field(
        "world_from_cam",
        description="Direction: world_from_cam has the camera's position in its last column.",
    )
    camera_axes: Literal["auto", "opencv", "opengl", "ned", "flu"] = Field(
        "auto",
        description="Camera axes of the poses: opencv x right y down z forward; opengl x right y up z backward; ned "
        "x forward y right z down; flu x forward y left z up; auto: those of the format, else opencv.",
    )
    match: MatchBy = Field("auto", description="By what a pose is found for an image.")
    times: str = Field(
        "auto", description="File of time stamps, one an image, after its name or alone; none: none."
    )
    fps: float | None = Field(
        None, gt=0, description="Rate of the images, where there are no times [frames/s]"
    )
    max_gap_s: float = Field(0.02, gt=0, description="Furthest pose in time that an image may take [s]")
    interpolate: bool = Field(
        False, description="Interpolate between two poses in time instead of taking the nearest."
    )
    depth: str = Field(
        "auto", description="Folder of depth maps, named as the images are; none: not to be used."
    )
    depth_codec: str = Field(
        "",
        description="How depth files are read; a name of data/io/depth_codec.py, needed with depth in PNG.",
    )
    max_depth_m: float = Field(0.0, ge=0, description="Depth beyond is not used; 0: no limit [m]")
    masks: str = Field("none", description="Folder of masks, named as the images are.")
    mask_rule: str = Field("below 1", description="Mask values that mark pixels not to be used.")
    is_metric: bool = Field(False, description="Whether lengths are metres.")
    split: str = Field("test", description="Split that the sequence belongs to.")

    @model_validator(mode="after")
    def _names_are_known(self) -> Options:
        if self.camera_model not in CAMERA_MODELS:
            raise ValueError(f"camera_model {self.camera_model} is not one of {', '.join(CAMERA_MODELS)}")
        if self.depth_codec and self.depth_codec not in CODECS:
            raise ValueError(f"depth_codec {self.depth_codec} is not one of {', '.join(CODECS)}")
        if self.fov_x_deg is not None and self.intrinsics not in ("auto", "none"):
            raise ValueError("give either fov_x_deg or intrinsics")
        return self
