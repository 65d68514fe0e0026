"""The `parallel` section of a training recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scal3r_train.config import StrictModel

EngineName = Literal["single", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2"]


class ParallelSettings(StrictModel):
    """How a run uses its processes. The number of processes is the launcher's."""

    engine: Literal["launcher"] | EngineName = Field(
        default="launcher",
        description="launcher: what `accelerate launch` was configured with, else ddp (single when alone)",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16 runs encoder and attention in autocast; memories and heads stay fp32 (on CUDA: TF32)",
    )
    timeout_minutes: float = Field(
        default=10.0, gt=0, description="how long a process waits for the others before the run ends"
    )
