"""The recipe of the memory study (`task: study`), and where a study keeps what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from scal3r_eval.bootstrap import BootstrapSettings
from scal3r_eval.study import drives
from scal3r_eval.study.drives import DriveSettings
from scal3r_train.config import StrictModel, UserError, files_sha256, load_mapping, validate_mapping
from scal3r_train.data.synthetic.settings import TownSettings
from scal3r_train.inference.alignment.settings import AlignmentSettings

REFERENCE = "full"
COMPLETE = "seconds.json"  # in the folder of a complete training: how long it took, and the sequences it saw
TestTime = Literal["frozen", "gcs_off"]


class HeldOutSettings(StrictModel):
    """Held-out sequences of one length."""

    chunks: PositiveInt = Field(description="length of a sequence [chunks]")
    sequences: PositiveInt = Field(
        description="how many towns of it; of drives: windows of each drive, fewer where it is too short [sequences]"
    )


class StudyRecipe(StrictModel):
    """One study; `python -m scal3r_eval.study RECIPE [key=value ...]`."""

    task: Literal["study"] = Field(description="kind of recipe: a study of the memory")
    output_dir: Path = Field(description="where sequences, runs and results go")
    results: str = Field(
        "results",
        pattern="^[a-z0-9_]+$",
        description="name of the result files, output_dir/NAME.json and .md; of drives one for each kind, NAME_KIND",
    )
    variants: dict[str, Path] = Field(
        description="training recipe of each variant; `full` is compared with the others"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="seeds that each variant is trained with [-]"
    )
    num_steps: PositiveInt = Field(description="optimizer steps of every training [steps]")
    towns: TownSettings | None = Field(
        None,
        description="the training towns; held-out towns differ in seed and length only; null: the study is of drives",
    )
    drives: DriveSettings | None = Field(
        None, description="drives that are trained on and held out; null: the study is of towns"
    )
    held_out_seed: int | None = Field(
        None,
        ge=0,
        description="held-out towns of C chunks have the seed held_out_seed + C; null for drives [-]",
    )
    held_out: tuple[HeldOutSettings, ...] = Field(
        min_length=1, description="lengths of the held-out sequences"
    )
    at_test_time: tuple[TestTime, ...] = Field(
        ("frozen", "gcs_off"),
        description="other ways in which a trained `full` is tried: with fast weights as they were trained, with a "
        "memory of its own for each chunk",
    )
    chunks_in_memory: tuple[PositiveInt, ...] = Field(
        description="the longest sequences (of drives: in black) are read again with memories of so many chunks "
        "[chunks]"
    )
    alignment: AlignmentSettings = Field(
        AlignmentSettings(max_points=4000),
        description="how chunks are joined; beside it by free similarities and rigidly",
    )
    bootstrap: BootstrapSettings = BootstrapSettings()
    jobs: int = Field(
        2, ge=1, le=64, description="trainings or evaluations side by side, one thread each [processes]"
    )

    @model_validator(mode="after")
    def _check(self) -> StudyRecipe:
        if REFERENCE not in self.variants:
            raise ValueError(f"variants needs one named {REFERENCE}")
        if len(set(self.lengths)) < len(self.held_out):
            raise ValueError("held_out: give each number of chunks once")
        if (self.towns is None) == (self.drives is None):
            raise ValueError("give either towns or drives")
        if (self.towns is None) != (self.held_out_seed is None):
            raise ValueError("held_out_seed goes with towns, and only with them")
        if self.towns is not None and self.held_out_seed is not None:
            if self.towns.seed in {self.held_out_seed + chunks for chunks in self.lengths}:
                raise ValueError("towns.seed is that of held-out towns; change held_out_seed")
        return self

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Variant and seed of every training, in the order in which they are made."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants]

    @property
    def lengths(self) -> list[int]:
        """Chunks of the held-out sequences, ascending."""
        return sorted(part.chunks for part in self.held_out)

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """How held-out pictures are hidden, one result for each; towns have one kind, without a name."""
        return (None,) if self.drives is None else drives.KINDS

    def kind_of(self, name: str) -> str | None:
        """Return the kind of a held-out sequence, one of `kinds`."""
        return None if self.drives is None else drives.kind_of(name)

    def group_of(self, name: str) -> str:
        """Return what a held-out sequence was cut from, and is drawn together with; a town is cut from nothing."""
        return name if self.drives is None else drives.drive_of(name)

    def is_swept(self, name: str) -> bool:
        """Whether a held-out sequence, if it is one of the longest, is read with `chunks_in_memory`."""
        return self.kind_of(name) in (None, "black")

    def length_prefix(self, chunks: int) -> str:
        """Return how the names of the held-out sequences of so many chunks begin."""
        if self.held_out_seed is None:
            return drives.length_prefix(chunks)
        return f"town_{self.held_out_seed + chunks:03d}_"  # as `scal3r data synth` names them

    def sequences_of(self, num_chunks: int) -> int:
        """Return how many held-out sequences of so many chunks are asked for."""
        return next(part.sequences for part in self.held_out if part.chunks == num_chunks)

    def held_out_towns(self, num_chunks: int, chunk_size: int, overlap: int) -> TownSettings:
        """Return the settings of the held-out towns of so many chunks: as many black-outs a frame as in training."""
        assert self.towns is not None
        assert self.held_out_seed is not None
        num_frames = frames_of(num_chunks, chunk_size, overlap)
        blackouts = max(1, round(self.towns.blackouts * num_frames / self.towns.num_frames))
        changes = {
            "seed": self.held_out_seed + num_chunks,
            "num_sequences": self.sequences_of(num_chunks),
            "num_frames": num_frames,
            "blackouts": blackouts,
        }
        return self.towns.model_copy(update=changes)


def frames_of(num_chunks: int, chunk_size: int, overlap: int) -> int:
    """Return the length of a sequence of whole chunks."""
    return num_chunks * (chunk_size - overlap) + overlap


def load_study(path: Path, overrides: list[str]) -> StudyRecipe:
    """Return a study's recipe.

    Raises:
        UserError: unreadable, unknown or contradictory, or another kind of recipe.
    """
    mapping = load_mapping(path, overrides)
    if mapping.get("task") != "study":
        raise UserError(f"{path} is no study (task: study); recipes/study/memory.yaml is one")
    return validate_mapping(StudyRecipe, mapping, str(path))


def training_folder(recipe: StudyRecipe) -> Path:
    """Return where the training sequences are."""
    return recipe.output_dir / ("towns" if recipe.drives is None else "drives")


def held_out_folder(recipe: StudyRecipe, chunks: int) -> Path:
    """Return where the held-out sequences of so many chunks are."""
    return recipe.output_dir / f"held_out_{chunks:03d}"


def index_sha256(folder: Path) -> str:
    """Return the hash of the index of a folder of sequences."""
    return files_sha256([folder / "index.parquet"])


def run_folder(recipe: StudyRecipe, variant: str, seed: int) -> Path:
    """Return the folder of one training."""
    return recipe.output_dir / "runs" / f"{variant}_{seed}"


def scores_file(recipe: StudyRecipe, name: str) -> Path:
    """Return where the scores of a trained model, or of the guesses, are."""
    return recipe.output_dir / "scores" / f"{name}.json"


def results_name(recipe: StudyRecipe, kind: str | None) -> str:
    """Return the name of the results about one kind of sequences, without a suffix."""
    return recipe.results if kind is None else f"{recipe.results}_{kind}"


def memory_condition(chunks: int) -> str:
    """Return the name of the condition in which so many chunks share a memory."""
    return f"memory_{chunks}"
