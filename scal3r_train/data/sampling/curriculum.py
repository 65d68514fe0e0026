"""The curriculum: distributions from which every training step's shape is drawn, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel
from scal3r_train.data.camera.resize import MAX_SIDE

Weight = Annotated[float, Field(ge=0)]
MAX_COUNT = 1 << 16  # of what one step has of anything: more is a slip of the keyboard
PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Stage(StrictModel):
    """A part of a run: what it gives a value to overrides the section it belongs to, the rest is inherited."""

    until: int | None = Field(
        default=None,
        ge=1,
        description="the optimizer step that begins the next stage; the last stage has none [step]",
    )


StageT = TypeVar("StageT", bound=Stage)


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise ValueError unless the stages' ends increase and the last one is open."""
    ends = [stage.until for stage in stages]
    if ends and ends[-1] is not None:
        raise ValueError(
            f"stages.{len(ends) - 1}.until = {ends[-1]}: the last stage has no end; leave it out"
        )
    for place, (end, following) in enumerate(zip(ends, ends[1:], strict=False)):
        if end is None:
            raise ValueError(f"stages.{place} needs `until`, the step at which stage {place + 1} begins")
        if following is not None and following <= end:
            raise ValueError(
                f"stages.{place + 1}.until = {following}: it must be above {end}, the one before"
            )


def stage_at(stages: Sequence[StageT], step: int) -> StageT | None:
    """Return the stage that an optimizer step belongs to, None when there are no stages."""
    return next((stage for stage in stages if stage.until is None or step < stage.until), None)


class Resolution(StrictModel):
    """One image size and how often it is drawn."""

    height: int = Field(
        ge=1, le=MAX_SIDE, description="image height, a multiple of the model's patch size [pixels]"
    )
    width: int = Field(
        ge=1, le=MAX_SIDE, description="image width, a multiple of the model's patch size [pixels]"
    )
    weight: Weight = Field(
        default=1.0, description="how often this size is drawn, relative to the others [weight]"
    )


class CurriculumStage(Stage):
    """The distributions of some consecutive steps; those that are not given are the section's own."""

    group_size: dict[PositiveInt, Weight] | None = Field(
        default=None,
        description="ranks that share a sequence, in this stage; null: as in the section [ranks: weight]",
    )
    sequences_per_group: PositiveInt | None = Field(
        default=None,
        description="sequences a context group sees side by side, in this stage; null: as in the section [sequences]",
    )
    chunks_per_rank: dict[PositiveInt, Weight] | None = Field(
        default=None,
        description="chunks of a sequence per rank, in this stage; null: as in the section [chunks: weight]",
    )
    chunk_size: dict[PositiveInt, Weight] | None = Field(
        default=None, description="frames of a chunk, in this stage; null: as in the section [frames: weight]"
    )
    overlap: dict[NonNegativeInt, Weight] | None = Field(
        default=None,
        description="frames shared by adjacent chunks, in this stage; null: as in the section [frames: weight]",
    )
    stride: dict[PositiveInt, Weight] | None = Field(
        default=None,
        description="step between consecutive frames, in this stage; null: as in the section [frames: weight]",
    )
    resolution: tuple[Resolution, ...] | None = Field(
        default=None,
        min_length=1,
        description="image sizes that are drawn from, in this stage; null: as in the section",
    )


class CurriculumSettings(StrictModel):
    """The `curriculum` section of a training recipe. Mappings give value: weight.

    A context group of g ranks, each with c chunks of S frames that overlap by O, sees one window of
    g * c * (S - O) + O frames of each of its sequences. All ranks get equal work in a step.
    """

    group_size: dict[PositiveInt, Weight] = Field(
        default={1: 1.0},
        description="ranks that share a sequence: share of the ranks per (power of two) group size [ranks: weight]",
    )
    sequences_per_group: PositiveInt = Field(
        default=1, description="sequences a context group sees side by side [sequences]"
    )
    chunks_per_rank: dict[PositiveInt, Weight] = Field(
        default={1: 1.0}, description="chunks of a sequence per rank [chunks: weight]"
    )
    chunk_size: dict[PositiveInt, Weight] = Field(
        default={16: 1.0}, description="frames of a chunk [frames: weight]"
    )
    overlap: dict[NonNegativeInt, Weight] = Field(
        default={8: 1.0}, description="frames shared by adjacent chunks [frames: weight]"
    )
    stride: dict[PositiveInt, Weight] = Field(
        default={1: 1.0}, description="step between consecutive frames [frames: weight]"
    )
    resolution: tuple[Resolution, ...] = Field(
        default=(Resolution(height=56, width=84),),
        min_length=1,
        description="image sizes that are drawn from",
    )
    reverse_probability: float = Field(
        default=0.5, ge=0, le=1, description="how often a window runs backwards [share]"
    )
    min_kept_area: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="sequences whose images would be cropped to less than this share are drawn last [share]",
    )

    stages: tuple[CurriculumStage, ...] = Field(
        default=(), description="other distributions by optimizer step; a stage holds until its `until`"
    )

    @model_validator(mode="after")
    def _check(self) -> CurriculumSettings:
        check_stages(self.stages)
        _check_distributions(self, "")
        for place, stage in enumerate(self.stages):
            _check_distributions(self._overridden(stage), f"stages.{place}: ")
        return self

    def at(self, step: int) -> CurriculumSettings:
        """Return the distributions of a step, without stages; `step` counts what `until` counts."""
        stage = stage_at(self.stages, step)
        return self if stage is None else self._overridden(stage)

    def every_stage(self) -> tuple[CurriculumSettings, ...]:
        """Return the distributions of each stage in turn; without stages there is one."""
        return tuple(self._overridden(stage) for stage in self.stages) or (self,)

    def in_plans(self, accumulation_steps: int) -> CurriculumSettings:
        """Return the same curriculum with stages that end by step plan instead of optimizer step.

        An optimizer step takes `accumulation_steps` plans, and a plan knows its own number only.
        """
        stages = tuple(
            stage.model_copy(update={"until": stage.until and stage.until * accumulation_steps})
            for stage in self.stages
        )
        return self.model_copy(update={"stages": stages})

    def _overridden(self, stage: CurriculumStage) -> CurriculumSettings:
        given = {name: value for name, value in stage if name != "until" and value is not None}
        return self.model_copy(update={**given, "stages": ()})


def _check_distributions(settings: CurriculumSettings, where: str) -> None:
    """Raise ValueError, beginning with `where`, unless every distribution can be drawn from, and all fit together."""
    for name, weights in (
        ("group_size", settings.group_size),
        ("chunks_per_rank", settings.chunks_per_rank),
        ("chunk_size", settings.chunk_size),
        ("overlap", settings.overlap),
        ("stride", settings.stride),
    ):
        if sum(weights.values()) <= 0:
            raise ValueError(f"{where}{name} needs at least one value with a positive weight")
    odd = [size for size in settings.group_size if size & (size - 1)]
    if odd:
        raise ValueError(
            f"{where}group_size {odd[0]} is no power of two; context groups are aligned blocks of 2^n ranks"
        )
    if max(settings.overlap) >= min(settings.chunk_size):
        raise ValueError(
            f"{where}overlap {max(settings.overlap)} must be below every chunk_size ({min(settings.chunk_size)})"
        )
