"""Evaluation recipes: a benchmark, the frames of its sequences, the protocol, and the methods side by side."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from scal3r_eval.score_points import PointScoring
from scal3r_eval.study.settings import StudyRecipe, load_study
from scal3r_train.config import StrictModel, UserError, load_mapping, validate_mapping
from scal3r_train.data.camera.resize import ResizeRule, Side
from scal3r_train.metrics.trajectory import MIN_POSES, AlignMode
from scal3r_train.model.configuration_scal3r import MemoryUse
from scal3r_train.recipe import load_recipe

if TYPE_CHECKING:
    from scal3r_train.recipe import Recipe

    AnyRecipe: TypeAlias = "Recipe | EvalRecipe | StudyRecipe"

TASK = "eval"
DATA_FOLDER, TRUTH_FOLDER = "data", "truth"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class BenchmarkSettings(StrictModel):
    """Where the sequences come from: an index, a data set as published, or towns made here."""

    name: str = Field(min_length=1, description="Title of the tables.")
    cited: str | None = Field(None, description="Name of the paper's numbers in eval/report/cited.py.")
    index: Path | None = Field(None, description="Parquet index; used when data_root is null.")
    adapter: str | None = Field(None, description="Name that `scal3r data index` knows the data set by.")
    data_root: Path | None = Field(
        None, description="Folder of the data set as published; indexed into the run's folder."
    )
    options: tuple[str, ...] = Field((), description="key=value of the adapter, or of `scal3r data synth`.")
    towns: bool = Field(False, description="Make procedural towns in the run's folder.")

    @model_validator(mode="after")
    def _has_a_source(self) -> BenchmarkSettings:
        if self.towns:
            if self.index is not None or self.data_root is not None or self.adapter is not None:
                raise ValueError("towns are made: index, adapter and data_root must be null")
        elif self.data_root is not None and self.adapter is None:
            raise ValueError("data_root needs the adapter that reads it")
        elif self.index is None and self.adapter is None:
            raise ValueError("give index, or adapter with data_root, or towns: true")
        return self

    def command(self, output: Path | None = None) -> str:
        """Return the command that gets the data; `output` is where the run itself would put it."""
        if self.towns:
            words = ["scal3r", "data", "synth", str(output or "TOWNS"), *self.options]
        elif self.adapter is None:
            return "scal3r data index DATASET SRC " + str(self.index)
        else:
            target = str(output or self.index or "INDEX.parquet")
            words = ["scal3r", "data", "index", self.adapter, "DOWNLOADS", target, *self.options]
        return shlex.join(words)


class SequenceSettings(StrictModel):
    """Which sequences of the benchmark, and which of their frames."""

    names: tuple[str, ...] | None = Field(None, description="sequence_id of each; null: all of the index.")
    start: int = Field(0, ge=0, description="Number of the first frame, from 0 [frame]")
    stop: int | None = Field(None, gt=0, description="Frame to stop before; null: the end [frame]")
    stride: int = Field(1, ge=1, description="Use every stride-th frame [frames]")
    max_frames: int | None = Field(None, ge=MIN_POSES, description="Use at most this many frames [frames]")
    lengths: tuple[Annotated[int, Field(ge=MIN_POSES)], ...] = Field(
        (),
        description="Also run each sequence cut to its first so many frames, as NAME[:N], for runtime against "
        "length [frames]",
    )
    sha256: dict[str, str] = Field(
        {},
        description="Hash of the frame list of each sequence_id: of the file names of the frames used, one a line.",
    )

    @property
    def frame_overrides(self) -> list[str]:
        """What a reconstruction recipe needs to use the same frames."""
        chosen = {
            "start": self.start,
            "stop": self.stop,
            "stride": self.stride,
            "max_frames": self.max_frames,
        }
        return [f"input.{key}={value}" for key, value in chosen.items() if value is not None]


class PointProtocol(PointScoring):
    """How clouds are compared with the true depth of the sequence's own frames."""

    voxel: float | None = Field(
        None,
        gt=0,
        description="Edge of the voxels that thin both clouds; null: a tenth of threshold [m]",
    )
    truth_stride: int = Field(1, ge=1, description="Use the true depth of every stride-th frame [frames]")
    max_depth: float | None = Field(
        None,
        gt=0,
        description="Leave out true depth beyond, and points of either cloud farther from all true cameras [m]",
    )


