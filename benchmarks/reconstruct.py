"""The segment schedule against its layer-by-layer reference, side by side, and how it grows with the length of a video.

python -m benchmarks.reconstruct                     small configuration: time, state bytes, bytes moved, difference
python -m benchmarks.reconstruct --full              the released size, bfloat16; needs a CUDA device
python -m benchmarks.reconstruct --growth            100, 400, 1,600 and 6,400 frames, stores disk and recompute
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.clock import mark, median, ratio, seconds_between, take_turns
from benchmarks.findings import Findings, add_json_option
from benchmarks.layer_by_layer import LayerByLayer
from scal3r_train.config import load_config
from scal3r_train.inference.chunking import StoreKind
from scal3r_train.inference.network.chunk_runner import ChunkRunner, Precision
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.network.state_store import open_store
from scal3r_train.inference.prediction import ChunkPrediction, PointSource
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel

MIB, GIB = 2**20, 2**30
NEEDED, ALL_HEADS = ("camera", "depth"), ("camera", "depth", "points")
GROWTH_FRAMES = (100, 400, 1600, 6400)


def small_config() -> Scal3RConfig:
    """The released shape at an eighth of its width and half of its depth."""
    return Scal3RConfig(
        image_size=112, hidden_size=128, num_layers=12, num_heads=4, patch_encoder="conv",
        tap_layers=[2, 5, 8, 11], memory_layers=[7, 8, 10, 11], camera_heads=4, camera_layers=2,
        dpt_features=32, dpt_channels=[32, 64, 128, 128],
    )  # fmt: skip


def tiny_config() -> Scal3RConfig:
    """As small as a network with two memories gets: what is measured is everything around it."""
    return Scal3RConfig(
        hidden_size=32, num_layers=2, num_heads=2, patch_encoder="conv", tap_layers=[0, 0, 1, 1],
        memory_layers=[0, 1], camera_heads=2, camera_layers=1, camera_iterations=2, dpt_features=8,
        dpt_channels=[8, 8, 8, 8], dpt_refine_channels=8,
    )  # fmt: skip


def random_model(config: Scal3RConfig, device: torch.device) -> Scal3RModel:
    """Seeded weights, with cameras that have an opening angle."""
    torch.manual_seed(0)
    with device:
        model = Scal3RModel(config)
    with torch.no_grad():
        assert model.camera_head is not None
        torch.nn.init.normal_(model.camera_head.pose_branch.fc2.weight, std=0.02)
    return model.requires_grad_(requires_grad=False).eval().to(device)


def random_chunks(num_chunks: int, num_frames: int, image_hw: tuple[int, int]) -> list[Tensor]:
    """Noise images."""
    generator = torch.Generator().manual_seed(1)
    size = (num_frames, 3, *image_hw)
    return [torch.randint(0, 256, size, generator=generator, dtype=torch.uint8) for _ in range(num_chunks)]


def segment_variant(
    model: Scal3RModel, chunks: list[Tensor], points: PointSource, precision: Precision, store_kind: StoreKind
) -> Callable[[], dict[str, float]]:
    """The segment schedule as something to be timed."""

    def run() -> dict[str, float]:
        device = next(model.parameters()).device
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(store_kind, device, Path(folder))
            begin = mark(device)
            schedule = SegmentSchedule(ChunkRunner(model, points, precision), chunks.__getitem__, store, 16)
            schedule.run(range(len(chunks)), lambda _number, _prediction: None)
            seconds = seconds_between(begin, mark(device))
        return {"s": seconds, "state": store.peak_bytes, "moved": store.moved_bytes}

    return run


def reference_variant(
    model: Scal3RModel, chunks: list[Tensor], heads: tuple[str, ...]
) -> Callable[[], dict[str, float]]:
    """The reference implementation as something to be timed."""

    def run() -> dict[str, float]:
        device = next(model.parameters()).device
        model.set_frames_per_pass(None)
        reference = LayerByLayer(model)
        begin = mark(device)
        reference.predict(chunks, heads)
        return {
            "s": seconds_between(begin, mark(device)),
            "state": reference.peak_state_bytes,
            "moved": reference.moved_bytes,
        }

    return run


def largest_difference(first: ChunkPrediction, second: ChunkPrediction) -> float:
    """Largest difference of depth and cameras, relative to the largest value."""
    pairs = [(first.depth, second.depth), (first.extrinsics, second.extrinsics)]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def compare_stores(model: Scal3RModel, chunks: list[Tensor], device: torch.device) -> None:
    """Print, for every store, how far float32 is from the reference."""
    model.set_frames_per_pass(None)
    reference = LayerByLayer(model).predict(chunks, NEEDED)
    for store in ("device", "host", "disk", "recompute"):
        found: dict[int, ChunkPrediction] = {}
        with tempfile.TemporaryDirectory() as folder:
            store_object = open_store(store, device, Path(folder))
            schedule = SegmentSchedule(
                ChunkRunner(model, "depth", "float32"), chunks.__getitem__, store_object, 16
            )
            begin = time.perf_counter()
            schedule.run(range(len(chunks)), found.__setitem__)
            seconds = time.perf_counter() - begin
        worst = max(largest_difference(found[k], reference[k]) for k in found)
        moved = store_object.moved_bytes / len(chunks) / MIB
        print(
            f"store {store:9s} float32: differs from the reference by {worst:.1e}, {seconds:.2f} s, "
            f"state {store_object.peak_bytes / MIB:.1f} MiB, moved {moved:.1f} MiB a chunk"
        )


def compare_times(
    model: Scal3RModel, chunks: list[Tensor], device: torch.device, num_rounds: int, *, full: bool
) -> Findings:
    """Print time, state and traffic of both schedules; return time and state relative to the reference's."""
    findings = Findings()
    variants = {
        "layer by layer, all heads": reference_variant(model, chunks, ALL_HEADS),
        "layer by layer, camera and depth": reference_variant(model, chunks, NEEDED),
        "segments, all heads": segment_variant(model, chunks, "head", "float32", "host"),
        "segments, camera and depth": segment_variant(model, chunks, "depth", "float32", "host"),
        "segments, camera and depth, bfloat16": segment_variant(model, chunks, "depth", "bfloat16", "host"),
    }
    if full:  # half a petaflop a chunk: float32 without tensor cores is measured once, layer by layer
        reduced = [
            (k, segment_variant(model, chunks, "depth", "bfloat16", k)) for k in ("device", "host", "disk")
        ]
        variants = {"layer by layer, all heads": variants["layer by layer, all heads"]}
        variants |= {f"segments, bfloat16, state on {kind}": variant for kind, variant in reduced}
    runs = take_turns(variants, num_rounds)
    of_reference = runs["layer by layer, all heads"]
    for name, results in runs.items():
        times = ratio(results, of_reference, "s")
        state = median(results, "state")
        if results is not of_reference:
            findings.time[f"{name} / reference"] = times[0]
            findings.bytes[f"{name}: state / reference"] = state / median(of_reference, "state")
        moved = median(results, "moved") / len(chunks) / MIB
        relative = f"({times[0]:.2f}; {times[1]:.2f}-{times[2]:.2f} of the reference)"
        print(
            f"{name:38s} {median(results, 's'):8.3f} s {relative}  "
            f"state {state / MIB:9.1f} MiB ({state / median(of_reference, 'state'):.3f})  "
            f"moved {moved:8.1f} MiB a chunk"
        )
    if device.type == "cuda":
        print(f"device memory: peak {torch.cuda.max_memory_allocated() / GIB:.1f} GiB of all runs together")
    return findings


