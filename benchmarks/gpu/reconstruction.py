"""Reconstruction at full size: frames a second and the device's memory, by state store and by length of the video.

What runs is the network pass of `scal3r reconstruct` (inference/network/): random images that need no decoding come in,
predictions go to the host and are let go. Alignment and files are not part of it.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.device_memory import GIB, peaks, restart_peaks
from benchmarks.gpu.part import Day
from benchmarks.gpu.precision import float32_products
from benchmarks.layer_by_layer import LayerByLayer
from benchmarks.random_step import random_model
from scal3r_train.inference.chunking import ScheduleSettings, StoreKind
from scal3r_train.inference.network.chunk_runner import ChunkRunner, Precision
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.network.state_store import STORES, open_store
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel

POOL = 4  # different chunks of random images
NEEDED = ("camera", "depth")


def measure_stores(day: Day) -> None:
    """Record the four stores on one video, and in float32 the layer-by-layer reference and the schedule."""
    model, pool = prepared(day)
    for store in STORES[:-1]:
        row = reconstruct(day, model, pool, day.size.store_chunks, store, "bfloat16")
        day.record(schedule="segments", **row)
    with float32_products("float32"):
        day.record(schedule="layer by layer", **reference(day, model, pool))
        row = reconstruct(day, model, pool, day.size.reference_chunks, "host", "float32")
        day.record(schedule="segments", **row)
    last = reconstruct(day, model, pool, day.size.store_chunks, STORES[-1], "bfloat16")  # takes the longest
    day.record(schedule="segments", **last)


def measure_lengths(day: Day) -> None:
    """Record videos of several lengths with their states on the host; what would end too late is left out."""
    model, pool = prepared(day)
    seconds_per_chunk = 0.0
    for num_frames in day.size.video_frames:
        num_chunks = day.size.num_chunks(num_frames)
        expected = seconds_per_chunk * num_chunks
        if expected > day.seconds_left:
            day.record(schedule="segments", frames=num_frames, note=f"left out: would take {expected:.0f} s")
            continue
        row = reconstruct(day, model, pool, num_chunks, "host", "bfloat16")
        seconds_per_chunk = 1.1 * row["seconds"] / num_chunks
        day.record(schedule="segments", **row)


def prepared(day: Day) -> tuple[Scal3RModel, list[Tensor]]:
    """Return the network, which has run once, and some chunks of random images, [S, 3, H, W] uint8."""
    device = torch.device(day.device)
    model = random_model(Scal3RConfig(**day.size.network), device).requires_grad_(requires_grad=False).eval()
    generator = torch.Generator().manual_seed(1)
    shape = (day.size.chunk, 3, *day.size.image_hw)
    pool = [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in range(POOL)]
    reconstruct(day, model, pool, 1, "device", "bfloat16")
    return model, pool


def reconstruct(
    day: Day,
    model: Scal3RModel,
    pool: list[Tensor],
    num_chunks: int,
    store_kind: StoreKind,
    precision: Precision,
) -> dict[str, float]:
    """Run the segment schedule over so many chunks and return its row."""
    device = next(model.parameters()).device
    restart_peaks(device)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(store_kind, device, Path(folder))
        began = time.perf_counter()
        schedule = SegmentSchedule(
            ChunkRunner(model, "depth", precision),
            lambda chunk: pool[chunk % POOL],
            store,
            ScheduleSettings().frames_per_pass,
        )
        schedule.run(range(num_chunks), lambda _number, _prediction: None)
        row = finished(day, num_chunks, began)
    return {
        "state": store_kind,
        "precision": precision,
        **row,
        "state_gib": round(store.peak_bytes / GIB, 3),
        "moved_gib": round(store.moved_bytes / GIB, 3),
        "frames_per_pass": schedule.frames_per_pass,
    }


@torch.no_grad()
def reference(day: Day, model: Scal3RModel, pool: list[Tensor]) -> dict[str, float | str]:
    """Run the reference implementation once, in float32 without TensorFloat-32, and return its row."""
    restart_peaks(torch.device(day.device))
    model.set_frames_per_pass(None)
    schedule = LayerByLayer(model)
    began = time.perf_counter()
    schedule.predict([pool[chunk % POOL] for chunk in range(day.size.reference_chunks)], NEEDED)
    return {
        "state": "host",
        "precision": "float32",
        **finished(day, day.size.reference_chunks, began),
        "state_gib": round(schedule.peak_state_bytes / GIB, 3),
        "moved_gib": round(schedule.moved_bytes / GIB, 3),
    }


def finished(day: Day, num_chunks: int, began: float) -> dict[str, float]:
    """Return length, time and memory of a run over so many chunks that has just ended."""
    device = torch.device(day.device)
    memory = peaks(device)  # waits for the device
    seconds, num_frames = time.perf_counter() - began, day.size.num_frames(num_chunks)
    return {
        "frames": num_frames,
        "chunks": num_chunks,
        "seconds": round(seconds, 3),
        "frames_per_s": round(num_frames / seconds, 2),
        **memory,
    }
