"""What a training step looks like: the distributions from which every step's shape is drawn."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel

Weight = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Resolution(StrictModel):
    """One image size and how often it is drawn."""

    height: int = Field(ge=1, description="pixels; a multiple of the model's patch size")
    width: int = Field(ge=1, description="pixels; a multiple of the model's patch size")
    weight: Weight = 1.0


class CurriculumSettings(StrictModel):
    """The `curriculum` section of a training recipe. Mappings give value: weight.

    A context group of g ranks, each with c chunks of S frames that overlap by O, sees one window of
    g * c * (S - O) + O frames of each of its sequences. All ranks get equal work in a step.
    """

    group_size: dict[PositiveInt, Weight] = Field(
        default={1: 1.0},
        description="ranks that share a sequence: share of the ranks per (power of two) group size",
    )
    sequences_per_group: PositiveInt = Field(
        default=1, description="sequences a context group sees side by side"
    )
    chunks_per_rank: dict[PositiveInt, Weight] = Field(
        default={1: 1.0}, description="chunks of a sequence per rank"
    )
    chunk_size: dict[PositiveInt, Weight] = Field(default={16: 1.0}, description="frames of a chunk")
    overlap: dict[NonNegativeInt, Weight] = Field(
        default={8: 1.0}, description="frames shared by adjacent chunks"
    )
    stride: dict[PositiveInt, Weight] = Field(default={1: 1.0}, description="step between consecutive frames")
    resolution: tuple[Resolution, ...] = Field(default=(Resolution(height=56, width=84),), min_length=1)
    reverse_probability: float = Field(
        default=0.5, ge=0, le=1, description="how often a window runs backwards"
    )
    colour_jitter: float = Field(
        default=0.0, ge=0, lt=1, description="relative change of brightness and contrast"
    )

    @model_validator(mode="after")
    def _check(self) -> CurriculumSettings:
        for name in ("group_size", "chunks_per_rank", "chunk_size", "overlap", "stride"):
            if sum(getattr(self, name).values()) <= 0:
                raise ValueError(f"{name} needs at least one value with a positive weight")
        odd = [size for size in self.group_size if size & (size - 1)]
        if odd:
            raise ValueError(
                f"group_size {odd[0]} is no power of two; context groups are aligned blocks of 2^n ranks"
            )
        if max(self.overlap) >= min(self.chunk_size):
            raise ValueError(
                f"overlap {max(self.overlap)} must be below every chunk_size ({min(self.chunk_size)})"
            )
        return self
