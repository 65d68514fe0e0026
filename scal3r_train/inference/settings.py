"""The recipe of a reconstruction: which frames, which network, how chunks are cut, joined and written.

The section settings sit in the rooms that read them and are composed here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel
from scal3r_train.inference.alignment.settings import AlignmentSettings, FusionSettings
from scal3r_train.inference.chunking import ScheduleSettings
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings, LoopSettings
from scal3r_train.inference.prediction import PointSource
from scal3r_train.inference.streaming.settings import StreamingSettings
from scal3r_train.model.load_model import LoadedModelSettings


class SceneFolderSettings(StrictModel):
    """What a reconstruction writes into its scene folder, and how dense (`scal3r export` has options of its own)."""

    min_confidence_ratio: float = Field(
        0.75,
        ge=0,
        description="Pixels below this share of their frame's mean confidence give no point [share]",
    )
    voxel_size: float | None = Field(
        None,
        ge=0,
        description="Points closer than about this merge; null: 1/500 of chunk 0's median depth; 0: off [scene units]",
    )
    max_points: int = Field(5_000_000, ge=1, description="Bound on points.ply [points]")
    seed: int = Field(0, ge=0, description="Seed of the choice when there are more points [-]")
    save_depth: bool = Field(False, description="Write depth and confidence of every frame (depth/).")
    report: bool = Field(True, description="Write report.html once the scene is complete.")
    overwrite: bool = Field(False, description="Replace an existing scene folder.")


class ReconstructionRecipe(StrictModel):
    """One reconstruction run; `scal3r reconstruct INPUT OUT [RECIPE] [key=value]`."""

    task: Literal["reconstruct"] = Field(
        default="reconstruct", description="Kind of recipe: a reconstruction"
    )
    input: InputSettings = InputSettings()
    model: LoadedModelSettings = LoadedModelSettings()
    points: PointSource = Field(
        "depth", description="Points from depth and camera, or from the point head (which then runs too)."
    )
    schedule: ScheduleSettings = ScheduleSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    fusion: FusionSettings = FusionSettings()
    loop_closure: LoopSettings = LoopSettings()
    pose_graph: LoopEdgeSettings = LoopEdgeSettings()
    export: SceneFolderSettings = SceneFolderSettings()
    follow: StreamingSettings = StreamingSettings()
    timeout_minutes: float = Field(
        30.0,
        gt=0,
        description="How long a process waits for the slowest of the others before the run ends [min]",
    )

    @model_validator(mode="after")
    def _loops_and_scales_fit_together(self) -> ReconstructionRecipe:
        of_release = self.loop_closure.enabled and self.loop_closure.rules == "release"
        if of_release and self.alignment.common_scale.enabled:
            raise ValueError(
                "loop_closure.rules = release knows no scale that chunks have in common; "
                "set alignment.common_scale.enabled = false"
            )
        if of_release and self.alignment.evidence == "cameras":
            raise ValueError(
                "loop_closure.rules = release joins loops by shared pixels; set alignment.evidence to points or both"
            )
        return self
