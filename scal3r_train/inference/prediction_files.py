"""The predictions of chunks as files: written once, read in parts, and still there after a kill.

Shapes: S frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from scal3r_train.config import UserError
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.state_store import save_tensors

FIELDS = ("extrinsics", "intrinsics", "depth", "depth_conf", "world_points", "world_points_conf", "valid")


class SavedPrediction:
    """The prediction of one chunk in a file."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path

    def frames(self, frames: slice) -> ChunkPrediction:
        """Return the prediction of some consecutive frames; nothing else is read."""
        try:
            with safe_open(self._path, "pt") as file:
                present = set(file.keys())
                tensors = {name: file.get_slice(name)[frames] for name in FIELDS if name in present}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._path} is missing or damaged; remove its folder and run again") from error
        return ChunkPrediction(**tensors)


class PredictionFolder(Mapping[int, SavedPrediction]):
    """Predictions by chunk number."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, with what it holds already."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._numbers = {int(path.stem) for path in folder.glob("[0-9]*.safetensors")}

    def save(self, number: int, prediction: ChunkPrediction) -> None:
        """Write a prediction; UserError when that fails."""
        tensors = {name: value.contiguous() for name, value in vars(prediction).items() if value is not None}
        save_tensors(self._path(number), tensors, {}, "predictions")
        self._numbers.add(number)

    def __getitem__(self, number: int) -> SavedPrediction:
        if number not in self._numbers:
            raise KeyError(number)
        return SavedPrediction(self._path(number))

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._numbers))

    def __len__(self) -> int:
        return len(self._numbers)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.safetensors"
