"""The data sets that `scal3r data index` knows, by name."""

from __future__ import annotations

from scal3r_data_tools.adapters import (
    colmap,
    dl3dv,
    eth3d,
    game_loop,
    images,
    kitti_odometry,
    map_free,
    matrix_city,
    mega_depth,
    nerfstudio,
    scannet_pp,
    scannet_pp_prepare,
    seven_scenes,
    towns,
    vggt_omega,
    video,
    wai,
)
from scal3r_data_tools.adapters.adapter import Adapter
from scal3r_train.config import UserError

ADAPTERS: dict[str, Adapter] = {
    "colmap": Adapter(colmap.index, colmap.Options),
    "dl3dv": Adapter(dl3dv.index, dl3dv.Options),
    "eth3d": Adapter(eth3d.index, eth3d.Options),
    "game_loop": Adapter(game_loop.index),
    "images": Adapter(images.index),
    "kitti_odometry": Adapter(kitti_odometry.index),
    "map_free": Adapter(map_free.index),
    "matrix_city": Adapter(matrix_city.index, matrix_city.Options),
    "mega_depth": Adapter(mega_depth.index, mega_depth.Options),
    "nerfstudio": Adapter(nerfstudio.index),
    "scannet_pp": Adapter(
        scannet_pp.index, scannet_pp.Options, scannet_pp_prepare.prepare, scannet_pp_prepare.Options
    ),
    "seven_scenes": Adapter(seven_scenes.index),
    "towns": Adapter(towns.index),
    "vggt_omega": Adapter(vggt_omega.index, vggt_omega.Options),
    "video": Adapter(video.index),
    "wai": Adapter(wai.index, wai.Options),
}


def known_adapter(dataset: str) -> Adapter:
    """Return the adapter of that name. Raises UserError, with all names, when there is none."""
    if dataset not in ADAPTERS:
        raise UserError(f"dataset '{dataset}' is unknown; known are {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[dataset]
