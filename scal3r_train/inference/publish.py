"""From what all processes contribute to the files of a scene folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from scal3r_train import __version__
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.state_store import StatePlan
from scal3r_train.inference.progress import Stages
from scal3r_train.inference.rank_work import RankResult, voxel_size_of
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.parallel.process import device_name
from scal3r_train.scene.folder import partial_folder, publish_scene_folder, writing
from scal3r_train.scene.point_cloud import VoxelDownsampler
from scal3r_train.scene.scene import SceneInfo, write_scene


def publish_scene(
    output: Path,
    video: Video,
    info: SceneInfo,
    shares: Sequence[RankResult],
    recipe: ReconstructionRecipe,
    voxel_size: float,
) -> None:
    """Put the shares of all processes together, write the scene and give it its name."""
    cloud = VoxelDownsampler(voxel_size, recipe.export.max_points, recipe.export.seed)
    for share in shares:
        cloud.add(share.points)
    points = cloud.result()
    with writing(partial_folder(output)):
        write_scene(
            partial_folder(output),
            info.model_copy(update={"num_points": len(points)}),
            video.scene_frames,
            video.timestamps,
            torch.cat([share.world_from_cam for share in shares]),
            torch.cat([share.intrinsics for share in shares]),
            points,
        )
        publish_scene_folder(output)


def scene_info(
    video: Video,
    layout: Layout,
    placement: Placement,
    recipe: ReconstructionRecipe,
    shares: Sequence[RankResult],
    model_sha256: str | None,
    stages: Stages,
    plan: StatePlan,
    device: torch.device,
) -> SceneInfo:
    """Return scene.json but for the number of points, which is not known yet."""
    kinds = {kind for share in shares for kind in share.peak_memory_bytes}
    return SceneInfo(
        code_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        input=video.describe(),
        num_frames=video.num_frames,
        frame_indices=video.frame_indices,
        processed_hw=video.image_hw,
        chunks=tuple((chunk.start, chunk.stop) for chunk in layout.ranges),
        provided_frames=tuple((frames.start, frames.stop) for frames in layout.provided),
        world_from_chunk=tuple(
            tuple(tuple(row) for row in sim3.matrix().tolist()) for sim3 in placement.world_from_chunk
        ),
        seams=tuple(seam.quality.as_dict() for seam in placement.seams),
        breaks=tuple(n + 1 for n, seam in enumerate(placement.seams) if seam.quality.method == "break"),
        state_plan=plan.as_dict(),
        num_points=0,
        voxel_size=voxel_size_of(recipe, placement),
        recipe=recipe.model_dump(mode="json"),
        checkpoint_sha256=model_sha256,
        num_processes=len(shares),
        device=device_name(device),
        timings_s={name: round(seconds, 3) for name, seconds in stages.timings_s.items()},
        peak_memory_bytes={
            kind: max(share.peak_memory_bytes.get(kind, 0) for share in shares) for kind in sorted(kinds)
        },
    )
