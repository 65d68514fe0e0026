"""The data sets that `scal3r data index` knows, by name."""

from __future__ import annotations

from scal3r_data_tools.adapters import (
    colmap,
    game_loop,
    images,
    kitti_odometry,
    nerfstudio,
    seven_scenes,
    towns,
)
from scal3r_data_tools.adapters.adapter import Adapter
from scal3r_train.config import UserError

ADAPTERS: dict[str, Adapter] = {
    "colmap": Adapter(colmap.index, colmap.Options),
    "game_loop": Adapter(game_loop.index),
    "images": Adapter(images.index),
    "kitti_odometry": Adapter(kitti_odometry.index),
    "nerfstudio": Adapter(nerfstudio.index),
    "seven_scenes": Adapter(seven_scenes.index),
    "towns": Adapter(towns.index),
}


def known_adapter(dataset: str) -> Adapter:
    """Return the adapter of that name. Raises UserError, with all names, when there is none."""
    if dataset not in ADAPTERS:
        raise UserError(f"dataset '{dataset}' is unknown; known are {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[dataset]
