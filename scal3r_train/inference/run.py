"""One run of a reconstruction: what every stage of it needs to know.

Shapes: S frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.progress import Item, Stages
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.parallel.process import current_process
from scal3r_train.scene.folder import partial_folder, work_folder


@dataclass(frozen=True, eq=False)
class ReconstructionRun:
    """What does not change while a video is reconstructed; the same on every process but for `device`.

    Attributes:
        video: S frames, their images and what is known of them.
        layout: how they are cut into chunks, and which process holds which.
        recipe: all settings.
        stages: times the stages and shows how far they are.
        output: the scene folder to be.
        device: where the network runs.
        model_sha256: names the checkpoint; None when it has no name.
    """

    video: Video
    layout: Layout
    recipe: ReconstructionRecipe
    stages: Stages
    output: Path
    device: torch.device
    model_sha256: str | None = None

    @property
    def chunks(self) -> range:
        """Numbers of the chunks that this process holds."""
        return self.layout.assignment[current_process().rank]

    @property
    def folder(self) -> Path:
        """The partial scene folder, in which the scene is written until it is complete."""
        return partial_folder(self.output)

    @property
    def work_folder(self) -> Path:
        """Where this process keeps what it needs until the scene is complete, for a restart too."""
        return work_folder(self.output) / f"process_{current_process().rank:04d}"

    def track(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items of a stage's loop and show progress."""
        return self.stages.track(items)
