"""What one process holds of a parameter and of the state that trains it: an interval of the flattened parameter.

The one description that single process, DDP, ZeRO and FSDP2 share. Saving writes intervals, restoring reads the
intervals that a process needs, whoever wrote them: that is why a run may go on under another engine or world size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Shard:
    """An interval of one parameter.

    Attributes:
        name: the parameter's name in the bare model.
        shape: of the whole parameter.
        start: first element of the interval in the flattened parameter.
        weight: [n] flat view of the values that the optimizer updates (fp32; frozen ones in their own dtype).
            Writing into it changes the model only after `Engine.publish_weights`.
        moments: AdamW's two moments, [n] flat views each; empty for frozen parameters.
        is_replicated: whether every process holds this same interval.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    weight: Tensor
    moments: dict[str, Tensor] = field(default_factory=dict)
    is_replicated: bool = False

    @property
    def stop(self) -> int:
        """Element after the interval's last one."""
        return self.start + self.weight.numel()
