"""The run that the drills break: a tiny network on tiny towns, a step in a fraction of a second."""

from __future__ import annotations

from typing import Any

TINY_RUN: dict[str, Any] = {
    "name": "drill",
    "model": {
        "network": {
            "image_size": 28,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "mlp_ratio": 2.0,
            "patch_encoder": "conv",
            "tap_layers": [0, 0, 1, 1],
            "memory_layers": [0, 1],
            "memory_expansion": 2,
            "camera_heads": 2,
            "camera_layers": 1,
            "camera_iterations": 2,
            "dpt_features": 8,
            "dpt_channels": [8, 8, 8, 8],
            "dpt_refine_channels": 8,
            "point_head": False,
        }
    },
    "curriculum": {
        "chunk_size": {"4": 1.0},
        "overlap": {"1": 1.0},
        "resolution": [{"height": 28, "width": 42}],
    },
    "losses": {"points": {"weight": 0.0}},
    "telemetry": {"log_every": 1},
}
