"""The data sets that `scal3r data index` knows, by name, and what an adapter is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scal3r_data_tools.adapters import (
    aria_digital_twin,
    aria_synthetic_environments,
    blended_mvs,
    circuits,
    co3d_v2,
    colmap,
    cut3r,
    dl3dv,
    eth3d,
    euroc,
    game_loop,
    hypersim,
    images,
    kitti_odometry,
    kitti_raw,
    map_free,
    mapillary,
    matrix_city,
    mega_depth,
    mvs_synth,
    nerfstudio,
    oxford_spires,
    posed,
    replica,
    scannet_pp,
    scenenet_rgbd,
    seven_scenes,
    spatialbench,
    tartanair,
    taskonomy,
    towns,
    tum,
    vbr,
    vggt_omega,
    video,
    virtual_kitti_2,
    wai,
    waymo,
    wildrgbd,
)
from scal3r_data_tools.preparing import aria_digital_twin as aria_digital_twin_prepare
from scal3r_data_tools.preparing import oxford_spires as oxford_spires_prepare
from scal3r_data_tools.preparing import scannet_pp as scannet_pp_prepare
from scal3r_data_tools.preparing.circuits import prepare as circuits_prepare
from scal3r_train import plugins
from scal3r_train.config import StrictModel
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.plugins import load_plugin


class NoOptions(StrictModel):
    """The options of most adapters."""


@dataclass(frozen=True)
class Adapter:
    """One data set that `scal3r data index` knows.

    Attributes:
        index: from the folder to the records of all sequences below it, in a fixed order; reads headers and tables
            only. With options, it takes them as second argument. Raises UserError for what the user must fix; frames
            that are listed but not there are left out and counted in `num_missing`.
        options: their type; what cannot be known from the files, each with a safe default.
        prepare: for sets whose pixels must change (meshes to render, LiDAR to project, recordings to unpack): writes
            derived files from the folder into another, and can be interrupted and started again.
        prepare_options: type of its options.
    """

    index: Callable[..., Iterator[SequenceRecord]]
    options: type[StrictModel] = NoOptions
    prepare: Callable[[Path, Path, Any], None] | None = None
    prepare_options: type[StrictModel] = NoOptions

    def records(self, source: Path, options: StrictModel) -> Iterator[SequenceRecord]:
        """Return the records of the sequences below `source`."""
        return self.index(source) if self.options is NoOptions else self.index(source, options)


ADAPTERS: dict[str, Adapter] = {
    "aria_digital_twin": Adapter(
        aria_digital_twin.index,
        prepare=aria_digital_twin_prepare.prepare,
        prepare_options=aria_digital_twin_prepare.Options,
    ),
    "aria_synthetic_environments": Adapter(aria_synthetic_environments.index),
    "blended_mvs": Adapter(blended_mvs.index),
    "circuits": Adapter(
        circuits.index,
        circuits.Options,
        prepare=circuits_prepare.prepare,
        prepare_options=circuits_prepare.Options,
    ),
    "co3d_v2": Adapter(co3d_v2.index, co3d_v2.Options),
    "colmap": Adapter(colmap.index, colmap.Options),
    "cut3r": Adapter(cut3r.index, cut3r.Options),
    "dl3dv": Adapter(dl3dv.index, dl3dv.Options),
    "eth3d": Adapter(eth3d.index, eth3d.Options),
    "euroc": Adapter(euroc.index, euroc.Options),
    "game_loop": Adapter(game_loop.index),
    "hypersim": Adapter(hypersim.index, hypersim.Options),
    "images": Adapter(images.index),
    "kitti_odometry": Adapter(kitti_odometry.index),
    "kitti_raw": Adapter(kitti_raw.index, kitti_raw.Options),
    "map_free": Adapter(map_free.index),
    "mapillary": Adapter(mapillary.index),
    "matrix_city": Adapter(matrix_city.index, matrix_city.Options),
    "mega_depth": Adapter(mega_depth.index, mega_depth.Options),
    "mvs_synth": Adapter(mvs_synth.index, mvs_synth.Options),
    "nerfstudio": Adapter(nerfstudio.index, nerfstudio.Options),
    "oxford_spires": Adapter(
        oxford_spires.index,
        oxford_spires.Options,
        prepare=oxford_spires_prepare.prepare,
        prepare_options=oxford_spires_prepare.Options,
    ),
    "posed": Adapter(posed.index, posed.Options),
    "replica": Adapter(replica.index, replica.Options),
    "scannet_pp": Adapter(
        scannet_pp.index, scannet_pp.Options, scannet_pp_prepare.prepare, scannet_pp_prepare.Options
    ),
    "scenenet_rgbd": Adapter(scenenet_rgbd.index),
    "seven_scenes": Adapter(seven_scenes.index),
    "spatialbench": Adapter(spatialbench.index, spatialbench.Options),
    "tartanair": Adapter(tartanair.index, tartanair.Options),
    "taskonomy": Adapter(taskonomy.index, taskonomy.Options),
    "towns": Adapter(towns.index, towns.Options),
    "tum": Adapter(tum.index, tum.Options),
    "vbr": Adapter(vbr.index, vbr.Options),
    "vggt_omega": Adapter(vggt_omega.index, vggt_omega.Options),
    "video": Adapter(video.index),
    "virtual_kitti_2": Adapter(virtual_kitti_2.index, virtual_kitti_2.Options),
    "wai": Adapter(wai.index, wai.Options),
    "waymo": Adapter(waymo.index, waymo.Options),
    "wildrgbd": Adapter(wildrgbd.index),
}


def known_adapter(dataset: str) -> Adapter:
    """Return the adapter of that name, ours or of an installed package; UserError, with all names, if there is none."""
    return ADAPTERS.get(dataset) or load_plugin(plugins.ADAPTERS, dataset, Adapter, ADAPTERS)
