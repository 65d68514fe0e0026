"""Between which numbers each size of the network may lie: beyond, no network can be built, or none that anybody has.

Recipes and config.json are held to the same bounds. Imports nothing of this project.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_SIZE = 1 << 16  # channels, pixels, heads, tokens
MAX_LAYERS = 1 << 10
FACTOR = 1e6

# Least and most of each size and factor; both count.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        (
            "image_size", "patch_size", "hidden_size", "num_heads", "encoder_heads", "correlation_channels",
            "correlation_stride", "direct_channels", "direct_stride", "memory_heads", "memory_expansion",
            "camera_heads", "dpt_features", "dpt_refine_channels", "dpt_frames_per_pass",
        ),
        (1, MAX_SIZE),
    ),
    **dict.fromkeys(("num_layers", "encoder_layers", "camera_layers", "camera_iterations"), (1, MAX_LAYERS)),
    "num_register_tokens": (0, MAX_SIZE),
    "correlation_radius": (0, MAX_LAYERS),
    "direct_levels": (1, 16),
    "newton_schulz_steps": (0, MAX_LAYERS),
    "mlp_ratio": (1e-3, MAX_LAYERS),
    "rope_frequency": (0.0, 1e9),
    "layer_scale_init": (-FACTOR, FACTOR),
    "encoder_position_offset": (-1.0, MAX_LAYERS),
    "memory_base_lr": (1e-12, FACTOR),
    "memory_gate_init": (-FACTOR, FACTOR),
}  # fmt: skip
ITEM_BOUNDS: dict[str, tuple[int, int]] = {
    "tap_layers": (0, MAX_LAYERS - 1),
    "memory_layers": (0, MAX_LAYERS - 1),
    "dpt_channels": (1, MAX_SIZE),
}


def beyond_bounds(sizes: Mapping[str, Any]) -> str | None:
    """Return which size is no number or beyond its bounds, as a line; None when all are within."""
    for name, (least, most) in BOUNDS.items():
        if not _is_within(sizes[name], least, most):
            return f"{name} = {sizes[name]!r:.40} must be a {_kind(least)} from {least} to {most}"
    for name, (least, most) in ITEM_BOUNDS.items():
        if any(not _is_within(value, least, most) for value in sizes[name]):
            return f"{name} = {sizes[name]!r:.40} must be whole numbers from {least} to {most}"
    return None


def _is_within(value: Any, least: float, most: float) -> bool:
    is_number = isinstance(value, int | float if isinstance(least, float) else int)
    # Compared first: a whole number may be larger than any float.
    return is_number and not isinstance(value, bool) and least <= value <= most and math.isfinite(value)


def _kind(least: float) -> str:
    return "number" if isinstance(least, float) else "whole number"
