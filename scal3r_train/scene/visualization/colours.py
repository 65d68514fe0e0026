"""Colours of chunks, confidences and verdicts, and which chunk every frame and every point is from.

Shapes: S frames, K chunks, N points.
"""

from __future__ import annotations

import colorsys

import numpy as np
from matplotlib import colormaps

from scal3r_train.scene.scene import Scene

UNKNOWN = -1
FIRST_HUE, LAST_HUE = 0.62, -0.08  # from blue over green to red
LIGHTNESS = (0.56, 0.44)  # of even and odd chunks, so that neighbours differ
SATURATION = 0.75
ACCEPTED, REJECTED, TRUTH = (34, 160, 107), (214, 69, 65), (235, 140, 30)
GREY = (140, 140, 140)
NUM_SHADES = 256


def chunk_of_frame(scene: Scene) -> np.ndarray:
    """Return [S] int32: the chunk that each frame's camera and points are from."""
    chunks = np.zeros(scene.info.num_frames, np.int32)
    for number, (start, stop) in enumerate(scene.info.provided_frames):
        chunks[start:stop] = number
    return chunks


def frame_of_point(scene: Scene) -> np.ndarray:
    """Return [N] int32: the frame that saw each point, UNKNOWN for scenes that do not say so."""
    counts = [UNKNOWN if frame.num_points is None else frame.num_points for frame in scene.frames]
    if min(counts, default=UNKNOWN) < 0 or sum(counts) != len(scene.positions):
        return np.full(len(scene.positions), UNKNOWN, np.int32)
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def chunk_colours(num_chunks: int) -> np.ndarray:
    """Return [K, 3] uint8 colours that run from blue to red along the video; legible on white and on black."""
    hues = np.linspace(FIRST_HUE, LAST_HUE, num_chunks) if num_chunks > 1 else [FIRST_HUE]
    rows = [
        colorsys.hls_to_rgb(hue % 1, LIGHTNESS[number % 2], SATURATION) for number, hue in enumerate(hues)
    ]
    return np.round(np.array(rows) * 255).astype(np.uint8).reshape(-1, 3)


def confidence_colours(confidence: np.ndarray) -> np.ndarray:
    """Return [N, 3] uint8: dark blue for the lowest confidences [N] over green to yellow for the highest, by rank."""
    if not len(confidence):
        return np.empty((0, 3), np.uint8)
    sample = np.sort(confidence[:: max(1, len(confidence) // 100_000)])
    edges = sample[np.linspace(0, len(sample) - 1, NUM_SHADES + 1).astype(int)[1:-1]]
    shades = np.round(colormaps["viridis"](np.arange(NUM_SHADES))[:, :3] * 255).astype(np.uint8)
    return shades[np.searchsorted(edges, confidence, side="right")]
