"""How large everything is: `full` is what the paper trains and reconstructs with, `tiny` lets a CPU rehearse it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Size:
    """Sizes of networks and inputs.

    Attributes:
        name: "full" or "tiny".
        network: changes to the released configuration.
        image_hw: pixels of an image.
        step_frames: frames of the one chunk of a training step; the first is compared in every mode.
        num_rounds: timed repetitions after the warm-up; the median counts.
        chunk, overlap: frames of a chunk of a reconstruction, and those shared with the next.
        store_chunks: chunks in the comparison of state stores.
        reference_chunks: chunks that the layer-by-layer reference runs.
        video_frames: lengths of the videos whose memory is compared.
        frame_step: granularity in which the most frames that fit are looked for.
        frames_of_cpu: more frames "do not fit" on a CPU: the rehearsal of running out of memory.
        matrix: side of the square product whose speed is the measured peak.
        compile_backend: of torch.compile.
    """

    name: str
    network: dict[str, Any] = field(default_factory=dict)
    image_hw: tuple[int, int] = (392, 518)
    step_frames: tuple[int, ...] = (8, 24)
    num_rounds: int = 5
    chunk: int = 60
    overlap: int = 30
    store_chunks: int = 4
    reference_chunks: int = 1
    video_frames: tuple[int, ...] = (60, 600, 3000)
    frame_step: int = 4
    frames_of_cpu: int = 0
    matrix: int = 8192
    compile_backend: str = "inductor"

    def num_chunks(self, num_frames: int) -> int:
        """Return how many chunks a video of `num_frames` frames is cut into."""
        return 1 + max(0, -(-(num_frames - self.chunk) // (self.chunk - self.overlap)))

    def num_frames(self, num_chunks: int) -> int:
        """Return the length of the video that is cut into so many whole chunks."""
        return self.chunk + (num_chunks - 1) * (self.chunk - self.overlap)


TINY_NETWORK = {
    "image_size": 28,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "encoder_layers": 1,
    "encoder_heads": 2,
    "tap_layers": [0, 0, 1, 1],
    "memory_layers": [0, 1],
    "memory_expansion": 2,
    "camera_heads": 2,
    "camera_layers": 1,
    "camera_iterations": 2,
    "dpt_features": 8,
    "dpt_channels": [8, 8, 8, 8],
    "dpt_refine_channels": 8,
}
SIZES = {
    "full": Size("full"),
    "tiny": Size(
        "tiny",
        TINY_NETWORK,
        image_hw=(28, 42),
        step_frames=(2, 3),
        num_rounds=1,
        chunk=4,
        overlap=2,
        store_chunks=2,
        video_frames=(4, 6, 10),
        frame_step=1,
        frames_of_cpu=3,
        matrix=64,
        compile_backend="eager",
    ),
}
