"""Drives of an index, such as rendered circuits, with stretches whose pictures show nothing or next to nothing.

Only hidden pictures are written, in black or in fog that follows from the depth; poses, intrinsics and depth stay
exact. A folder that is made here holds index.parquet and, for each sequence, a folder with its hidden pictures and
blackouts.txt; all other files are named where they lie. Training takes the drives of split `train` whole. Of those of
`test` and `val` windows are cut that do not overlap, and each is there three times: clear, with fog, in black.
Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image
from pydantic import Field

from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.index import SequenceIndex, load_index, write_index
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.frame_io import read_frame_depth, read_stored_image
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.synthetic.settings import draw_intervals, write_blackouts
from scal3r_train.parallel.claimed_output import claimed, whole_folder
from scal3r_train.text_file import read_file_bytes

KINDS = ("clear", "fog", "black")
HELD_OUT_SPLITS = ("test", "val")
MADE_FILE, INDEX_FILE = "drives.json", "index.parquet"
BLACK_FILE = "black.png"
FOG_BRIGHTNESS = (0.55, 0.9)
PNG_COMPRESSION = 1


class DriveSettings(StrictModel):
    """Which drives there are and how often their pictures are hidden."""

    index: Path = Field(
        description="index of the drives: those of split train are trained on, those of test and val held out"
    )
    seed: int = Field(0, ge=0, description="seed of where pictures are hidden, and by what [-]")
    blackout_every: int = Field(
        48, gt=1, description="one black-out in each so many frames, at least one in a sequence [frames]"
    )
    blackout_frames: int = Field(
        12, gt=0, description="length of a black-out, at most half of its part of the sequence [frames]"
    )
    fog_share: float = Field(
        0.5, ge=0, le=1, description="share of the black-outs in training that are fog, not black [share]"
    )
    fog_distance: float = Field(
        0.08, gt=0, description="so far away 63 percent are hidden in such fog [scene units]"
    )


def make_training(settings: DriveSettings, folder: Path) -> int:
    """Write the training drives; returns how many. A folder that holds them already is left alone.

    Raises:
        UserError: the index has none, the folder holds something else, or a drive cannot be used.
    """
    index = load_index(settings.index)
    rows = [row for row, split in enumerate(index.column("split")) if split == "train"]
    if not rows:
        raise UserError(f"{settings.index} has no sequence of split train; name an index that has")

    def sequences() -> Iterator[tuple[SequenceRecord, dict[int, str]]]:
        for record in _checked(index, rows):
            rng = _generator(settings, record.sequence_id)
            hidden: dict[int, str] = {}
            for part in _blackouts(rng, settings, record.num_frames):
                kind = "fog" if rng.random() < settings.fog_share else "black"
                hidden |= dict.fromkeys(range(part.start, part.stop), kind)
            yield record, hidden

    _make(settings, folder, {"split": "train"}, sequences())
    return len(rows)


def make_held_out(settings: DriveSettings, folder: Path, chunks: int, num_frames: int, windows: int) -> int:
    """Write windows of the held-out drives, each clear, with fog and in black; returns how many windows.

    Args:
        settings: of the drives.
        folder: to write; one that holds the same already is left alone.
        chunks: of a window, for its name.
        num_frames: of a window.
        windows: the most of each drive, evenly spread; a drive that is too short has fewer or none.

    Raises:
        UserError: as `make_training`; no held-out drive is long enough.
    """
    index = load_index(settings.index)
    starts = {
        row: window_starts(index.num_frames[row], num_frames, windows)
        for row, split in enumerate(index.column("split"))
        if split in HELD_OUT_SPLITS
    }
    total = sum(map(len, starts.values()))
    if not total:
        raise UserError(
            f"{settings.index} has no sequence of split test or val with {num_frames} frames, for {chunks} chunks; "
            "leave that length out of held_out, or index longer drives"
        )

    def sequences() -> Iterator[tuple[SequenceRecord, dict[int, str]]]:
        for row in starts:
            if not starts[row]:
                continue
            (record,) = _checked(index, [row])
            for start in starts[row]:
                window = record.of_frames(range(start, start + num_frames))
                parts = _blackouts(
                    _generator(settings, f"{record.sequence_id} {start} {num_frames}"), settings, num_frames
                )
                frames = [frame for part in parts for frame in range(part.start, part.stop)]
                for kind in KINDS:
                    name = held_out_name(chunks, kind, record.sequence_id, start)
                    hidden = {} if kind == "clear" else dict.fromkeys(frames, kind)
                    yield replace(window, sequence_id=name), hidden

    wanted: dict[str, str | int] = {
        "split": "held out",
        "chunks": chunks,
        "num_frames": num_frames,
        "windows": windows,
    }
    _make(settings, folder, wanted, sequences())
    return total


def window_starts(total: int, num_frames: int, windows: int) -> list[int]:
    """Return where up to `windows` windows that do not overlap begin, evenly spread over `total` frames."""
    number = min(windows, total // num_frames)
    return [
        (total - num_frames * number) * (2 * i + 1) // (2 * number) + num_frames * i for i in range(number)
    ]


def held_out_name(chunks: int, kind: str, drive: str, start: int) -> str:
    """Return the name of a held-out window; `kind_of` and `drive_of` read it."""
    return f"{length_prefix(chunks)}{kind}/{drive}/{start:06d}"


def length_prefix(chunks: int) -> str:
    """Return how the names of all windows of so many chunks begin."""
    return f"{chunks:03d}/"


def kind_of(name: str) -> str:
    """Return how a window's hidden pictures are hidden, of KINDS."""
    return name.split("/")[1]


