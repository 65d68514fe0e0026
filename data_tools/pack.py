"""scal3r data pack: an index with the files inside, to publish or to train from an object store.

OUT/index.parquet is an index like any other; its sequences lie in OUT/frames-NNNNN.parquet, one row a frame, images as
`datasets.Image` (so that the Hub shows them), depth and masks as the bytes of their files. `data.sources` takes
OUT/index.parquet, or its URL (hf://datasets/OWNER/NAME/index.parquet) without downloading the whole. OUT/README.md is
the data set's card. Whatever is copied has been decoded, and lies in its sequence's root.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow
import pyarrow.parquet
from pydantic import Field

from scal3r_data_tools.dataset_card import dataset_card
from scal3r_data_tools.jobs import progress
from scal3r_train.config import StrictModel, UserError, load_config, write_text_atomically
from scal3r_train.data.index.index import SequenceIndex, load_index, write_index
from scal3r_train.data.io.depth_codec import decode_depth
from scal3r_train.data.io.frame_files import read_file, video_frame
from scal3r_train.data.io.image_codec import decode_image, decode_mask
from scal3r_train.data.sequence import PackedFrames, SequenceRecord
from scal3r_train.notes import answer
from scal3r_train.parallel.claimed_output import claimed, whole_folder

ROWS_PER_GROUP = 16
NUM_THREADS = min(8, os.cpu_count() or 1)  # that read and decode; the decoders let go of Python's lock
Row: TypeAlias = dict[str, Any]
Map: TypeAlias = Callable[
    [Callable[[int], tuple[Row, list[str]]], Iterable[int]], Iterable[tuple[Row, list[str]]]
]
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

    allow_outside: bool = Field(
        False,
        description="also pack images, depth and masks that lie outside of their sequence's root, by path or by "
        "link; an index from elsewhere could name anything of yours",
    )
    file_megabytes: int = Field(
        500, gt=0, description="a new file begins after the sequence that exceeds this [MB]"
    )


def main(path: str | os.PathLike[str], output: str | os.PathLike[str], overrides: Sequence[str] = ()) -> int:
    """Pack an index and all files that it names into the new folder `output`; returns 0.

    A file that cannot be read, or is not the image, depth map or mask that the index says, is left out, named and
    counted. Raises UserError when the index cannot be read, `output` exists, a sequence consists of video frames or
    names a file outside of its root.
    """
    settings = load_config(PackSettings, None, overrides)
    output = Path(output)
    if output.exists():
        raise UserError(f"{output} exists already; name a new folder")
    index = load_index(path)
    for row in range(len(index)):  # before hours of packing
        _refuse_video(index[row])
        if not settings.allow_outside:
            refuse_outside(index[row])
    with claimed(output, "folder", is_folder=True):
        unreadable = _pack(index, output, settings)
    _say_result(output, index, unreadable)
    return 0


def _pack(index: SequenceIndex, output: Path, settings: PackSettings) -> Sequence[str]:
    """Write the folder, whole or not at all; return the files that could not be read."""
    with whole_folder(output) as temporary:
        packer = _Packer(temporary, settings.file_megabytes * 1_000_000)
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            records = [
                packer.add(index[row], threads.map) for row in progress(range(len(index)), len(index), "pack")
            ]
        packer.close()
        write_index(temporary / "index.parquet", records)
        write_text_atomically(temporary / "README.md", dataset_card(output.name, index, FRAME_FEATURES))
    return packer.unreadable


class _Packer:
    """Writes sequences one after another, each whole in one file."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.unreadable: list[str] = []
        self._folder, self._max_bytes = folder, max_bytes
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._name, self._num_files, self._num_rows, self._num_bytes = "", 0, 0, 0

    def add(self, record: SequenceRecord, each: Map = map) -> SequenceRecord:
        """Write a sequence and return the record that finds it again; `each` is `map`, of threads for instance."""
        if self._writer is None:
            self._begin_file()
        assert self._writer is not None
        first_row = self._num_rows
        for begin in range(0, record.num_frames, ROWS_PER_GROUP):
            frames = range(begin, min(begin + ROWS_PER_GROUP, record.num_frames))
            rows, faults = zip(*each(partial(_row, record), frames), strict=True)
            self._num_bytes += sum(_num_bytes(row) for row in rows)
            self.unreadable += [fault for some in faults for fault in some]
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


def _row(record: SequenceRecord, frame: int) -> tuple[Row, list[str]]:
    """Return a frame's row, and why a file of it is left out."""
    contents: dict[str, bytes | None] = {}
    faults = []
    for column in FILE_COLUMNS:
        try:
            contents[column] = _content(record, frame, column)
        except UserError as error:
            contents[column] = None
            faults.append(str(error))
    image = {"bytes": contents.pop("image"), "path": Path(record.image[frame]).name}
    return {"sequence_id": record.sequence_id, "frame": frame, "image": image, **contents}, faults


def _content(record: SequenceRecord, frame: int, column: str) -> bytes | None:
    """Return the bytes of a file once they are known to be what the index says; None without one."""
    names = vars(record)[column]
    if not names or not names[frame]:
        return None
    content = read_file(record, names[frame])
    _decode(record, frame, column, content)
    return content


def _num_bytes(row: Row) -> int:
    cells = (row["image"]["bytes"], *(row[column] for column in FILE_COLUMNS[1:]))
    return sum(len(cell) for cell in cells if cell is not None)


def _decode(record: SequenceRecord, frame: int, column: str, content: bytes) -> None:
    """Raise UserError unless a file holds what its column says: nothing else of this machine is to be published."""
    name, hw = record.root / vars(record)[column][frame], tuple(record.image_size[frame].tolist())
    if column == "image":
        decode_image(content, name)
    elif column == "depth":
        decode_depth(content, record.depth_codec, name, (hw[0], hw[1]))
    else:
        decode_mask(content, vars(record)[f"{column}_rule"], name)


def refuse_outside(record: SequenceRecord) -> None:
    """Raise UserError when a sequence names a file that lies, by its path or by a link, outside of its root.

    An index that somebody else wrote could name any file of this machine. Every folder is resolved once.
    """
    if record.packed is not None:
        return
    root, folders = record.root.resolve(), dict[str, Path]()
    for column in FILE_COLUMNS:
        for name in filter(None, vars(record)[column]):
            folder, _, file = str(record.root / name).rpartition("/")
            place = folders.setdefault(folder, Path(folder).resolve()) / file
            if file in ("", ".", "..") or place.is_symlink():
                place = place.resolve()
            if not place.is_relative_to(root):
                raise UserError(
                    f"{record.sequence_id}: {column} {name} lies outside of the sequence's root {root}, at {place}; "
                    "see that it is meant to be published, then add allow_outside=true"
                )


def _refuse_video(record: SequenceRecord) -> None:
    if any(video_frame(record, name) for name in record.image[:1]):
        raise UserError(f"{record.sequence_id} consists of frames of a video; extract them to a folder first")


def _say_result(output: Path, index: SequenceIndex, unreadable: Sequence[str]) -> None:
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e9
    answer(f"{output}: {len(index)} sequences, {sum(index.num_frames)} frames, {size:.2f} GB")
    if unreadable:
        answer(f"{len(unreadable)} files could not be read, first: {unreadable[0]}")
