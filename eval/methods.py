"""The runs of an evaluation's methods, and what each of them claims about a sequence.

Shapes: S frames of the sequence, N of them with a pose of the method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from scal3r_eval.baselines import BASELINES
from scal3r_eval.recipe import BaselineMethod, EvalRecipe, ExternalMethod, MethodSettings, Scal3RMethod
from scal3r_eval.results import Resources
from scal3r_eval.sequences import EvalSequence
from scal3r_train.config import StrictModel, UserError, files_sha256, load_config
from scal3r_train.metrics.trajectory_io import Trajectory, match_timestamps, read_trajectory
from scal3r_train.scene.folder import INFO_NAME
from scal3r_train.scene.scene import POINTS_NAME, TRAJECTORY_NAME, load_scene_info, open_scene

SCENE_NAME = "scene"
TRAJECTORY_SUFFIXES = (".tum", ".kitti", ".txt")
RESOURCES_SUFFIX = ".resources.json"
STILL = 1e-12


class ExternalResources(StrictModel):
    """SEQUENCE.resources.json beside an external estimate: what that took, as its maker measured it."""

    seconds: float = Field(gt=0)
    num_processes: int = Field(1, ge=1)
    peak_memory_bytes: dict[str, Annotated[int, Field(ge=0)]] = {}
    device: str | None = None


@dataclass(frozen=True)
class Run:
    """One run of a method: one checkpoint of several, one folder of several.

    Attributes:
        method: name in the recipe.
        number: of the run, from 0.
        settings: of the method.
        source: the checkpoint or folder of this run; None for a baseline.
        folder: where its files go.
    """

    method: str
    number: int
    settings: MethodSettings
    source: Path | None
    folder: Path

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.folder.name


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a run says about a sequence.

    Attributes:
        places: [N] int64 into the sequence's frames, ascending.
        world_from_cam: [N, 3, 4] float64, in a world of its own.
        points: PLY file in the same world, None without.
        depth_folder: scene folder with depth/ in it, None without.
        resources: what it took, None when unknown.
        notes: how it was read, for the scores.
    """

    places: Tensor
    world_from_cam: Tensor
    points: Path | None = None
    depth_folder: Path | None = None
    resources: Resources | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def runs_of(recipe: EvalRecipe) -> list[Run]:
    """Return all runs in the order of the tables. Raises UserError for a scal3r method without a checkpoint."""
    runs = []
    for name, settings in recipe.methods.items():
        if settings is None:
            continue
        sources = _sources(name, settings, recipe.checkpoint)
        for number, source in enumerate(sources):
            folder = name if len(sources) == 1 else f"{name}.{number}"
            runs.append(Run(name, number, settings, source, recipe.output_dir / folder))
    return runs


def scene_folder(run: Run, sequence: EvalSequence) -> Path:
    """Return where a scal3r run writes the scene of a sequence."""
    return run.folder / sequence.folder / SCENE_NAME


def estimate_identity(run: Run, sequence: EvalSequence) -> dict[str, Any]:
    """Return what names the estimate of a run: hashes of its files.

    Raises:
        UserError: it has none for this sequence.
    """
    if isinstance(run.settings, BaselineMethod):
        return {"baseline": run.settings.baseline}
    paths = _files(run, sequence)
    try:
        return {"names": [path.name for path in paths], "sha256": files_sha256(paths)}
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}; remove {paths[0].parent} and run again"
            if isinstance(run.settings, Scal3RMethod)
            else f"{error.filename} cannot be read: {error.strerror}"
        ) from error


def load_estimate(run: Run, sequence: EvalSequence, max_time_difference_s: float) -> Estimate:
    """Return what a run says about a sequence, which must have been predicted if it is ours.

    Raises:
        UserError: it has nothing, or what it has does not fit the frames.
    """
    if isinstance(run.settings, BaselineMethod):
        known = sequence.has_truth.nonzero()[:, 0]
        return Estimate(known, BASELINES[run.settings.baseline](sequence.truth[known]))
    if isinstance(run.settings, ExternalMethod):
        return _external(run, sequence, max_time_difference_s)
    folder = scene_folder(run, sequence)
    scene, points = open_scene(folder)
    points.close()
    info = scene.info
    if info.frame_indices != sequence.frame_indices:
        raise UserError(f"scene {folder} is of other frames than the protocol's; remove it and run again")
    seconds = sum(info.timings_s.values())
    resources = Resources(
        seconds=seconds,
        fps=info.num_frames / max(seconds, STILL),
        num_processes=info.num_processes,
        peak_memory_bytes=info.peak_memory_bytes,
        device=info.device,
    )
    notes = {"num_chunks": len(info.chunks), "breaks": len(info.breaks), "num_points": info.num_points}
    return Estimate(
        torch.arange(len(scene.world_from_cam)),
        scene.world_from_cam,
        points=folder / POINTS_NAME,
        depth_folder=folder,
        resources=resources,
        notes=notes,
    )