def growth_worker(num_frames: int, store: StoreKind) -> None:
    """Reconstruct a made-up video in this process and print what it took as JSON."""
    from scal3r_train.inference.reconstruct import reconstruct
    from scal3r_train.inference.settings import ReconstructionRecipe

    model = random_model(tiny_config(), torch.device("cpu"))
    overrides = [
        f"schedule.state={store}", "schedule.chunk_size=20", "schedule.overlap=10", "input.resize.size=42",
        "export.max_points=20000", "export.voxel_size=0", "export.report=false", "input.cache_gib=0.005",
    ]  # fmt: skip
    recipe = load_config(ReconstructionRecipe, None, overrides)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        folder.mkdir()
        random = np.random.default_rng(0)
        scenery = random.integers(0, 256, (63, 400, 3), np.uint8)
        for frame in range(num_frames):
            place = frame % 300
            Image.fromarray(scenery[:, place : place + 90]).save(folder / f"{frame:05d}.jpg")
        begin, cpu_begin = time.perf_counter(), time.process_time()
        scene = reconstruct(folder, model, recipe, Path(name) / "scene")
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    assert scene is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "s": seconds,
                "cpu_s": cpu_seconds,
                "rss": peak,
                "chunks": len(scene.info.chunks),
                "stages": scene.info.timings_s,
            }
        )
    )


def growth(num_rounds: int) -> None:
    """Print time per frame and peak memory for longer and longer videos, each in a process of its own."""
    for store in ("disk", "recompute"):
        for num_frames in GROWTH_FRAMES:
            runs = []
            for _ in range(num_rounds):
                command = [sys.executable, "-m", "benchmarks.reconstruct", "--worker", str(num_frames), store]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
            seconds, cpu, rss = (statistics.median(run[key] for run in runs) for key in ("s", "cpu_s", "rss"))
            wall_ms, cpu_ms = (1000 * value / num_frames for value in (seconds, cpu))
            print(
                f"{store:9s} {num_frames:5d} frames, {runs[0]['chunks']:4d} chunks: {wall_ms:6.2f} ms a frame, "
                f"{cpu_ms:6.2f} ms of CPU time, peak RSS {rss / MIB:6.0f} MiB  {runs[-1]['stages']}",
                flush=True,
            )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=2, metavar=("FRAMES", "STORE"))
    add_json_option(parser)
    arguments = parser.parse_args()
    if arguments.worker:
        growth_worker(int(arguments.worker[0]), arguments.worker[1])
    elif arguments.growth:
        growth(arguments.rounds)
    elif arguments.full:
        device = torch.device("cuda")
        print(torch.cuda.get_device_name(), torch.__version__)
        model = random_model(Scal3RConfig(), device)
        compare_stores(model, random_chunks(3, 12, (392, 518)), device)
        chunks = random_chunks(arguments.chunks or 3, 60, (392, 518))
        compare_times(model, chunks, device, arguments.rounds, full=True).save(arguments.json)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = random_model(small_config(), device)
        chunks = random_chunks(arguments.chunks or 6, 12, (112, 168))
        compare_stores(model, chunks, device)
        compare_times(model, chunks, device, arguments.rounds, full=False).save(arguments.json)


if __name__ == "__main__":
    main()
