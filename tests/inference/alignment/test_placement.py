"""Perfect predictions, each chunk in its own frame and scale, give the true world back."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import roma
import torch
from torch import Tensor

from scal3r_train.config import load_config
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics, world_points_from_depth
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.neighbours import align_neighbours, overlap_head
from scal3r_train.inference.alignment.placed_frames import PlacedFrames, place_frames
from scal3r_train.inference.alignment.placement import Placement, place_chunks
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.chunking import Layout, ScheduleSettings
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.chunk_batch import reference_index

NUM_FRAMES, HEIGHT, WIDTH = 23, 14, 28


class Truth:
    """A random smooth path with depth that is random in every pixel."""

    def __init__(self, dtype: torch.dtype) -> None:
        steps = torch.randn(NUM_FRAMES, 6, dtype=torch.float64)
        rotation = roma.rotvec_to_rotmat(0.2 * steps[:, :3].cumsum(0))
        self.cam_from_world = torch.cat([rotation, 0.5 * steps[:, 3:].cumsum(0)[..., None]], dim=-1)
        self.depth = (1 + 4 * torch.rand(NUM_FRAMES, HEIGHT, WIDTH)).to(dtype)
        self.intrinsics = torch.tensor([[20.0, 0, 14], [0, 22, 7], [0, 0, 1]], dtype=torch.float64)

    def prediction(self, chunk: range, scale: float) -> ChunkPrediction:
        """What a perfect model says: relative to the chunk's reference camera, lengths times `scale`."""
        frames = slice(chunk.start, chunk.stop)
        world_from_chunk = invert_extrinsics(self.cam_from_world[chunk[reference_index(len(chunk))]])
        extrinsics = compose_extrinsics(self.cam_from_world[frames], world_from_chunk)
        extrinsics = torch.cat([extrinsics[..., :3], scale * extrinsics[..., 3:]], dim=-1)
        depth = scale * self.depth[frames]
        intrinsics = self.intrinsics.expand(len(chunk), 3, 3)
        return ChunkPrediction(extrinsics, intrinsics, depth, torch.ones_like(depth))


def reconstruct(
    truth: Truth, num_processes: int, recipe: ReconstructionRecipe
) -> tuple[Tensor, Tensor, list[float], Layout]:
    """Cameras and points of all frames, the chunks' scales; chunks held by several processes."""
    layout = Layout.plan(NUM_FRAMES, ScheduleSettings(chunk_size=8, overlap=3), num_processes)
    scales = (0.3 + 3 * torch.rand(len(layout.ranges))).tolist()
    predictions = {
        k: truth.prediction(chunk, scale)
        for k, (chunk, scale) in enumerate(zip(layout.ranges, scales, strict=True))
    }
    seams = {}
    for chunks in layout.assignment:
        held = {k: predictions[k] for k in chunks}
        after = [k + 1 for k in chunks[-1:] if k + 1 < len(layout.ranges)]
        heads = {k: overlap_head(predictions[k], k, layout.ranges) for k in after}
        seams |= align_neighbours(held, heads, layout.ranges, AlignmentSettings(), "depth")
    ordered = [seams[k] for k in sorted(seams)]
    placement = Placement.along_seams(layout, ordered, predictions[0].extrinsics[0], 1.0, recipe)
    placed = list(all_frames(placement, predictions))
    assert [frame for part in placed for frame in part.frames] == list(range(NUM_FRAMES))
    cameras = torch.cat([part.world_from_cam for part in placed])
    return cameras, torch.cat([part.points for part in placed]), scales, layout


def all_frames(
    placement: Placement, predictions: dict[int, ChunkPrediction], fusion: str = "blend"
) -> Iterator[PlacedFrames]:
    recipe = ReconstructionRecipe.model_validate({"fusion": {"mode": fusion}})
    for k in range(len(placement.layout.ranges)):
        yield from placement.decided_frames(k, predictions[k], predictions.get(k + 1), recipe)


