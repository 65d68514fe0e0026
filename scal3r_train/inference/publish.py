"""The results of all processes put together and written: scene.json and the other files of a scene folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import torch

from scal3r_train import __version__
from scal3r_train.config import writing
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.loop_closure.loops import ClosedLoops
from scal3r_train.inference.metric.measure import InMetres
from scal3r_train.inference.network.state_store import StatePlan
from scal3r_train.inference.rank_work import RankResult, voxel_size_of
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.parallel.process import device_name
from scal3r_train.scene.folder import publish_scene_folder
from scal3r_train.scene.point_cloud import VoxelDownsampler
from scal3r_train.scene.scene import SceneCameras, SceneInfo, write_scene


def publish_scene(run: ReconstructionRun, info: SceneInfo, results: Sequence[RankResult]) -> None:
    """Put the results of all processes together, write the scene and give it its name.

    Args:
        run: of the video.
        info: from `scene_info`.
        results: in the order of the processes, together all frames.

    Raises:
        UserError: the folder cannot be written.
    """
    export = run.recipe.export
    cloud = VoxelDownsampler(info.voxel_size, export.max_points, export.seed)
    for result in results:
        cloud.add(result.points)
    points = cloud.result()
    cameras = SceneCameras(
        info=info.model_copy(update={"num_points": len(points)}),
        frames=run.video.scene_frames,
        timestamps=run.video.timestamps,
        world_from_cam=torch.cat([result.world_from_cam for result in results]),
        intrinsics=torch.cat([result.intrinsics for result in results]),
    )
    with writing(f"scene {run.folder}"):
        write_scene(run.folder, cameras, points)
        publish_scene_folder(run.output)


def _in_metres(metric: InMetres) -> dict[str, Any]:
    """Return what scene.json says of metres."""
    source = (
        metric.scale.source if metric.scale.file is None else f"{metric.scale.source}: {metric.scale.file}"
    )
    return {
        "units": "metres",
        "scale_source": source,
        "scale": metric.scale,
        "georeference": metric.georeference,
    }


def scene_info(
    run: ReconstructionRun,
    placement: Placement,
    results: Sequence[RankResult],
    plan: StatePlan,
    closed: ClosedLoops | None,
    metric: InMetres | None = None,
) -> SceneInfo:
    """Return scene.json but for the number of points, which is not known yet.

    Args:
        run: of the video.
        placement: of all chunks.
        results: one for each process.
        plan: where the states of chunks were kept.
        closed: what loop closure found; None when loops were not looked for.
        metric: where the placement's metres come from; None for one in the prediction's unit.
    """
    video, layout = run.video, run.layout
    kinds = {kind for result in results for kind in result.peak_memory_bytes}
    return SceneInfo(
        code_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        input=video.describe(),
        num_frames=video.num_frames,
        frame_indices=video.frame_indices,
        processed_hw=video.image_hw,
        **({} if metric is None else _in_metres(metric)),
        chunks=tuple((chunk.start, chunk.stop) for chunk in layout.ranges),
        provided_frames=tuple((frames.start, frames.stop) for frames in layout.provided),
        world_from_chunk=tuple(
            tuple(tuple(row) for row in sim3.matrix().tolist()) for sim3 in placement.world_from_chunk
        ),
        seams=tuple(seam.quality.as_dict() for seam in placement.seams),
        breaks=tuple(n + 1 for n, seam in enumerate(placement.seams) if seam.quality.method == "break"),
        chunk_scales=None
        if placement.scales is None
        else placement.scales.as_dict(placement.world_from_chunk),
        loops=() if closed is None else closed.loops,
        pose_graph=None if closed is None else closed.pose_graph,
        state_plan=plan.as_dict(),
        num_points=0,
        voxel_size=voxel_size_of(run.recipe, placement),
        recipe=run.recipe.model_dump(mode="json"),
        checkpoint_sha256=run.model_sha256,
        num_processes=len(results),
        device=device_name(run.device),
        timings_s={name: round(seconds, 3) for name, seconds in run.stages.timings_s.items()},
        peak_memory_bytes={
            kind: max(result.peak_memory_bytes.get(kind, 0) for result in results) for kind in sorted(kinds)
        },
    )
