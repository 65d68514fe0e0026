"""The data sets that `scal3r data index` knows, by name."""

from __future__ import annotations

from scal3r_data_tools.adapters import (
    blended_mvs,
    cut3r,
    euroc,
    game_loop,
    images,
    kitti_odometry,
    kitti_raw,
    mvs_synth,
    nerfstudio,
    oxford_spires,
    oxford_spires_prepare,
    replica,
    seven_scenes,
    tartanair,
    towns,
    tum,
    virtual_kitti_2,
    waymo,
    wildrgbd,
)
from scal3r_data_tools.adapters.adapter import Adapter

ADAPTERS: dict[str, Adapter] = {
    "blended_mvs": Adapter(blended_mvs.index),
    "cut3r": Adapter(cut3r.index, cut3r.Options),
    "euroc": Adapter(euroc.index, euroc.Options),
    "game_loop": Adapter(game_loop.index),
    "images": Adapter(images.index),
    "kitti_odometry": Adapter(kitti_odometry.index),
    "kitti_raw": Adapter(kitti_raw.index, kitti_raw.Options),
    "mvs_synth": Adapter(mvs_synth.index, mvs_synth.Options),
    "nerfstudio": Adapter(nerfstudio.index),
    "oxford_spires": Adapter(
        oxford_spires.index,
        oxford_spires.Options,
        prepare=oxford_spires_prepare.prepare,
        prepare_options=oxford_spires_prepare.Options,
    ),
    "replica": Adapter(replica.index, replica.Options),
    "seven_scenes": Adapter(seven_scenes.index),
    "tartanair": Adapter(tartanair.index, tartanair.Options),
    "towns": Adapter(towns.index),
    "tum": Adapter(tum.index, tum.Options),
    "virtual_kitti_2": Adapter(virtual_kitti_2.index, virtual_kitti_2.Options),
    "waymo": Adapter(waymo.index, waymo.Options),
    "wildrgbd": Adapter(wildrgbd.index),
}
