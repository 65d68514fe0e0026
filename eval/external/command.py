"""The loop that runs another system on the sequences of an index and leaves what `kind: external` reads.

Shapes: S frames of a sequence, N of them with a pose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field

from scal3r_eval.methods import ExternalResources
from scal3r_train.config import StrictModel, UserError, dump_yaml, load_config, write_text_atomically
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import frame_camera
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.notes import answer, note
from scal3r_train.parallel.claimed_output import claimed


class ExternalSettings(StrictModel):
    """Which frames another system gets."""

    sequences: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of sequences; null: all of the index"
    )
    max_frames: int | None = Field(
        None, ge=2, description="only so many frames from the start; null: all [frames]"
    )
    overwrite: bool = Field(False, description="run again where a trajectory is there already")


SettingsT = TypeVar("SettingsT", bound=ExternalSettings)
# Gets a sequence, the numbers [S] of its frames and the settings; returns which of them have a pose, as places
# [N] in those numbers, ascending, and world_from_cam [N, 3, 4] float64, or raises UserError when it fails.
System = Callable[[SequenceRecord, Sequence[int], SettingsT], tuple[np.ndarray, np.ndarray]]


def run_external(
    argv: Sequence[str], name: str, settings_class: type[SettingsT], system: System[SettingsT]
) -> int:
    """Run a system on the sequences of INDEX and write its trajectories below OUT; what is there stays.

    A sequence on which it fails is named, gets no file, and counts as a failure in an evaluation.
    Returns 0, or 1 when it failed on all sequences.

    Raises:
        UserError: the arguments, the index or the output cannot be used, or OUT has trajectories of other settings.
    """
    usage = f"usage: python -m scal3r_eval.external.{name} INDEX OUT [key=value ...] (docs/evaluation.md)"
    if "-h" in argv or "--help" in argv:
        answer(usage)
        return 0
    if len(argv) < 2:
        raise UserError(usage)
    settings = load_config(settings_class, None, list(argv[2:]))
    output = Path(argv[1])
    records = _chosen(Path(argv[0]), settings)
    failed = 0
    with claimed(output, "output", is_folder=True):
        stems = [output / record.sequence_id.replace("/", "__") for record in records]
        _refuse_a_mixture(output / f"{name}.yaml", settings, stems)
        write_text_atomically(output / f"{name}.yaml", dump_yaml(settings))
        for record, stem in zip(records, stems, strict=True):
            failed += not _run_one(record, stem, settings, system)
    return int(failed == len(records))


def known_intrinsics(record: SequenceRecord, frames: Sequence[int]) -> np.ndarray:
    """Return fx fy cx cy [S, 4] of the upright, undistorted images. Raises UserError where one is unknown."""
    rows = [frame_camera(record, index).intrinsics for index in frames]
    for index, row in zip(frames, rows, strict=True):
        if row is None:
            raise UserError(
                f"{record.sequence_id}: frame {index} ({record.image[index]}) has no intrinsics, which it needs"
            )
    return np.stack([row for row in rows if row is not None])


def _chosen(path: Path, settings: ExternalSettings) -> list[SequenceRecord]:
    index = load_index(path)
    if settings.sequences is None:
        return [index[number] for number in range(len(index))]
    return [index.find(name) for name in settings.sequences]


def _refuse_a_mixture(path: Path, settings: SettingsT, stems: Sequence[Path]) -> None:
    """Raise UserError when trajectories that would stay are of other settings than these."""
    if not path.is_file():
        return
    choice = {"sequences", "overwrite"}
    before = load_config(type(settings), path)
    if before.model_dump(exclude=choice) == settings.model_dump(exclude=choice):
        return
    again = {stem.name for stem in stems} if settings.overwrite else set()
    kept = next((found for found in sorted(path.parent.glob("*.tum")) if found.stem not in again), None)
    if kept is not None:
        raise UserError(
            f"{kept} was made with other settings ({path}); take another folder, or overwrite=true for all sequences"
        )


def _run_one(record: SequenceRecord, stem: Path, settings: SettingsT, system: System[SettingsT]) -> bool:
    """Run the system on one sequence; tell whether it has a trajectory."""
    trajectory = stem.with_name(f"{stem.name}.tum")
    if trajectory.is_file() and not settings.overwrite:
        note(f"{record.sequence_id}: {trajectory} is there already")
        return True
    frames = range(record.num_frames)[: settings.max_frames]
    started = time.perf_counter()
    try:
        places, poses = system(record, frames, settings)
    except UserError as error:
        note(f"{record.sequence_id}: failed: {error}")
        trajectory.unlink(missing_ok=True)  # of the run before
        return False
    seconds = time.perf_counter() - started
    times = torch.as_tensor(record.timestamp[[frames[place] for place in places]], dtype=torch.float64)
    taken = ExternalResources(seconds=seconds, device="CPU")
    write_text_atomically(stem.with_name(f"{stem.name}.resources.json"), taken.model_dump_json() + "\n")
    # Last: a sequence with a trajectory is complete.
    write_trajectory(trajectory, Trajectory(torch.from_numpy(poses), times), "tum")
    answer(f"{record.sequence_id}: {len(places)} of {len(frames)} frames in {seconds:.1f} s")
    return True
