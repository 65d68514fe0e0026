"""The data sets that `scal3r data index` knows, by name."""

from __future__ import annotations

from scal3r_data_tools.adapters import (
    aria_digital_twin,
    aria_digital_twin_prepare,
    aria_synthetic_environments,
    co3d_v2,
    game_loop,
    hypersim,
    images,
    kitti_odometry,
    mapillary,
    nerfstudio,
    scenenet_rgbd,
    seven_scenes,
    taskonomy,
    towns,
)
from scal3r_data_tools.adapters.adapter import Adapter

ADAPTERS: dict[str, Adapter] = {
    "aria_digital_twin": Adapter(
        aria_digital_twin.index,
        prepare=aria_digital_twin_prepare.prepare,
        prepare_options=aria_digital_twin_prepare.Options,
    ),
    "aria_synthetic_environments": Adapter(aria_synthetic_environments.index),
    "co3d_v2": Adapter(co3d_v2.index, co3d_v2.Options),
    "game_loop": Adapter(game_loop.index),
    "hypersim": Adapter(hypersim.index, hypersim.Options),
    "images": Adapter(images.index),
    "kitti_odometry": Adapter(kitti_odometry.index),
    "mapillary": Adapter(mapillary.index),
    "nerfstudio": Adapter(nerfstudio.index),
    "scenenet_rgbd": Adapter(scenenet_rgbd.index),
    "seven_scenes": Adapter(seven_scenes.index),
    "taskonomy": Adapter(taskonomy.index, taskonomy.Options),
    "towns": Adapter(towns.index),
}
