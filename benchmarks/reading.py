"""How fast training frames are read, against plain OpenCV, on JPEG + 16-bit PNG files; and a reader's memory.

    python -m benchmarks.reading                              # made-up files
    python -m benchmarks.reading --index kitchen.parquet      # frames with depth of an index
    python -m benchmarks.reading --samples 10000              # memory of a reading process over that many samples

All variants read the same files in turn, in one process with one thread; times are processor time per frame.
`opencv` is cv2.imread of image and depth and nothing else. `decode` is what the pipeline does up to upright pixels and
metres (data/io/frame_io.py); `pipeline` goes on to cropped, resized and coloured tensors of 518 x 392
(data/window.py).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch

from benchmarks.findings import Findings, add_json_option
from scal3r_train.data.augmentation import AugmentationSettings, WindowLook
from scal3r_train.data.dataset import StepDataset, step_loader
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.io.frame_io import read_pixels
from scal3r_train.data.io.reading_process import keep_freed_memory
from scal3r_train.data.sampling.curriculum import CurriculumSettings, Resolution
from scal3r_train.data.sampling.plan import RankPlan, Source, plan_step
from scal3r_train.data.sampling.sources import DataSettings, SourceSettings, open_sources
from scal3r_train.data.sequence import SequenceBatch, SequenceRecord
from scal3r_train.data.window import read_window

SIZE = (392, 518)
LOOK = AugmentationSettings(max_zoom=1.3, colour_jitter=0.3, per_frame_probability=0.3, grey_probability=0.05)
NUM_FILES, FILE_HW = 64, (480, 640)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=Path, help="default: made-up files of 640 x 480")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--samples", type=int, default=0, help="measure memory over this many samples instead"
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # for all variants, as reading processes do
    with tempfile.TemporaryDirectory() as folder:
        index = options.index or make_index(Path(folder))
        if options.samples:
            print_memory(index, options.samples)
        else:
            print_speed(load_index(index)[0], options.rounds).save(options.json)


def print_speed(record: SequenceRecord, rounds: int) -> Findings:
    """Print frames per second of each variant and ratios to plain OpenCV, and return these as ratios of times."""
    findings = Findings()
    frames = [frame for frame, name in enumerate(record.depth) if name][:NUM_FILES]
    look = WindowLook.draw(LOOK, 1)
    variants: dict[str, Callable[[], object]] = {
        "opencv": lambda: _each(frames, partial(_opencv, record)),
        "decode": lambda: _each(frames, lambda frame: read_pixels(record, frame, SIZE)),
        "pipeline": lambda: read_window(record, frames, SIZE, look, read_pixels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            began = time.process_time()
            variant()
            if number:  # the first round warms up
                seconds[name].append((time.process_time() - began) / len(frames))
    height, width = record.image_size[0]
    print(f"{len(frames)} frames of {width}x{height} of {record.dataset}, {rounds} rounds, one thread")
    for name, times in seconds.items():
        ratios = [plain / own for plain, own in zip(seconds["opencv"], times, strict=True)]
        if name != "opencv":
            findings.time[f"{name} / opencv"] = 1 / statistics.median(ratios)
        print(
            f"{name:9s} {1 / statistics.median(times):7.1f} frames/s per core, "
            f"{statistics.median(ratios):.3f} of OpenCV's speed ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    shares = [part / whole for part, whole in zip(seconds["decode"], seconds["pipeline"], strict=True)]
    print(f"decoding is {statistics.median(shares):.0%} of the pipeline's time")
    return findings


def print_memory(index: Path, num_samples: int) -> None:
    """Print the memory of a reading process while it makes samples: all, and what it shares with nobody."""
    settings = DataSettings(sources=(SourceSettings(index=str(index)),), augmentation=LOOK, deny_list="off")
    curriculum = CurriculumSettings(
        chunk_size={4: 1.0},
        overlap={1: 1.0},
        resolution=tuple(Resolution(height=h, width=w) for h, w in ((392, 518), (518, 392), (168, 518))),
    )
    indexes, sources = open_sources(settings)
    dataset = StepDataset(indexes, partial(plan_of_rank, curriculum, sources), settings)
    memory: dict[str, list[float]] = {"resident": [], "own": []}
    worker: psutil.Process | None = None
    for number, batch in enumerate(step_loader(dataset, range(num_samples), num_workers=1)):
        assert isinstance(batch, SequenceBatch), batch
        if worker is None:
            (worker,) = psutil.Process().children()
        if number % max(num_samples // 100, 1) == 0:
            now = worker.memory_full_info()
            memory["resident"].append(now.rss / 2**20)
            memory["own"].append(now.uss / 2**20)
    print(f"{num_samples} samples of 4 frames; medians over the second and the last tenth of them")
    for name, values in memory.items():
        tenth = len(values) // 10
        first, last = statistics.median(values[tenth : 2 * tenth]), statistics.median(values[-tenth:])
        print(f"{name:9s} {first:7.1f} MiB, then {last:7.1f} MiB: {last / first - 1:+.1%}")


def plan_of_rank(curriculum: CurriculumSettings, sources: list[Source], step: int) -> RankPlan:
    """Return the plan of a run on one rank."""
    return plan_step(curriculum, sources, 0, step, 1).for_rank(0)


def make_index(folder: Path) -> Path:
    """Write pictures with as much detail as photographs have, and depth as smooth and noisy as a sensor's."""
    rng = np.random.default_rng(0)
    num = NUM_FILES
    for i in range(num):
        octaves = [rng.normal(size=(FILE_HW[0] >> n, FILE_HW[1] >> n, 3)) * 2.0**n for n in range(6)]
        picture = sum(cv2.resize(octave, FILE_HW[::-1], interpolation=cv2.INTER_CUBIC) for octave in octaves)
        cv2.imwrite(
            str(folder / f"{i}.jpg"), np.clip(128 + 2.5 * np.asarray(picture), 0, 255).astype(np.uint8)
        )
        smooth = cv2.resize(rng.uniform(800, 4000, (12, 16)), FILE_HW[::-1], interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(folder / f"{i}.png"), np.rint(smooth + rng.normal(size=FILE_HW)).astype(np.uint16))
    record = SequenceRecord(
        dataset="made up", sequence_id="one", root=folder, image=tuple(f"{i}.jpg" for i in range(num)),
        image_size=np.array([FILE_HW] * num), timestamp=np.arange(num, dtype=float),
        depth=tuple(f"{i}.png" for i in range(num)), depth_codec="uint16_mm", camera_model="pinhole",
        intrinsics=np.array([[525.0, 525, 319.5, 239.5]] * num), cam_from_world=np.tile(np.eye(4)[:3], (num, 1, 1)),
    )  # fmt: skip
    write_index(folder / "index.parquet", [record])
    return folder / "index.parquet"


def _each(frames: Sequence[int], read: Callable[[int], object]) -> None:
    """Read frames without keeping them, as a reader does: memory that is new costs more than memory that is free."""
    for frame in frames:
        read(frame)


def _opencv(record: SequenceRecord, frame: int) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.imread(str(record.root / record.image[frame]), cv2.IMREAD_COLOR_RGB)
    return image, cv2.imread(str(record.root / record.depth[frame]), cv2.IMREAD_UNCHANGED)


if __name__ == "__main__":
    main()
