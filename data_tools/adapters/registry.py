"""The data sets that `scal3r data index` knows, by name."""

from __future__ import annotations

from scal3r_data_tools.adapters import (
    colmap,
    dl3dv,
    game_loop,
    images,
    kitti_odometry,
    map_free,
    mega_depth,
    nerfstudio,
    seven_scenes,
    towns,
    vggt_omega,
)
from scal3r_data_tools.adapters.adapter import Adapter
from scal3r_train.config import UserError

ADAPTERS: dict[str, Adapter] = {
    "colmap": Adapter(colmap.index, colmap.Options),
    "dl3dv": Adapter(dl3dv.index, dl3dv.Options),
    "game_loop": Adapter(game_loop.index),
    "images": Adapter(images.index),
    "kitti_odometry": Adapter(kitti_odometry.index),
    "map_free": Adapter(map_free.index),
    "mega_depth": Adapter(mega_depth.index, mega_depth.Options),
    "nerfstudio": Adapter(nerfstudio.index),
    "seven_scenes": Adapter(seven_scenes.index),
    "towns": Adapter(towns.index),
    "vggt_omega": Adapter(vggt_omega.index, vggt_omega.Options),
}


def known_adapter(dataset: str) -> Adapter:
    """Return the adapter of that name. Raises UserError, with all names, when there is none."""
    if dataset not in ADAPTERS:
        raise UserError(f"dataset '{dataset}' is unknown; known are {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[dataset]