def drive_of(name: str) -> str:
    """Return the drive that a window was cut from."""
    return "/".join(name.split("/")[2:-1])


def in_fog(
    image: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray, distance: float, brightness: float
) -> np.ndarray:
    """Return a picture [H, W, 3] uint8 with fog before it.

    Light of a surface at distance r reaches the camera by a share of exp(-r / distance), the rest is the fog's grey.

    Args:
        image: [H, W, 3] uint8.
        depth: z [H, W]; what is not positive is sky or too far, and all fog.
        intrinsics: [4] fx fy cx cy in pixels, pixel centres at half integers.
        distance: at which 63 % are hidden, in the unit of depth.
        brightness: of the fog, in 0..1.
    """
    fx, fy, cx, cy = intrinsics
    x = (np.arange(depth.shape[1]) + 0.5 - cx) / fx
    y = (np.arange(depth.shape[0])[:, None] + 0.5 - cy) / fy
    share = np.where(depth > 0, np.exp(-depth * np.sqrt(1 + x * x + y * y) / distance), 0)[..., None]
    return np.rint(share * image + (1 - share) * 255 * brightness).astype(np.uint8)


def _make(
    settings: DriveSettings,
    folder: Path,
    wanted: dict[str, str | int],
    sequences: Iterator[tuple[SequenceRecord, dict[int, str]]],
) -> None:
    digest = hashlib.sha256(read_file_bytes(settings.index)).hexdigest()
    made_from = {"settings": settings.model_dump(mode="json"), "index_sha256": digest, **wanted}
    text = json.dumps(made_from, indent=1) + "\n"
    if folder.is_dir() and any(folder.iterdir()):
        made = folder / MADE_FILE
        if made.is_file() and made.read_text(encoding="utf-8") == text:
            return
        raise UserError(
            f"{folder} was made from another index or with other settings; remove it, or name another output_dir"
        )
    with claimed(folder, "folder", is_folder=True), whole_folder(folder) as partial:
        write_index(
            partial / INDEX_FILE,
            (_written(settings, partial, record, hidden) for record, hidden in sequences),
        )
        (partial / MADE_FILE).write_text(text, encoding="utf-8")


def _written(
    settings: DriveSettings, folder: Path, record: SequenceRecord, hidden: dict[int, str]
) -> SequenceRecord:
    """Write a sequence's hidden pictures (frame -> fog or black) and return its row."""
    target = folder / record.sequence_id
    target.mkdir(parents=True)
    brightness = _generator(settings, f"fog {record.sequence_id}").uniform(*FOG_BRIGHTNESS)
    image = list(_absolute(record, record.image))
    for frame, kind in hidden.items():
        name = f"fog_{frame:06d}.png" if kind == "fog" else BLACK_FILE
        image[frame] = name
        if kind == "fog":
            picture = _in_fog(settings, record, frame, brightness)
        elif not (target / name).exists():
            picture = np.zeros((*record.image_size[0], 3), np.uint8)
        else:
            continue
        Image.fromarray(picture).save(target / name, compress_level=PNG_COMPRESSION)
    write_blackouts(target, np.isin(np.arange(record.num_frames), list(hidden)))
    return replace(
        record,
        root=target,
        image=tuple(image),
        depth=_absolute(record, record.depth),
        mask=_absolute(record, record.mask),
        sky_mask=_absolute(record, record.sky_mask),
    )


def _in_fog(settings: DriveSettings, record: SequenceRecord, frame: int, brightness: float) -> np.ndarray:
    image, depth = read_stored_image(record, frame), read_frame_depth(record, frame)
    if depth is None or depth.shape != image.shape[:2]:
        raise UserError(
            f"{record.root / record.image[frame]}: fog needs depth of the picture's size; index drives that have it"
        )
    assert record.intrinsics is not None
    return in_fog(image, depth, record.intrinsics[frame], settings.fog_distance, brightness)


def _absolute(record: SequenceRecord, names: tuple[str, ...]) -> tuple[str, ...]:
    root = record.root.absolute()
    return tuple(str(root / name) if name else "" for name in names)


def _checked(index: SequenceIndex, rows: Sequence[int]) -> Iterator[SequenceRecord]:
    """Yield rows of the index. Raises UserError for one whose pictures cannot be replaced by others."""
    for row in rows:
        record = index[row]
        faults = {
            "its files are packed": record.packed is not None,
            "its frames are those of a video": video_frame(record, record.image[0]) is not None,
            "it has no depth": not record.depth,
            "it has no poses": record.cam_from_world is None,
            "its cameras are not upright pinholes with pixel centres at half integers": record.intrinsics
            is None
            or record.camera_model != "pinhole"
            or bool(record.quarter_turns)
            or record.pixel_centre != "half",
            "its pictures differ in size": bool((record.image_size != record.image_size[0]).any()),
        }
        for fault, holds in faults.items():
            if holds:
                raise UserError(f"{index.path}: {record.sequence_id} is no use to a study: {fault}")
        yield record


def _blackouts(rng: np.random.Generator, settings: DriveSettings, num_frames: int) -> list[slice]:
    number = max(1, round(num_frames / settings.blackout_every))
    return draw_intervals(rng, num_frames, number, settings.blackout_frames)


def _generator(settings: DriveSettings, name: str) -> np.random.Generator:
    """Return random numbers that are a function of the seed and a name alone."""
    return np.random.default_rng([settings.seed, crc32(name.encode())])
