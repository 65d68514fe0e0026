"""How much a rank passes through the network at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepSize:
    """What a rank passes through the network at a time: B, K, S, H, W."""

    num_sequences: int
    num_chunks: int
    num_frames: int
    height: int
    width: int

    @property
    def frames_per_rank(self) -> int:
        """Frames of all chunks of all sequences."""
        return self.num_sequences * self.num_chunks * self.num_frames