@pytest.mark.parametrize("num_processes", [1, 2, 7])
@pytest.mark.parametrize(
    ("dtype", "common_scale", "tolerance"),
    [(torch.float64, False, 1e-10), (torch.float32, False, 1e-6), (torch.float32, True, 1e-6)],
)
def test_the_truth_comes_back(
    dtype: torch.dtype, common_scale: bool, tolerance: float, num_processes: int
) -> None:
    """Also where chunks are expected to have one scale and have none: exact seams are believed."""
    truth = Truth(dtype)
    override = f"alignment.common_scale.enabled={str(common_scale).lower()}"
    recipe = load_config(ReconstructionRecipe, None, [override])
    cameras, points, scales, layout = reconstruct(truth, num_processes, recipe)
    assert len(layout.ranges) == 4
    # The world is frame 0's camera, in chunk 0's units: no alignment to the truth is needed.
    cam_from_first = compose_extrinsics(truth.cam_from_world, invert_extrinsics(truth.cam_from_world[0]))
    first_from_cam = invert_extrinsics(cam_from_first)
    expected = torch.cat([first_from_cam[..., :3], scales[0] * first_from_cam[..., 3:]], dim=-1)
    extent = expected[..., 3].norm(dim=-1).max()
    torch.testing.assert_close(cameras / extent, expected / extent, rtol=0, atol=tolerance)
    first_points = world_points_from_depth(
        truth.depth.double(), truth.intrinsics.expand(NUM_FRAMES, 3, 3), cam_from_first
    )
    torch.testing.assert_close(points / extent, scales[0] * first_points / extent, rtol=0, atol=tolerance)


def test_depth_is_scaled_with_the_chunk() -> None:
    truth = Truth(torch.float64)
    layout = Layout.plan(NUM_FRAMES, ScheduleSettings(chunk_size=8, overlap=3), 1)
    predictions = {
        k: truth.prediction(chunk, 1.5 if k == 0 else 0.5) for k, chunk in enumerate(layout.ranges)
    }
    seams = align_neighbours(predictions, {}, layout.ranges, AlignmentSettings(), "depth")
    worlds = place_chunks([seams[k] for k in sorted(seams)], predictions[0].extrinsics[0])
    last = layout.provided[-1]
    placed = place_frames(predictions[3], layout.ranges[3].start, last, worlds[3], "depth")
    torch.testing.assert_close(placed.depth, 1.5 * truth.depth[last.start : last.stop])


def test_chunks_that_differ_meet_halfway_and_at_a_break_they_do_not() -> None:
    truth = Truth(torch.float64)
    layout = Layout.plan(NUM_FRAMES, ScheduleSettings(chunk_size=8, overlap=3), 1)
    predictions = {k: truth.prediction(chunk, 1.0) for k, chunk in enumerate(layout.ranges)}
    seams = align_neighbours(predictions, {}, layout.ranges, AlignmentSettings(), "depth")
    ordered = [seams[k] for k in sorted(seams)]
    worlds = place_chunks(ordered, predictions[0].extrinsics[0])
    # Chunk 1 and all after it move aside, as a pose graph would have them.
    aside = Sim3.from_rigid(torch.tensor([[1.0, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.float64))
    moved = Placement(layout, [worlds[0], *(aside @ world for world in worlds[1:])], ordered, 1.0)
    straight = torch.cat(
        [p.world_from_cam for p in all_frames(Placement(layout, worlds, ordered, 1.0), predictions)]
    )

    def offsets(placement: Placement, fusion: str = "blend") -> list[float]:
        bent = torch.cat([p.world_from_cam for p in all_frames(placement, predictions, fusion)])
        return (bent - straight)[:10, 0, 3].tolist()

    assert layout.shared[0] == range(5, 8)
    assert offsets(moved) == pytest.approx([0] * 5 + [0.1, 0.2, 0.3, 0.4, 0.4])
    torn = [replace(ordered[0], quality=replace(ordered[0].quality, method="break")), *ordered[1:]]
    assert offsets(replace(moved, seams=torn)) == pytest.approx([0] * 6 + [0.4] * 4)
    assert offsets(moved, "nearest") == pytest.approx([0] * 6 + [0.4] * 4)
