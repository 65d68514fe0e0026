"""What a training run takes of a machine's own memory (RAM), which all ranks on the machine share.

Reading processes hand batches over in shared memory, so what they hold counts against /dev/shm too.
"""

from __future__ import annotations

from dataclasses import dataclass

from scal3r_train.parallel.host_memory import pinned_bytes
from scal3r_train.planning.engine_bytes import FP32, EngineBytes, ModelSize
from scal3r_train.planning.step_size import StepSize

# Assumptions. A process of this program on a CPU, after its imports, holds 0.33 GiB that no other shares (psutil's
# uss); CUDA's context and libraries are taken to add the rest. A reading process is a fork that shares most of that.
BYTES_PER_PROCESS = 2 * 2**30
BYTES_PER_READER = 2**28
# Of a pixel in a batch: three colours of one byte, depth in float32.
BYTES_PER_PIXEL = 3 + 4
BATCHES_PER_READER = 2  # what torch's loader reads ahead


@dataclass(frozen=True)
class HostBytes:
    """Bytes of RAM of one rank.

    Attributes:
        process: the program itself.
        readers: its reading processes.
        batches: read ahead, waiting in shared memory, and the pinned copies of two.
        offloaded: what the engine keeps there (ZeRO-3 with offload).
        loading: what is being read of a checkpoint; gone before the first step.
    """

    process: int
    readers: int
    batches: int
    offloaded: int
    loading: int

    @property
    def at_start(self) -> int:
        """Return what a rank takes while the model is read."""
        return self.process + max(self.loading, self.offloaded)

    @property
    def in_steps(self) -> int:
        """Return what a rank takes in training steps."""
        return self.process + self.readers + self.batches + self.offloaded

    @property
    def most(self) -> int:
        """Return the larger of the two."""
        return max(self.at_start, self.in_steps)


def host_bytes(model: ModelSize, states: EngineBytes, size: StepSize, num_workers: int) -> HostBytes:
    """Return what a rank with `num_workers` reading processes takes, batches being of the given size."""
    batch = BYTES_PER_PIXEL * size.frames_per_rank * size.height * size.width
    waiting = max(1, num_workers * BATCHES_PER_READER)
    images, depth = 3 * batch // BYTES_PER_PIXEL, 4 * batch // BYTES_PER_PIXEL
    return HostBytes(
        process=BYTES_PER_PROCESS,
        readers=num_workers * BYTES_PER_READER,
        batches=waiting * batch + 2 * (pinned_bytes(images) + pinned_bytes(depth)),
        offloaded=states.host,
        loading=loading_bytes(model),
    )


def loading_bytes(model: ModelSize) -> int:
    """Return what a rank holds on the host while it reads a checkpoint: one parameter on its way to the device.

    A run from random weights initialises the whole model on the host instead; such models are small.
    """
    return FP32 * model.largest
