"""Chunk alignment: exact recovery, scale jumps, outliers, fall-backs that are named, providers, chaining."""

import math
from itertools import pairwise

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import invert_extrinsics, world_points_from_depth
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.correspondences import find_correspondences, keep_confident
from scal3r_train.inference.alignment.seam import align_chunks, chain
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.chunking import chunk_ranges, provider_chunk_of_frame
from tests.geometry.test_sim3 import assert_same, random_sim3

HEIGHT, WIDTH = 12, 16
SETTINGS = AlignmentSettings()


def make_chunk(
    frames: range, world_from_chunk: Sim3, seed: int = 0, hw: tuple[int, int] = (HEIGHT, WIDTH)
) -> ChunkGeometry:
    """A chunk of a fixed scene: frame f looks the same from every chunk, up to that chunk's coordinates."""
    points, cameras = [], []
    chunk_from_world = world_from_chunk.inverse()
    for frame in frames:
        generator = torch.Generator().manual_seed(1000 * seed + frame)
        encoding = torch.randn(9, generator=generator, dtype=torch.float64) + torch.tensor(
            [0.3 * frame] + [0.0] * 8
        )
        encoding[7:] = 1.0
        extrinsics, intrinsics = decode_pose(encoding, hw)
        depth = 1 + 3 * torch.rand(*hw, generator=generator, dtype=torch.float64)
        points.append(chunk_from_world.apply(world_points_from_depth(depth, intrinsics, extrinsics)))
        cameras.append(
            invert_extrinsics(chunk_from_world.apply_to_world_from_cam(invert_extrinsics(extrinsics)))
        )
    generator = torch.Generator().manual_seed(seed)
    confidence = 1 + torch.rand(len(frames), *hw, generator=generator, dtype=torch.float64)
    valid = torch.ones(len(frames), *hw, dtype=torch.bool)
    return ChunkGeometry(list(frames), torch.stack(points), confidence, valid, torch.stack(cameras))


def changed(chunk: ChunkGeometry, **changes: object) -> ChunkGeometry:
    return ChunkGeometry(**(vars(chunk) | changes))  # type: ignore[arg-type]


def pair(scale: float = 1.7, overlap: int = 3) -> tuple[ChunkGeometry, ChunkGeometry, Sim3]:
    """Two chunks of six frames and the true earlier_from_later, whose scale is `scale`."""
    a, b = random_sim3(1), random_sim3(2)
    b = Sim3(a.scale * scale, b.rotation, b.translation)
    earlier, later = make_chunk(range(6), a), make_chunk(range(6 - overlap, 12 - overlap), b)
    return earlier, later, a.inverse() @ b


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 40.0])
@pytest.mark.parametrize("mode", ["sim3", "sim3_unweighted"])
def test_exact_chunks_are_joined_exactly_whatever_the_scale_jump(scale: float, mode: str) -> None:
    earlier, later, true = pair(scale)
    seam = align_chunks(earlier, later, AlignmentSettings(mode=mode))
    assert seam.quality.method == "points"
    assert seam.quality.trusted
    assert seam.quality.inlier_share == 1
    assert seam.quality.residual_rms is not None
    assert seam.quality.residual_rms < 1e-9
    assert seam.quality.scale == pytest.approx(scale, rel=1e-9)
    torch.testing.assert_close(seam.earlier_from_later.matrix(), true.matrix(), rtol=1e-9, atol=1e-9)


def test_se3_keeps_scale_one_and_distrusts_a_scale_jump() -> None:
    rigid_earlier, rigid_later, true = pair(1.0)
    seam = align_chunks(rigid_earlier, rigid_later, AlignmentSettings(mode="se3"))
    assert_same(seam.earlier_from_later, true, atol=1e-9)
    jump = align_chunks(*pair(3.0)[:2], AlignmentSettings(mode="se3"))
    assert jump.earlier_from_later.scale == 1
    assert not jump.quality.trusted


def test_the_order_of_frames_in_a_chunk_does_not_matter() -> None:
    earlier, later, true = pair()
    order = torch.tensor([3, 0, 1, 2, 4, 5])
    frames = [later.frame_indices[i] for i in order.tolist()]
    shuffled = ChunkGeometry(
        frames,
        later.world_points[order],
        later.confidence[order],
        later.valid[order],
        later.extrinsics[order],
    )
    assert_same(align_chunks(earlier, shuffled, SETTINGS).earlier_from_later, true, atol=1e-9)


