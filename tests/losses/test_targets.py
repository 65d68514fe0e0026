from dataclasses import replace

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.losses.targets import build_targets, require_finite, require_sane_scale


def no_group(tensor):
    return tensor


def forbidden_group(tensor):
    raise AssertionError("per-chunk targets need no communication")


def test_points_reproject_onto_their_own_pixels(make_batch):
    batch = make_batch()
    targets = build_targets(batch, "chunk", forbidden_group)
    extrinsics, intrinsics = decode_pose(targets.pose_encoding, (12, 16))
    points_cam = torch.einsum("bksij,bkshwj->bkshwi", extrinsics[..., :3], targets.world_points)
    points_cam = points_cam + extrinsics[..., None, None, :, 3]
    pixels = torch.einsum("bksij,bkshwj->bkshwi", intrinsics, points_cam / points_cam[..., 2:])[..., :2]
    rows, columns = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    expected = torch.stack([columns, rows], dim=-1).double().expand_as(pixels)
    torch.testing.assert_close(pixels[targets.mask], expected[targets.mask])
    torch.testing.assert_close(points_cam[..., 2][targets.mask], targets.depth[targets.mask])


def test_mean_distance_of_normalised_points_is_one_per_chunk(make_batch):
    targets = build_targets(make_batch(num_sequences=2), "chunk", forbidden_group)
    for b in range(2):
        for k in range(2):
            distances = targets.world_points[b, k][targets.mask[b, k]].norm(dim=-1)
            assert distances.mean().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scope", ["chunk", "sequence"])
def test_targets_do_not_change_with_the_unit_of_length(make_batch, scope):
    batch = make_batch(num_sequences=2)
    extrinsics = batch.extrinsics.clone()
    extrinsics[..., 3] *= 7
    scaled = replace(batch, depth=batch.depth * 7, extrinsics=extrinsics)
    small, large = (build_targets(one, scope, no_group) for one in (batch, scaled))
    torch.testing.assert_close(large.scale, small.scale * 7)
    for field in ("pose_encoding", "depth", "world_points"):
        torch.testing.assert_close(getattr(large, field), getattr(small, field))


def test_the_data_s_own_unit_stays(make_batch):
    batch = make_batch(num_sequences=2)
    targets = build_targets(batch, "data", forbidden_group)
    assert torch.equal(targets.scale, torch.ones_like(targets.scale)) and targets.has_scale.all()
    assert torch.equal(targets.depth[targets.mask], batch.depth[targets.mask])
    torch.testing.assert_close(targets.pose_encoding[..., :3], batch.extrinsics[..., 3])


def test_scale_of_a_sequence_is_the_same_however_its_chunks_are_spread(make_batch):
    batch = make_batch(num_sequences=2, num_chunks=5)
    batch = replace(batch, depth=batch.depth * torch.tensor([1.0, 2, 3, 4, 5])[:, None, None, None])
    whole = build_targets(batch, "sequence", no_group)
    assert torch.equal(whole.scale, whole.scale[:, :1].expand(2, 5))

    def part(a, b):
        fields = ("images", "depth", "extrinsics", "intrinsics", "chunk_mask")
        return replace(batch, **{name: getattr(batch, name)[:, a:b] for name in fields})

    sent = []
    for a, b in ((0, 3), (3, 5)):
        build_targets(part(a, b), "sequence", lambda tensor: sent.append(tensor) or tensor)
    for a, b in ((0, 3), (3, 5)):
        split = build_targets(part(a, b), "sequence", lambda tensor: sent[0] + sent[1])
        torch.testing.assert_close(split.scale, whole.scale[:, a:b], rtol=1e-14, atol=0)
        torch.testing.assert_close(split.world_points, whole.world_points[:, a:b], rtol=1e-13, atol=1e-15)


def test_padding_may_hold_anything(make_batch):
    batch = make_batch()
    mask = torch.tensor([[True, False]])
    broken = {name: getattr(batch, name).clone() for name in ("depth", "extrinsics", "intrinsics")}
    for tensor in broken.values():
        tensor[:, 1] = torch.nan
    targets = build_targets(replace(batch, chunk_mask=mask, **broken), "sequence", no_group)
    alone = build_targets(replace(batch, chunk_mask=mask), "sequence", no_group)
    for name, value in vars(targets).items():
        assert torch.equal(value, getattr(alone, name)), name
    assert not targets.mask[:, 1].any()
    assert targets.pose_encoding[:, 1].abs().sum() == 0
    assert not targets.has_scale[0, 1]


def test_a_chunk_without_depth_has_no_scale(make_batch):
    batch = make_batch()
    depth = batch.depth.clone()
    depth[:, 1].flatten()[5:] = 0
    batch = replace(batch, depth=depth)
    per_chunk = build_targets(batch, "chunk", forbidden_group, min_valid_pixels=10)
    assert per_chunk.has_scale.tolist() == [[True, False]]
    assert per_chunk.scale[0, 1] == 1
    assert not per_chunk.mask[0, 1].any()
    per_sequence = build_targets(batch, "sequence", no_group, min_valid_pixels=10)
    assert per_sequence.has_scale.tolist() == [[True, True]]
    assert per_sequence.scale[0, 1] == per_chunk.scale[0, 0]


@pytest.mark.parametrize("field", ["depth", "extrinsics", "intrinsics"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_ground_truth_names_sequence_and_field(make_batch, field, value):
    batch = make_batch(num_sequences=2)
    tensor = getattr(batch, field).clone()
    tensor[1, 0].view(-1)[3] = value
    with pytest.raises(UserError, match=rf"^{field} of sequence 'town_1' contain NaN or infinity; .+$"):
        require_finite(replace(batch, **{field: tensor}))


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_an_impossible_scale_names_the_sequence(make_batch, factor):
    batch = make_batch(num_sequences=2)
    extrinsics, depth = batch.extrinsics.clone(), batch.depth.clone()
    extrinsics[1, ..., 3] *= factor
    depth[1] *= factor
    targets = build_targets(replace(batch, depth=depth, extrinsics=extrinsics), "chunk", forbidden_group)
    with pytest.raises(UserError, match="mean distance .* of sequence 'town_1' is outside"):
        require_sane_scale(targets.scale.flatten().tolist(), batch.sequence_ids)
    require_sane_scale(targets.scale[0].tolist(), batch.sequence_ids[:1])


def test_autocast_does_not_reach_the_targets(make_batch):
    batch = make_batch(dtype=torch.float32)
    plain = build_targets(batch, "chunk", forbidden_group)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = build_targets(batch, "chunk", forbidden_group)
    assert torch.equal(inside.world_points, plain.world_points)
    assert torch.equal(inside.pose_encoding, plain.pose_encoding)
