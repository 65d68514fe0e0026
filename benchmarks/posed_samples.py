"""The shared samples through `posed` and through their own adapters: what differs between the two index rows.

    python -m benchmarks.posed_samples ../shared/data

prints a table: frames, images left out, depth maps, and the largest difference of every number in the rows.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from scal3r_data_tools import index
from scal3r_train.data.index.index import load_index
from scal3r_train.data.sequence import SequenceRecord

EXACT = ("depth_codec", "camera_model", "pixel_centre", "num_missing", "is_metric", "max_depth")
NUMBERS = ("image_size", "timestamp", "intrinsics", "distortion", "cam_from_world")


@dataclass(frozen=True)
class Sample:
    """One sample: its own adapter, the folders that either is given below the samples, and options of `posed`."""

    adapter: str
    own_source: str
    posed_source: str
    options: tuple[str, ...]


SAMPLES = {
    "game_loop": Sample(
        "game_loop", "game_loop", "game_loop", ("depth_codec=uint16_cm", "pixel_centre=integer")
    ),
    "7-Scenes kitchen": Sample(
        "seven_scenes",
        "seven_scenes_kitchen",
        "seven_scenes_kitchen",
        ("depth_codec=uint16_mm", "fps=30", "max_depth_m=10"),
    ),
    "KITTI 04": Sample(
        "kitti_odometry",
        "kitti_odometry",
        "kitti_odometry/sequences/04",
        ("poses=../../poses/04.txt", "pixel_centre=integer"),
    ),
    "TUM fr2_desk": Sample(
        "tum",
        "tum_fr2_desk",
        "tum_fr2_desk",
        (
            "intrinsics=520.9 521.0 325.1 249.7",
            "camera_model=opencv",
            "distortion=[0.2312,-0.7849,-0.0033,-0.0001,0.9172]",
            "pixel_centre=integer",
            "max_depth_m=10",
        ),
    ),
    "fox": Sample("nerfstudio", "fox", "fox", ("camera_axes=opengl", "camera_model=opencv")),
}


def rows_of(sample: Sample, data: Path, folder: Path) -> tuple[SequenceRecord, SequenceRecord]:
    """Return the index row by the sample's own adapter, and that by `posed`; indexes are written into a folder."""
    source, options = data / sample.posed_source, [*sample.options, "is_metric=true"]
    own_options = ["is_metric=true"] if sample.adapter == "nerfstudio" else []
    if sample.adapter == "nerfstudio":
        source, own = _as_posed(source, folder / sample.posed_source)
        options += own
    assert index.main(sample.adapter, data / sample.own_source, folder / "own.parquet", own_options) == 0
    assert index.main("posed", source, folder / "posed.parquet", options) == 0
    return load_index(folder / "own.parquet")[0], load_index(folder / "posed.parquet")[0]


def differences(own: SequenceRecord, posed: SequenceRecord) -> dict[str, float]:
    """Return the largest difference of every field with numbers; 0 or infinity for fields that are equal or not."""
    found = {
        name: 0.0 if _files(own, name) == _files(posed, name) else float("inf") for name in ("image", "depth")
    }
    found |= {name: 0.0 if getattr(own, name) == getattr(posed, name) else float("inf") for name in EXACT}
    for name in NUMBERS:
        ours, theirs = getattr(own, name), getattr(posed, name)
        same_kind = (ours is None) == (theirs is None) and np.shape(ours) == np.shape(theirs)
        found[name] = (
            float("inf") if not same_kind else 0.0 if ours is None else float(np.abs(ours - theirs).max())
        )
    return found


def _files(record: SequenceRecord, name: str) -> list[Path]:
    return [(record.root / file).resolve() for file in getattr(record, name)]


def _as_posed(scene: Path, folder: Path) -> tuple[Path, list[str]]:
    """A transforms.json as images, a file of poses and options: what `posed` is for."""
    document = json.loads((scene / "transforms.json").read_text(encoding="utf-8"))
    folder.mkdir()
    (folder / "images").symlink_to(scene / "images")
    poses = {frame["file_path"]: frame["transform_matrix"] for frame in document["frames"]}
    (folder / "poses.json").write_text(json.dumps(poses), encoding="utf-8")
    numbers = " ".join(repr(document[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    lens = [document[key] for key in ("k1", "k2", "p1", "p2")]
    return folder, [f"intrinsics={numbers}", f"distortion={[*lens, 0.0]}", "times=none"]


def main(arguments: list[str]) -> int:
    """Print the table for the samples below a folder; returns 1 when a row differs."""
    data, all_equal = Path(arguments[0]).resolve(), True
    lines = [
        "| sample | own adapter | frames | left out | depth maps | largest difference | rows |",
        "|" + " --- |" * 7,
    ]
    with TemporaryDirectory() as folder:
        for number, (name, sample) in enumerate(SAMPLES.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            own, posed = rows_of(sample, data, place)
            found = differences(own, posed)
            worst = max(found, key=lambda key: found[key])
            is_equal = found[worst] < 1e-9
            all_equal &= is_equal
            facts = (own.num_frames, own.num_missing, sum(map(bool, own.depth)))
            lines.append(
                f"| {name} | `{sample.adapter}` | {' | '.join(map(str, facts))} | {found[worst]:.1e} ({worst}) | "
                f"{'equal' if is_equal else 'DIFFERENT'} |"
            )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
