"""scal3r data pack: an index with the files inside, to publish or to train from an object store.

OUT/index.parquet is an index like any other; its sequences lie in OUT/frames-NNNNN.parquet, one row a frame, images as
`datasets.Image` (so that the Hub shows them), depth and masks as the bytes of their files. `data.sources` takes
OUT/index.parquet, or its URL (hf://datasets/OWNER/NAME/index.parquet) without downloading the whole. OUT/README.md is
the data set's card.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from pydantic import Field

from scal3r_data_tools.dataset_card import dataset_card
from scal3r_data_tools.jobs import progress
from scal3r_train.config import StrictModel, UserError, load_config, write_text_atomically
from scal3r_train.data.index.index import SequenceIndex, load_index, write_index
from scal3r_train.data.io.frame_files import read_file, video_frame
from scal3r_train.data.sequence import PackedFrames, SequenceRecord
from scal3r_train.parallel.folder_lock import lock_beside, owned

ROWS_PER_GROUP = 16
FILE_COLUMNS = ("image", "depth", "mask", "sky_mask")
FRAME_FEATURES = datasets.Features(
    {
        "sequence_id": datasets.Value("string"),
        "frame": datasets.Value("int32"),
        "image": datasets.Image(),
        "depth": datasets.Value("binary"),
        "mask": datasets.Value("binary"),
        "sky_mask": datasets.Value("binary"),
    }
)


class PackSettings(StrictModel):
    """Settings of packing."""

    file_megabytes: int = Field(
        500, gt=0, description="a new file begins after the sequence that exceeds this [MB]"
    )


def main(path: str | os.PathLike[str], output: str | os.PathLike[str], overrides: Sequence[str] = ()) -> int:
    """Pack an index and all files that it names into the new folder `output`; returns 0.

    A file that cannot be read is left out, named and counted. Raises UserError when the index cannot be read, `output`
    exists, or a sequence consists of video frames.
    """
    settings = load_config(PackSettings, None, overrides)
    output = Path(output)
    if output.exists():
        raise UserError(f"{output} exists already; name a new folder")
    index = load_index(path)
    for row in range(len(index)):  # before hours of packing
        _refuse_video(index[row])
    with owned(lock_beside(output), f"folder {output}"):
        unreadable = _pack(index, output, settings)
    _say_result(output, index, unreadable)
    return 0


def _pack(index: SequenceIndex, output: Path, settings: PackSettings) -> Sequence[str]:
    """Write the folder, whole or not at all; return the files that could not be read."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}.partial")
    temporary.mkdir(parents=True)
    try:
        packer = _Packer(temporary, settings.file_megabytes * 1_000_000)
        records = [packer.add(index[row]) for row in progress(range(len(index)), len(index), "pack")]
        packer.close()
        write_index(temporary / "index.parquet", records)
        write_text_atomically(temporary / "README.md", dataset_card(output.name, index, FRAME_FEATURES))
        os.replace(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return packer.unreadable


class _Packer:
    """Writes sequences one after another, each whole in one file."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.unreadable: list[str] = []
        self._folder, self._max_bytes = folder, max_bytes
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._name, self._num_files, self._num_rows, self._num_bytes = "", 0, 0, 0

    def add(self, record: SequenceRecord) -> SequenceRecord:
        """Write a sequence and return the record that finds it again."""
        if self._writer is None:
            self._begin_file()
        assert self._writer is not None
        first_row = self._num_rows
        for begin in range(0, record.num_frames, ROWS_PER_GROUP):
            frames = range(begin, min(begin + ROWS_PER_GROUP, record.num_frames))
            rows = [self._row(record, frame) for frame in frames]
            self._writer.write_table(pyarrow.Table.from_pylist(rows, schema=self._writer.schema))
            self._num_rows += len(rows)
        location = self._folder / self._name
        if self._num_bytes > self._max_bytes:
            self.close()
        names: dict[str, Any] = {
            column: tuple(
                f"{column}#{frame}" if name else "" for frame, name in enumerate(vars(record)[column])
            )
            for column in FILE_COLUMNS
        }
        return replace(record, **names, root=location, packed=PackedFrames(str(location), first_row))

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _begin_file(self) -> None:
        self._name = f"frames-{self._num_files:05d}.parquet"
        self._num_files, self._num_rows, self._num_bytes = self._num_files + 1, 0, 0
        information = {"info": {"features": FRAME_FEATURES.to_dict()}}
        schema = FRAME_FEATURES.arrow_schema.with_metadata({"huggingface": json.dumps(information)})
        # images are compressed already
        self._writer = pyarrow.parquet.ParquetWriter(self._folder / self._name, schema, compression="none")

    def _row(self, record: SequenceRecord, frame: int) -> dict[str, Any]:
        contents = dict(self._contents(record, frame))
        image = {"bytes": contents.pop("image"), "path": Path(record.image[frame]).name}
        return {"sequence_id": record.sequence_id, "frame": frame, "image": image, **contents}

    def _contents(self, record: SequenceRecord, frame: int) -> Iterator[tuple[str, bytes | None]]:
        for column in FILE_COLUMNS:
            names = vars(record)[column]
            content = None
            if names and names[frame]:
                try:
                    content = read_file(record, names[frame])
                    self._num_bytes += len(content)
                except UserError as error:
                    self.unreadable.append(str(error))
            yield column, content


def _refuse_video(record: SequenceRecord) -> None:
    if any(video_frame(record, name) for name in record.image[:1]):
        raise UserError(f"{record.sequence_id} consists of frames of a video; extract them to a folder first")


def _say_result(output: Path, index: SequenceIndex, unreadable: Sequence[str]) -> None:
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e9
    sys.stdout.write(f"{output}: {len(index)} sequences, {sum(index.num_frames)} frames, {size:.2f} GB\n")
    if unreadable:
        sys.stdout.write(f"{len(unreadable)} files could not be read, first: {unreadable[0]}\n")
