"""The sequences of an evaluation: found or made, their frames chosen and checked against the protocol's lists.

Shapes: S frames that are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scal3r_eval.code_identity import INDEXING_SHA256
from scal3r_eval.recipe import DATA_FOLDER, BenchmarkSettings, EvalRecipe, SequenceSettings
from scal3r_eval.subprocesses import run_quietly
from scal3r_train.config import UserError, write_text_atomically
from scal3r_train.data.index.index import SequenceIndex, load_index
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.frame_io import true_world_from_cam
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.metrics.trajectory import MIN_POSES
from scal3r_train.parallel.folder_lock import lock_beside, owned
from scal3r_train.text_file import parse_json

INDEX_NAME = "index.parquet"
SOURCE_NAME = "index.json"  # beside it: what it was made from
MAX_NAMED = 8


@dataclass(frozen=True, eq=False)
class EvalSequence:
    """One sequence of a benchmark with the frames that every method gets.

    Attributes:
        name: the sequence_id; NAME[:N] when it is cut.
        length: N when it is cut for the runtime against length, which counts in no mean.
        record: the index row.
        folder: name of its folder in a method's folder.
        frame_indices: [S] frames of the record, ascending.
        frames_sha256: of their file names, one a line.
        has_truth: [S] bool, which frames have a true pose.
        truth: world_from_cam [S, 3, 4] float64 of the upright cameras, NaN without truth.
    """

    name: str
    length: int | None
    record: SequenceRecord
    folder: str
    frame_indices: tuple[int, ...]
    frames_sha256: str
    has_truth: Tensor
    truth: Tensor

    @property
    def path_length_m(self) -> float:
        """From true pose to true pose."""
        centres = self.truth[self.has_truth][:, :, 3]
        return float((centres[1:] - centres[:-1]).norm(dim=-1).sum())

    @property
    def truth_sha256(self) -> str:
        """Hash of the true poses."""
        return hashlib.sha256(self.truth.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Missing:
    """What an evaluation cannot run on, why, and the command that mends it ("" where none does)."""

    what: str
    reason: str
    command: str

    @property
    def line(self) -> str:
        """All in one line."""
        return f"{self.what} {self.reason}" + (f"; `{self.command}`" if self.command else "")


def provide_index(recipe: EvalRecipe) -> Path:
    """Return the benchmark's index, made in the run's folder where the recipe says how; call it on one process.

    Raises:
        UserError: the data is not there; the line holds the command that gets it.
    """
    benchmark, folder = recipe.benchmark, recipe.output_dir / DATA_FOLDER
    if benchmark.towns:
        with _making_data(recipe.output_dir):
            # The same towns are left alone, others than asked for are refused.
            run_quietly("data", "synth", str(folder), *benchmark.options)
        return folder / INDEX_NAME
    if benchmark.data_root is not None:
        if not benchmark.data_root.is_dir() or not any(benchmark.data_root.iterdir()):
            raise UserError(_absent(benchmark, f"{benchmark.data_root} is not there"))
        assert benchmark.adapter is not None, "checked by the settings"
        index = folder / INDEX_NAME
        with _making_data(recipe.output_dir):
            # As it was before the indexing: what is added meanwhile is found at the next start.
            source = _source(benchmark)
            if not index.is_file() or _known_source(folder) != source:
                (folder / SOURCE_NAME).unlink(missing_ok=True)
                run_quietly(
                    "data",
                    "index",
                    benchmark.adapter,
                    str(benchmark.data_root),
                    str(index),
                    *benchmark.options,
                )
                write_text_atomically(folder / SOURCE_NAME, json.dumps(source) + "\n")
        return index
    if benchmark.index is None or not benchmark.index.is_file():
        raise UserError(_absent(benchmark, f"{benchmark.index or 'an index'} is not there"))
    return benchmark.index


def choose_sequences(recipe: EvalRecipe, index_path: Path) -> tuple[list[EvalSequence], list[Missing]]:
    """Return the sequences to run, and those that the recipe names but that cannot be.

    Raises:
        UserError: nothing is left to run.
    """
    index = load_index(index_path)
    names = list(recipe.sequences.names or dict.fromkeys(index.sequence_ids))
    found, missing = [], []
    command = recipe.benchmark.command(index_path)
    for name in names:
        if name not in index.sequence_ids:
            missing.append(Missing(name, f"is not in {index_path}", command))
            continue
        sequence = choose_frames(index.find(name), recipe.sequences)
        problem = _problem(sequence, recipe.sequences, index)
        if problem:
            missing.append(Missing(name, problem, command if "file" in problem else ""))
        else:
            found.append(sequence)
            shorter = (one for one in sorted(recipe.sequences.lengths) if one < len(sequence.frame_indices))
            found += [choose_frames(sequence.record, recipe.sequences, length) for length in shorter]
    if not found:
        some = "; ".join(one.line for one in missing[:MAX_NAMED])
        raise UserError(f"no sequence of {recipe.benchmark.name} can be run: {some}")
    folders = {sequence.folder for sequence in found}
    if len(folders) < len(found):
        raise UserError("two sequences would share a folder; rename one of them or leave one out")
    return found, missing


def choose_frames(
    record: SequenceRecord, settings: SequenceSettings, length: int | None = None
) -> EvalSequence:
    """Return a sequence with the frames that the settings choose, the first `length` of them if given."""
    chosen = InputSettings(
        start=settings.start, stop=settings.stop, stride=settings.stride, max_frames=settings.max_frames
    ).frame_indices(record.num_frames)[:length]
    unknown = torch.full((len(chosen), 3, 4), torch.nan, dtype=torch.float64)
    truth = unknown if record.cam_from_world is None else true_world_from_cam(record)[chosen]
    names = "".join(f"{record.image[frame]}\n" for frame in chosen)
    name = record.sequence_id if length is None else f"{record.sequence_id}[:{length}]"
    return EvalSequence(
        name=name,
        length=length,
        record=record,
        folder=folder_name(name),
        frame_indices=tuple(chosen),
        frames_sha256=hashlib.sha256(names.encode()).hexdigest(),
        has_truth=truth.isfinite().flatten(1).all(dim=1),
        truth=truth,
    )


def folder_name(sequence_id: str) -> str:
    """Return a plain folder name for a sequence: `/` becomes `__`, what is unusual `_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", sequence_id.replace("/", "__")).lstrip(".") or "_"


def _problem(sequence: EvalSequence, settings: SequenceSettings, index: SequenceIndex) -> str:
    """Return why a sequence cannot be run, "" when it can."""
    record = sequence.record
    wanted = settings.sha256.get(sequence.name)
    if wanted is not None and wanted != sequence.frames_sha256:
        return (
            f"has another frame list than the protocol's ({len(sequence.frame_indices)} frames, sha256 "
            f"{sequence.frames_sha256}); sequences.sha256={{}} takes it as it is"
        )
    if int(sequence.has_truth.sum()) < MIN_POSES:
        return f"has {int(sequence.has_truth.sum())} frames with a true pose, which {MIN_POSES} must have"
    if record.packed is None and "://" not in index.path:
        for frame in (sequence.frame_indices[0], sequence.frame_indices[-1]):
            video = video_frame(record, record.image[frame])
            path = record.root / record.image[frame] if video is None else video[0]
            if not path.is_file():
                return f"lacks the file {path}"
    return ""


def _absent(benchmark: BenchmarkSettings, what: str) -> str:
    docs = f" (docs/data/{benchmark.adapter}.md says where to get it)" if benchmark.adapter else ""
    return (
        f"data of {benchmark.name} is missing: {what}; get it and run `{benchmark.command()}`{docs}, "
        "or give its folder as benchmark.data_root=FOLDER"
    )


def _source(benchmark: BenchmarkSettings) -> dict[str, Any]:
    """Return all that an index is made from; of the data set when files were added to or removed from its folders."""
    assert benchmark.data_root is not None, "an index is made of a data set as published"
    root = benchmark.data_root.resolve()
    return {
        "code_sha256": INDEXING_SHA256,
        "adapter": benchmark.adapter,
        "data_root": str(root),
        "options": list(benchmark.options),
        "folders_sha256": hashlib.sha256("\n".join(_folders(root)).encode()).hexdigest(),
    }


def _folders(root: Path) -> list[str]:
    """Return a line for each folder below `root`, links followed, each folder once: its name and when it changed."""
    lines, seen = [], set()
    for folder, below, _ in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        lines.append(f"{Path(folder).relative_to(root).as_posix()} {status.st_mtime_ns}")
    return lines


def _known_source(folder: Path) -> Any:
    """Return what the index in a folder was made from; None when that is not known."""
    try:
        return parse_json((folder / SOURCE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _making_data(folder: Path) -> AbstractContextManager[None]:
    """Let one process at a time make the data of a run's folder; the tasks of an array job wait for the first."""
    # Beside the lock that the command which makes them has of the folder itself.
    return owned(lock_beside(folder / f"{DATA_FOLDER}.making"), f"{folder / DATA_FOLDER}", waits=True)