def test_wrong_depth_in_a_third_of_the_pixels_is_harmless() -> None:
    earlier, later, true = pair()
    later.world_points[:, :, : WIDTH // 3] *= 20
    seam = align_chunks(earlier, later, SETTINGS)
    assert_same(seam.earlier_from_later, true, atol=1e-7)
    assert seam.quality.inlier_share == pytest.approx(1 - (WIDTH // 3) / WIDTH, abs=0.01)
    assert seam.quality.trusted
    plain = align_chunks(earlier, later, AlignmentSettings(mode="sim3_unweighted"))
    assert abs(plain.quality.scale / true.scale.item() - 1) > 0.3


def test_unrelated_chunks_are_a_break_and_points_alone_are_not_trusted() -> None:
    earlier, _, _ = pair()
    other = make_chunk(range(3, 9), random_sim3(3), seed=77)
    seam = align_chunks(earlier, other, SETTINGS)
    assert (seam.quality.method, seam.quality.trusted) == ("break", False)
    assert "shared pixels differ" in str(seam.quality.reason)
    assert "cameras of shared frames turn" in str(seam.quality.reason)
    alone = align_chunks(earlier, other, AlignmentSettings(evidence="points"))
    assert (alone.quality.method, alone.quality.trusted) == ("points", False)


def test_pixels_invalid_or_not_finite_in_either_chunk_are_left_out() -> None:
    earlier, later, true = pair(overlap=2)
    earlier.valid[4, :6] = False
    earlier.world_points[4, :6] = 1e3
    later.world_points[1, 0, 0] = math.nan  # frame 5
    earlier.confidence[5, 1, 1] = math.inf
    shared = find_correspondences(earlier, later, SETTINGS)
    assert len(shared) == 2 * HEIGHT * WIDTH - 6 * WIDTH - 2
    assert_same(align_chunks(earlier, later, SETTINGS).earlier_from_later, true, atol=1e-9)


def test_the_draw_is_uniform_repeatable_and_enough() -> None:
    earlier, later, true = pair()
    settings = AlignmentSettings(max_points=100)
    first, again = (find_correspondences(earlier, later, settings) for _ in range(2))
    assert len(first) == 100
    assert torch.equal(first.earlier, again.earlier)
    other = find_correspondences(earlier, later, AlignmentSettings(max_points=100, seed=1))
    assert not torch.equal(first.earlier, other.earlier)
    assert_same(align_chunks(earlier, later, settings).earlier_from_later, true, atol=1e-9)


def test_the_cap_per_frame_keeps_the_pixels_surest_in_both_chunks() -> None:
    earlier, later, _ = pair()
    settings = AlignmentSettings(max_points_per_frame=10)
    shared = find_correspondences(earlier, later, settings)
    assert len(shared) == 30
    common = torch.minimum(earlier.confidence[3:], later.confidence[:3]).flatten(1)
    expected = common.sort(dim=1, descending=True).values[:, :10]
    got = torch.minimum(shared.earlier_confidence, shared.later_confidence).unflatten(0, (3, 10))
    torch.testing.assert_close(got.sort(dim=1, descending=True).values, expected)


def test_the_threshold_acts_on_confidences_near_one_and_the_reference_one_does_not() -> None:
    earlier, later, _ = pair()
    earlier.confidence[4, :5] = 1.001
    shared = find_correspondences(earlier, later, SETTINGS)
    assert len(shared) - len(keep_confident(shared, SETTINGS)) >= 5 * WIDTH
    assert len(keep_confident(shared, AlignmentSettings(confidence_floor=0))) == len(shared)
    for constant in (0.25, 1.0, 30.0):  # constant confidence never drops everything
        flat = [changed(c, confidence=torch.full_like(c.confidence, constant)) for c in (earlier, later)]
        shared = find_correspondences(flat[0], flat[1], SETTINGS)
        assert len(keep_confident(shared, SETTINGS)) == len(shared)


def without_shared_pixels(
    earlier: ChunkGeometry, later: ChunkGeometry
) -> tuple[ChunkGeometry, ChunkGeometry]:
    """The left half valid in one chunk, the right half in the other."""
    left = torch.zeros_like(earlier.valid)
    left[..., : WIDTH // 2] = True
    return changed(earlier, valid=left), changed(later, valid=~left)


def test_without_shared_pixels_cameras_join_the_chunks() -> None:
    earlier, later, true = pair(0.3)
    nothing = torch.zeros_like(later.valid)
    seam = align_chunks(earlier, changed(later, valid=nothing), SETTINGS)  # scale from the camera centres
    assert (seam.quality.method, seam.quality.trusted) == ("cameras", False)
    assert_same(seam.earlier_from_later, true, atol=1e-9)
    seam = align_chunks(*without_shared_pixels(earlier, later), SETTINGS)  # scale from depth
    assert seam.quality.method == "cameras"
    assert seam.quality.scale == pytest.approx(0.3, rel=0.3)
    torch.testing.assert_close(seam.earlier_from_later.rotation, true.rotation)


def test_one_shared_frame_without_depth_is_a_break_under_sim3_but_not_under_se3() -> None:
    earlier, later, true = pair(1.0, overlap=1)
    later = changed(later, valid=torch.zeros_like(later.valid))
    assert align_chunks(earlier, later, SETTINGS).quality.method == "break"
    seam = align_chunks(earlier, later, AlignmentSettings(mode="se3"))
    assert seam.quality.method == "cameras"
    assert_same(seam.earlier_from_later, true, atol=1e-9)


def test_no_shared_frame_is_a_named_break_that_goes_on_where_the_earlier_chunk_ends() -> None:
    earlier = make_chunk(range(6), random_sim3(1))
    later = make_chunk(range(6, 12), random_sim3(2))
    seam = align_chunks(earlier, later, SETTINGS)
    assert (seam.quality.method, seam.quality.trusted, seam.quality.num_points) == ("break", False, 0)
    placed = seam.earlier_from_later.apply_to_world_from_cam(invert_extrinsics(later.extrinsics[0]))
    torch.testing.assert_close(placed, invert_extrinsics(earlier.extrinsics[5]))
    assert seam.quality.as_dict()["residual_rms"] is None


def test_a_camera_that_is_not_finite_is_reported_with_its_frame() -> None:
    earlier, later, _ = pair()
    later.extrinsics[1] = math.nan
    seam = align_chunks(earlier, later, SETTINGS)
    assert seam.quality.method == "points"  # not needed
    later.valid[:] = False
    with pytest.raises(UserError, match="frame 4 is not finite"):
        align_chunks(earlier, later, SETTINGS)


def test_points_that_all_coincide_are_no_overlap() -> None:
    earlier, later, _ = pair()
    seam = align_chunks(earlier, changed(later, world_points=torch.ones_like(later.world_points)), SETTINGS)
    assert seam.quality.method != "points"


def test_chaining_returns_every_chunk_to_the_world_of_the_first() -> None:
    poses = [Sim3.identity(), random_sim3(11), random_sim3(12), random_sim3(13)]
    chunks = [make_chunk(range(4 * i, 4 * i + 7), pose) for i, pose in enumerate(poses)]
    seams = [align_chunks(a, b, SETTINGS) for a, b in pairwise(chunks)]
    for found, true in zip(chain(seams), poses, strict=True):
        assert_same(found, true, atol=1e-7)
    assert len(chain([])) == 1


@pytest.mark.parametrize(
    ("num_frames", "size", "overlap"), [(7, 4, 2), (100, 60, 30), (23, 5, 4), (40, 10, 1), (5, 9, 3)]
)
def test_the_provider_is_the_last_chunk_that_began_half_an_overlap_ago(
    num_frames: int, size: int, overlap: int
) -> None:
    chunks = chunk_ranges(num_frames, size, overlap)
    providers = provider_chunk_of_frame(num_frames, chunks, overlap)
    for frame, provider in enumerate(providers):
        candidates = [k for k in range(1, len(chunks)) if frame >= chunks[k].start + overlap // 2]
        assert provider == max(candidates, default=0)
        assert frame in chunks[provider]


def test_scale_locked_keeps_its_scale_and_survives_outliers() -> None:
    earlier, later, truth = pair(scale=1.7)
    shaken = later.world_points.clone()
    shaken[:, ::4] += 40.0
    bad = changed(later, world_points=shaken)
    locked = AlignmentSettings(mode="sim3_scale_locked", locked_scale=1.7)
    seam = align_chunks(earlier, bad, locked)
    assert seam.quality.scale == 1.7
    assert_same(seam.earlier_from_later, truth, atol=1e-6)
    rigid = align_chunks(earlier, bad, AlignmentSettings(mode="sim3_scale_locked"))
    assert rigid.quality.scale == 1.0


@pytest.mark.parametrize(("mode", "scale"), [("sim3_scale_locked", 1.7), ("se3", 1.0)])
def test_a_given_scale_holds_where_cameras_alone_join(mode: str, scale: float) -> None:
    earlier, later, _ = pair(scale=1.7)
    blind = changed(later, valid=torch.zeros_like(later.valid))
    seam = align_chunks(earlier, blind, AlignmentSettings(mode=mode, locked_scale=1.7))
    assert (seam.quality.method, seam.quality.scale) == ("cameras", scale)


def test_many_pixels_are_drawn_uniformly_among_the_valid_ones() -> None:
    """Drawing first and looking then gives distinct valid pixels, as many from each frame as it has."""
    earlier, later, _ = pair()
    earlier.valid[-1, :, ::2] = False  # the last shared frame has half the pixels of the others
    few = AlignmentSettings(max_points=20, min_points=3)
    found = [find_correspondences(earlier, later, few.model_copy(update={"seed": k})) for k in range(60)]
    assert {len(each) for each in found} == {20}
    assert all(len(each.earlier.unique(dim=0)) == 20 for each in found)
    last = earlier.world_points[-1][earlier.valid[-1]]
    hits = sum((torch.cdist(each.earlier, last).min(dim=1).values < 1e-12).sum().item() for each in found)
    assert hits / 1200 == pytest.approx(0.2, abs=0.05)
