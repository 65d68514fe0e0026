"""Settings of loop closure: which frames are compared, which edges are believed, how the graph is solved."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel
from scal3r_train.inference.alignment.settings import SeamNoiseSettings

SALAD_MIN_SIMILARITY = 0.7


DescriptorKind = Literal["tokens", "salad", "thumbnail"]


class LoopSettings(StrictModel):
    """Whether and how places seen again are looked for."""

    enabled: bool = Field(True, description="Look for loops; a video of one chunk has none.")
    rules: Literal["checked", "release"] = Field(
        "checked",
        description="checked: loop chunks only read the memories, and a loop has to prove itself; release: they write "
        "too, pairs of chunks that share frames as well, and all loops are closed with the weight of a seam.",
    )
    descriptor: DescriptorKind = Field(
        "tokens",
        description="What frames are compared by: the model's own patch tokens (free), a SALAD network (needs "
        "salad_checkpoint), or grey thumbnails.",
    )
    salad_checkpoint: Path | None = Field(
        None, description="Weights of DINOv2 SALAD (.safetensors or torch file), for descriptor: salad."
    )
    num_components: int | None = Field(
        None,
        ge=0,
        description="Principal directions of the sequence's descriptors kept and evened out; 0: descriptors as "
        "they are; null: 0 for salad, else 128 [directions]",
    )
    temporal_window: int | None = Field(
        None,
        ge=1,
        description="Odd number of frames whose mean descriptor stands for the middle one; null: 1 for salad, "
        "else 5 [frames]",
    )
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Pairs must be more alike; null: 0.7 for salad, else min_deviations decides [cosine]",
    )
    min_deviations: float = Field(
        3.0,
        ge=0,
        description="Without min_similarity, pairs must be more alike than the sequence's median pair by this "
        "many (robust) standard deviations [standard deviations]",
    )
    top_k: int = Field(5, ge=1, description="Most alike frames that each frame proposes [frames]")
    min_gap: int = Field(60, ge=0, description="Pairs must be more than this many frames apart [frames]")
    near_frames_compete: bool = Field(
        False,
        description="Frames nearer than min_gap count among the top_k too, as in the reference release, where they "
        "crowd out most loops.",
    )
    must_leave: bool = Field(
        True, description="A pair counts only if some frame in between resembles neither of the two."
    )
    nms_radius: int = Field(
        25,
        ge=0,
        description="An accepted pair silences all others within this many frames of either end [frames]",
    )
    max_candidates: int = Field(
        20, ge=1, description="Most candidates handed on; each costs one pass over two windows [pairs]"
    )
    min_common_view: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Least share of one end's points that the other end's frames see at the same depth [share]",
    )
    window_size: int = Field(
        20,
        ge=2,
        multiple_of=2,
        description="Frames taken from each end of a candidate for its joint prediction [frames]",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> LoopSettings:
        if self.enabled and self.descriptor == "salad" and self.salad_checkpoint is None:
            raise ValueError("descriptor = salad needs salad_checkpoint = FILE; or use descriptor = tokens")
        if self.temporal_window is not None and self.temporal_window % 2 == 0:
            raise ValueError(f"temporal_window = {self.temporal_window} must be odd")
        return self

    @property
    def components(self) -> int:
        """`num_components`, or the descriptor's default."""
        if self.num_components is not None:
            return self.num_components
        return 0 if self.descriptor == "salad" else 128

    @property
    def window_in_time(self) -> int:
        """`temporal_window`, or the descriptor's default."""
        if self.temporal_window is not None:
            return self.temporal_window
        return 1 if self.descriptor == "salad" else 5

    @property
    def fixed_threshold(self) -> float | None:
        """`min_similarity`, or the descriptor's default; None where the sequence decides."""
        if self.min_similarity is None and self.descriptor == "salad":
            return SALAD_MIN_SIMILARITY
        return self.min_similarity


class PoseGraphSettings(StrictModel):
    """When the solver stops, and what a robust edge costs."""

    max_iterations: int = Field(100, ge=1, description="Trial steps, accepted or not [iterations]")
    cost_tolerance: float = Field(
        1e-8, gt=0, lt=1, description="Stop when the cost falls by less than this share [share]"
    )
    step_tolerance: float = Field(
        1e-10, gt=0, lt=1, description="Stop when no number of any pose's tangent changes by more [tangent]"
    )
    gradient_tolerance: float = Field(
        1e-10, gt=0, lt=1, description="Stop when the gradient is below this share of the first one [share]"
    )
    damping: float = Field(
        1e-7,
        gt=0,
        description="Added share of the normal equations' diagonal after the first step that raises the cost [share]",
    )
    robust: bool = Field(
        True, description="Whether edges marked robust count as such; else every edge costs its square."
    )
    kernel_width: float = Field(
        5.0, gt=0, description="Residual from which a robust edge does not count [standard deviations]"
    )
    annealing_factor: float = Field(
        4.0,
        gt=1,
        description="Factor by which the kernel hardens at each stage of graduated non-convexity [factor]",
    )


class LoopEdgeSettings(StrictModel):
    """When a loop edge is believed, and how loops are closed."""

    end_quantile: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of comparable seams of the same run that stay within the limits for either end [share]",
    )
    end_margin: float = Field(
        1.5,
        ge=1,
        description="Factor by which an end may exceed their residual or fall short of their share of fitting "
        "points [factor]",
    )
    max_scale_ratio: float = Field(
        2.0,
        ge=1,
        description="Largest factor by which the scale may differ from the chain's, either way [factor]",
    )
    max_chain_deviation: float = Field(
        5.0,
        gt=0,
        description="Largest distance from the chain's relative pose, in those of chain and edge [standard deviations]",
    )
    max_doubt: float = Field(
        0.4,
        gt=0,
        description="Largest drift, at that many standard deviations, that lets the chain vouch for a loop alone: of "
        "translation over what the ends see, of rotation [rad], of log scale [share]",
    )
    min_agreeing: int = Field(
        2, ge=0, description="Other loops that must agree with one for which the chain cannot vouch [edges]"
    )
    min_weight: float = Field(
        0.5, gt=0, lt=1, description="Weight in the optimum below which an edge counts as outvoted [weight]"
    )
    noise: SeamNoiseSettings = SeamNoiseSettings()
    graph: PoseGraphSettings = PoseGraphSettings()
