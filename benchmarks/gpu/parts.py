"""The parts of the GPU day, what is worth most first, and the columns of their tables."""

from __future__ import annotations

from benchmarks.gpu.part import Part

MEMORY = {"peak_gib": "most in tensors, GiB", "reserved_gib": "most taken from the device, GiB"}
NOTE = {"note": ""}
STEPS = {
    "frames": "frames",
    "checkpointing": "checkpointing",
    "compile": "compile",
    "step_ms": "step, ms",
    "tokens_per_s": "tokens/s",
    "tflops": "TFLOP/s",
    "mfu_percent": "MFU, %",
    "of_gemm_percent": "of the measured product, %",
    **MEMORY,
    "first_step_s": "first step, s",
    **NOTE,
}
RECONSTRUCTION = {
    "schedule": "schedule",
    "state": "state",
    "precision": "precision",
    "frames": "frames",
    "chunks": "chunks",
    "seconds": "s",
    "frames_per_s": "frames/s",
    **MEMORY,
    "state_gib": "state kept, GiB",
    "moved_gib": "state moved, GiB",
    "frames_per_pass": "frames a pass",
    **NOTE,
}
FULL = "518 x 392, bf16, one chunk, blocks and losses of the paper"

PARTS = (
    Part("machine", "The machine", "benchmarks.gpu.machine:measure", 60, {"what": "what", "value": "value"}),
    Part(
        "goldens",
        "Recorded tensors of the network, recomputed in float32 without TensorFloat-32",
        "benchmarks.gpu.goldens:measure",
        60,
        {
            "golden": "golden",
            "tensors": "tensors",
            "beyond": "beyond the tolerance between CPUs",
            "of_tolerance": "furthest, of its tolerance",
            "worst": "which",
            **NOTE,
        },
    ),
    Part("steps", f"A training step ({FULL})", "benchmarks.gpu.training_steps:measure", 100, STEPS),
    Part(
        "stores",
        "Reconstruction, 60 frames a chunk, 30 shared, 518 x 392: state stores, and the reference",
        "benchmarks.gpu.reconstruction:measure_stores",
        150,
        RECONSTRUCTION,
    ),
    Part(
        "memory_share",
        "Share of the memories of a training step (blocks)",
        "benchmarks.gpu.memory_unit:measure_share",
        70,
        {
            "frames": "frames",
            "precision": "float32 products",
            "step_ms": "step, ms",
            "without_ms": "without memories, ms",
            "share_percent": "share, %",
        },
    ),
    Part(
        "memory_speed",
        "A memory's write and read against their matrix products alone",
        "benchmarks.gpu.memory_unit:measure_utilisation",
        60,
        {
            "part": "part",
            "frames": "frames",
            "precision": "precision",
            "ms": "ms",
            "tflops": "TFLOP/s",
            "gemm_tflops": "products alone, TFLOP/s",
            "of_gemm_percent": "utilisation, %",
        },
    ),
    Part(
        "lengths",
        "Reconstruction: length of the video",
        "benchmarks.gpu.reconstruction:measure_lengths",
        230,
        RECONSTRUCTION,
    ),
    Part(
        "compiled",
        f"A training step with compiled blocks ({FULL})",
        "benchmarks.gpu.training_steps:measure_compiled",
        150,
        STEPS,
    ),
    Part(
        "frames",
        "Most frames in one chunk whose training step fits",
        "benchmarks.gpu.most_frames:measure",
        200,
        {"checkpointing": "checkpointing", "frames": "frames", "too_many": "too many", **MEMORY},
    ),
    Part(
        "traffic",
        "Copies between host and device, and waits of the host",
        "benchmarks.gpu.traffic:measure",
        90,
        {
            "of": "each",
            "copies": "copies",
            "memory": "host memory",
            "count": "count",
            "mib": "MiB",
            "ms": "ms",
            "beside_kernels_percent": "beside kernels, %",
            "host_waits": "waits",
            "numbers_read": "numbers read",
            "kernels_ms": "kernels, ms",
        },
    ),
)