class ProtocolSettings(StrictModel):
    """How methods run and how they are scored; null leaves a value to `reconstruction`."""

    align: AlignMode = Field(
        default="sim3",
        description="How trajectories are fitted to the truth before they are measured (docs/metrics.md).",
    )
    reconstruction: Path | None = Field(
        None, description="Reconstruction recipe that scal3r methods start from."
    )
    resize: ResizeRule | None = Field(
        default=None,
        description="How the processed size follows from the first image; null: as `reconstruction` says.",
    )
    image_hw: tuple[Side, Side] | None = Field(
        None, description="Exact height and width to process at [pixels]"
    )
    chunk_size: int | None = Field(
        None, ge=1, description="How many frames a chunk has; null: as `reconstruction` says [frames]"
    )
    overlap: int | None = Field(
        None,
        ge=1,
        description="Frames that neighbouring chunks share; null: as `reconstruction` says [frames]",
    )
    points: PointProtocol | None = Field(None, description="Compare clouds with true depth; null: do not.")
    depth: Literal["per_sequence", "per_frame"] | None = Field(
        None,
        description="Keep and score depth, scaled by medians of a sequence or of each frame; null: do not.",
    )
    metrics: tuple[str, ...] = Field(
        (), description="Metrics of other installed packages, by name (docs/extending/metric.md)."
    )
    max_time_difference_s: float = Field(
        0.01, ge=0, description="Largest gap between a frame and an external pose with a time [s]"
    )
    min_coverage: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the frames that need a pose; below, the sequence failed [share]",
    )
    share: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Which share of the sequences is scored, as [i, n]: every n-th from the i-th on, for array "
        "jobs, without a report [-]",
    )

    @model_validator(mode="after")
    def _share_exists(self) -> ProtocolSettings:
        if self.share is not None and not 0 <= self.share[0] < self.share[1]:
            raise ValueError(f"share = {list(self.share)} must be [i, n] with i from 0 to n - 1")
        return self

    @property
    def overrides(self) -> list[str]:
        """What a reconstruction recipe has to be changed by."""
        changes = ["export.report=false"]
        if self.depth is not None:
            changes.append("export.save_depth=true")
        if self.resize is not None:
            changes.append(f"input.resize={self.resize.model_dump_json()}")
        if self.image_hw is not None:
            changes.append(f"input.image_hw={list(self.image_hw)}")
        if self.chunk_size is not None:
            changes.append(f"schedule.chunk_size={self.chunk_size}")
        if self.overlap is not None:
            changes.append(f"schedule.overlap={self.overlap}")
        return changes


class Scal3RMethod(StrictModel):
    """A checkpoint with a reconstruction recipe; several checkpoints are runs of one method, such as seeds."""

    kind: Literal["scal3r"] = Field(
        default="scal3r", description="Kind of method: a checkpoint of this package"
    )
    checkpoint: Path | tuple[Path, ...] | None = Field(
        None, description="Folder of the checkpoint, or of several; null: that of the recipe."
    )
    memory: MemoryUse | None = Field(
        None,
        description="How memories are used: chunk: without global context sharing; off: without memories; "
        "null: as trained.",
    )
    recipe: Path | None = Field(None, description="Reconstruction recipe instead of protocol.reconstruction.")
    overrides: tuple[str, ...] = Field(
        (), description="Changes to the reconstruction recipe, key=value, that have the last word."
    )


class ExternalMethod(StrictModel):
    """Another system's results: folder/SEQUENCE.tum, .kitti or .txt, and .ply; several folders are its runs."""

    kind: Literal["external"] = Field(description="Kind of method: another system's files")
    folder: Path | tuple[Path, ...] = Field(description="Folder of its results, or of several runs.")


class BaselineMethod(StrictModel):
    """A trajectory anyone can guess who knows the true mean speed or turn."""

    kind: Literal["baseline"] = Field(description="Kind of method: a guess that sees no image")
    baseline: Literal["static", "straight_line", "constant_turn"] = Field(
        description="Which guess: the camera stays, goes straight on, or turns at one rate."
    )


MethodSettings = Annotated[Scal3RMethod | ExternalMethod | BaselineMethod, Field(discriminator="kind")]


class EvalRecipe(StrictModel):
    """One evaluation; `scal3r eval RECIPE [key=value ...]`."""

    task: Literal["eval"] = Field(description="Kind of recipe: an evaluation")
    output_dir: Path = Field(description="Where predictions, scores and reports go.")
    checkpoint: Path | None = Field(None, description="Checkpoint of scal3r methods that name none.")
    benchmark: BenchmarkSettings
    sequences: SequenceSettings = SequenceSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    methods: dict[str, MethodSettings | None] = Field(
        min_length=1,
        description="The methods by name, in the order of the tables; null drops one of a parent recipe.",
    )

    @field_validator("methods")
    @classmethod
    def _names_are_folders(
        cls, methods: dict[str, MethodSettings | None]
    ) -> dict[str, MethodSettings | None]:
        for name in methods:
            if not NAME.fullmatch(name) or name in (DATA_FOLDER, TRUTH_FOLDER):
                raise ValueError(
                    f"'{name}' cannot name a method's folder; use letters, digits, - and _, "
                    f"not {DATA_FOLDER} or {TRUTH_FOLDER}"
                )
        if not any(methods.values()):
            raise ValueError("no method is left")
        return methods


def load_eval_recipe(path: str | Path, overrides: Sequence[str] = ()) -> EvalRecipe:
    """Return an evaluation recipe. Raises UserError, one line, for anything else."""
    mapping = load_mapping(path, overrides)
    task = mapping.get("task", "train")
    if task != TASK:
        raise UserError(f"{path} is a recipe for `scal3r {task}`, not for evaluation")
    return validate_mapping(EvalRecipe, mapping, str(path))


def load_any_recipe(path: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Return the recipe of a file, whatever its task. Raises UserError as the loaders do."""
    task = load_mapping(path, overrides).get("task")
    if task == TASK:
        return load_eval_recipe(path, overrides)
    if task == "study":
        return load_study(path, overrides)
    return load_recipe(path, overrides)
