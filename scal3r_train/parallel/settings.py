"""The `parallel` section of a training recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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
    gathered_dtype: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="dtype in which fsdp2 gathers encoder and attention blocks; bf16 halves that traffic, "
        "gradients are summed in fp32 either way",
    )
    deterministic: bool = Field(
        default=False,
        description="use deterministic kernels on CUDA: a resumed run then equals the uninterrupted one bit for bit",
    )
    start_timeout_minutes: float = Field(
        default=10.0,
        gt=0,
        description="how long a process waits at the start for the first one to be reachable [min]",
    )
    timeout_minutes: float = Field(
        default=10.0, gt=0, description="how long a process waits for the others before the run ends [min]"
    )

    @model_validator(mode="after")
    def _check(self) -> ParallelSettings:
        if self.gathered_dtype == "bf16" and self.precision != "bf16":
            raise ValueError("gathered_dtype bf16 goes with precision bf16: blocks would compute in bf16")
        return self