def _sources(name: str, settings: MethodSettings, checkpoint: Path | None) -> tuple[Path | None, ...]:
    if isinstance(settings, BaselineMethod):
        return (None,)
    if isinstance(settings, ExternalMethod):
        return settings.folder if isinstance(settings.folder, tuple) else (settings.folder,)
    given = settings.checkpoint or checkpoint
    if given is None:
        raise UserError(
            f"method {name} has no checkpoint; add checkpoint=FOLDER or methods.{name}.checkpoint"
        )
    return given if isinstance(given, tuple) else (given,)


def _files(run: Run, sequence: EvalSequence) -> list[Path]:
    """Return the files that an estimate consists of; UserError without any."""
    if isinstance(run.settings, Scal3RMethod):
        folder = scene_folder(run, sequence)
        load_scene_info(folder)
        return [folder / name for name in (INFO_NAME, TRAJECTORY_NAME, POINTS_NAME)]
    suffixes = (TRAJECTORY_SUFFIXES, (".ply",), (RESOURCES_SUFFIX,))
    found = [path for kind in suffixes if (path := _first(run, sequence, kind)) is not None]
    if not found:
        raise UserError(f"{run.source} has no {sequence.folder}{'|'.join(TRAJECTORY_SUFFIXES)}")
    return found


def _first(run: Run, sequence: EvalSequence, suffixes: tuple[str, ...]) -> Path | None:
    """Return the run's file of a sequence, under its folder's name or, where that is a path, under its own."""
    assert run.source is not None, "external methods have a folder"
    paths = [
        run.source / f"{name}{suffix}" for name in (sequence.folder, sequence.name) for suffix in suffixes
    ]
    return next((path for path in paths if path.is_file()), None)


def _external(run: Run, sequence: EvalSequence, max_time_difference_s: float) -> Estimate:
    path = _first(run, sequence, TRAJECTORY_SUFFIXES)
    if path is None:
        raise UserError(
            f"{run.source} has no trajectory {sequence.folder} ({', '.join(TRAJECTORY_SUFFIXES)}), "
            "by which its points could be aligned"
        )
    trajectory = read_trajectory(path)
    places, rows, matched = _matched(trajectory, sequence, max_time_difference_s, path)
    return Estimate(
        places,
        trajectory.world_from_cam[rows],
        points=_first(run, sequence, (".ply",)),
        resources=_external_resources(run, sequence),
        notes={"file": path.name, "matched_by": matched},
    )


def _external_resources(run: Run, sequence: EvalSequence) -> Resources | None:
    path = _first(run, sequence, (RESOURCES_SUFFIX,))
    if path is None:
        return None
    taken = load_config(ExternalResources, path)
    return Resources(fps=len(sequence.frame_indices) / taken.seconds, **taken.model_dump())


def _matched(
    trajectory: Trajectory, sequence: EvalSequence, max_time_difference_s: float, path: Path
) -> tuple[Tensor, Tensor, str]:
    """Return places [N] in the sequence and rows [N] of the trajectory that belong together, and how they were found.

    A file without times has a pose for every frame used, or for every frame of the sequence. Times are those of the
    index; a file whose times fit none of these but count 0, 1, .. has a pose for every frame used.
    """
    num_used, num_all = len(sequence.frame_indices), sequence.record.num_frames
    every = torch.arange(num_used)
    if trajectory.timestamps is None:
        if len(trajectory) == num_used:
            return every, every, "frame"
        if len(trajectory) == num_all:
            return every, torch.tensor(sequence.frame_indices), "frame"
        raise UserError(
            f"{path} has {len(trajectory)} poses without times, {sequence.name} has {num_used} frames "
            f"({num_all} in all); give one pose a frame, or TUM format with times"
        )
    times = torch.as_tensor(sequence.record.timestamp[list(sequence.frame_indices)], dtype=torch.float64)
    places, rows = _matched_by_time(times, trajectory.timestamps, max_time_difference_s)
    counts = torch.arange(len(trajectory), dtype=torch.float64)
    if (
        2 * len(places) < num_used
        and len(trajectory) == num_used
        and torch.equal(trajectory.timestamps, counts)
    ):
        return every, every, "frame"
    return places, rows, "time"


def _matched_by_time(times: Tensor, stamps: Tensor, max_difference: float) -> tuple[Tensor, Tensor]:
    """Return places [N] into the times [S] of the frames, in any order, and rows [N] into the poses' sorted times.

    Places are ascending and each is there once: of several poses that are nearest to one frame, such as lines that are
    there twice, the nearest stays, the first of equals.
    """
    order = times.argsort(stable=True)
    found, rows = match_timestamps(times[order], stamps, max_difference)
    places = order[found]
    by_gap = (times[places] - stamps[rows]).abs().argsort(stable=True)
    by_place = by_gap[places[by_gap].argsort(stable=True)]
    places, rows = places[by_place], rows[by_place]
    is_first = torch.ones(len(places), dtype=torch.bool)
    is_first[1:] = places[1:] != places[:-1]
    return places[is_first], rows[is_first]
