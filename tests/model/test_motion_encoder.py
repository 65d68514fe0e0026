"""The encoder that aligns neighbours directly: what it hands on, and that a known motion comes out."""

import math

import pytest
import torch
import torch.nn.functional as F

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.model import motion_encoder
from scal3r_train.model.chunk_batch import MotionEstimate
from scal3r_train.model.modeling_scal3r import Scal3RModel, _init_motion_encoder
from scal3r_train.model.motion_encoder import (
    BLURS,
    INITIAL_LOG_FOCAL,
    DirectPatchEncoder,
    coordinates,
    gaussian_blur,
    previous_frame,
)
from scal3r_train.model.patch_encoder import build_patch_encoder
from tests.model.tiny import random_images, randomized, tiny_config, tiny_model

HW = (48, 72)


def encoder(**changes: object) -> DirectPatchEncoder:
    """Return an encoder as training begins: one depth all over, and all cells trusted alike."""
    torch.manual_seed(0)
    sizes = {"patch_size": 12, "image_size": 48, "direct_levels": 3, "direct_stride": 3, "direct_channels": 8}
    built = build_patch_encoder(tiny_config(**{**sizes, "patch_encoder": "direct", **changes}))
    assert isinstance(built, DirectPatchEncoder)
    _init_motion_encoder(built)
    return built.double().eval()


def test_a_wall_that_moves_by_a_pixel_is_a_step_aside(monkeypatch):
    """A wall one unit away moves to the left by a pixel a frame: the camera goes to the right by 1 / focal."""
    monkeypatch.setattr(motion_encoder, "INITIAL_STEP", 0.0)
    built = encoder()
    torch.nn.init.constant_(built.log_parallax.bias, INITIAL_LOG_FOCAL)
    torch.nn.init.zeros_(built.log_parallax.weight)
    coarse = torch.rand(1, 3, 8, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wall = torch.nn.functional.interpolate(coarse, (HW[0], HW[1] + 12), mode="bicubic")[0]
    images = torch.stack([wall[..., i : i + HW[1]] for i in range(3)])
    _, *motion = built(images)
    steps = MotionEstimate(*motion).steps[1:, -1]
    focal = HW[1] * torch.tensor(INITIAL_LOG_FOCAL).exp().double()
    expected = torch.eye(3, 4).double().repeat(2, 1, 1)
    expected[:, 0, 3] = 1 / focal
    torch.testing.assert_close(steps, expected, rtol=0, atol=0.1 / focal.item())


def test_what_is_still_does_not_move(monkeypatch):
    monkeypatch.setattr(motion_encoder, "INITIAL_STEP", 0.0)
    built = encoder()
    _, poses, *_ = built(torch.rand(1, 3, *HW, dtype=torch.float64).expand(3, -1, -1, -1))
    extrinsics, _ = decode_pose(poses, HW)
    torch.testing.assert_close(extrinsics, torch.eye(3, 4).double().expand_as(extrinsics), rtol=0, atol=1e-6)


def test_the_reference_is_at_the_origin_and_shapes_are_those_stated():
    images = torch.rand(2, 3, 4, 3, *HW, dtype=torch.float64)
    tokens, *motion = randomized(encoder())(images)
    estimate = MotionEstimate(*motion)
    assert tokens.shape == (2, 3, 4, 24, 16)
    assert estimate.poses.shape == (2, 3, 4, 9)
    assert estimate.steps.shape == (2, 3, 4, len(BLURS), 3, 4)
    assert estimate.inverse_depth.shape == (2, 3, 4, 16, 24)
    assert estimate.fov.shape == (2, 3, 4)
    torch.testing.assert_close(estimate.fov, estimate.poses[..., 8])
    identity = torch.tensor([0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(estimate.poses[:, :, 1, :7], identity.expand(2, 3, 7))
    still = torch.eye(3, 4, dtype=torch.float64)
    torch.testing.assert_close(estimate.steps[:, :, 0], still.expand(2, 3, 3, 3, 4))


def test_poses_are_the_chain_of_the_last_steps():
    images = torch.rand(1, 1, 4, 3, *HW, dtype=torch.float64)
    _, *motion = randomized(encoder())(images)
    estimate = MotionEstimate(*motion)
    extrinsics, _ = decode_pose(estimate.poses, HW)
    steps = compose_extrinsics(extrinsics[:, :, :-1], invert_extrinsics(extrinsics[:, :, 1:]))
    torch.testing.assert_close(steps, estimate.steps[:, :, 1:, -1])


def test_chunks_do_not_see_each_other():
    images = torch.rand(1, 2, 3, 3, *HW, dtype=torch.float64)
    whole, alone = randomized(encoder())(images), randomized(encoder())(images[:, 1:])
    for together, single in zip(whole, alone, strict=True):
        torch.testing.assert_close(together[:, 1:], single)


def test_the_field_of_view_does_not_learn_from_the_motion():
    """Alignment would bend it to make up for other errors; depth and trust do learn from it."""
    built = encoder()
    _, _, steps, *_ = built(torch.rand(3, 3, *HW, dtype=torch.float64))
    steps.square().sum().backward()
    assert built.focal[-1].weight.grad is None
    for learned in (built.log_parallax, built.trust, built.stem):
        assert learned.weight.grad is not None and learned.weight.grad.abs().max() > 0


def test_a_known_field_of_view_is_used_instead_of_its_own():
    """What is seen sideways stays; depth follows from it by the focal length, and its own estimate is not touched."""
    images = torch.rand(1, 2, 3, 3, *HW, dtype=torch.float64)
    built = randomized(encoder())
    own = MotionEstimate(*built(images)[1:])
    same = MotionEstimate(*built(images, own.fov[..., 0])[1:])
    assert own.focal_evidence.shape == (1, 2, 2) and (own.focal_evidence[..., 0] > 0).all()
    for name in MotionEstimate._fields:
        torch.testing.assert_close(getattr(same, name), getattr(own, name))
    fov = torch.tensor([[0.7, 1.5]], dtype=torch.float64)
    given = MotionEstimate(*built(images, fov)[1:])
    torch.testing.assert_close(given.fov, own.fov)
    torch.testing.assert_close(given.poses[..., 8], fov[..., None].expand(1, 2, 3))
    focal = 0.5 / (torch.stack([own.fov[..., 0], fov]) / 2).tan()
    expected = own.inverse_depth * (focal[0] / focal[1])[..., None, None, None]
    torch.testing.assert_close(given.inverse_depth, expected)
    assert not torch.allclose(given.steps, own.steps)


def test_a_model_hands_the_field_of_view_on_whatever_the_passes():
    images, fov = random_images(2, 3, 3), torch.tensor([[0.6, 0.9, 1.2], [1.0, 1.1, 1.4]])
    model = tiny_model(patch_encoder="direct")
    whole = model(images, fov=fov)
    model.chunks_per_pass = 1
    apart = model(images, fov=fov)
    alone = tiny_model(patch_encoder="direct", memory_scope="chunk")(images, fov=fov)
    for name in ("pose_encoding", "motion_poses"):
        torch.testing.assert_close(apart[name], whole[name])
    torch.testing.assert_close(alone.motion_poses, whole.motion_poses)
    torch.testing.assert_close(
        whole.motion_poses[..., 8], fov[..., None].expand(2, 3, 3).to(whole.motion_poses)
    )
    with pytest.raises(ValueError, match=r"fov must be \[2, 3\]"):
        model(images, fov=fov[:1])
    with pytest.raises(ValueError, match="a list takes one number"):
        model([list(images[0])], fov=fov[:1])


def test_one_field_of_view_for_all_chunks_of_a_tensor_or_a_list():
    images, model = random_images(1, 3, 3), tiny_model(patch_encoder="direct")
    whole = model(images, fov=torch.full((1, 3), 1.1))
    poses = whole.pose_encoding
    torch.testing.assert_close(model(images, fov=1.1).pose_encoding, poses)
    (of_list,) = model([list(images[0])], fov=1.1).pose_encoding
    torch.testing.assert_close(torch.stack(of_list), poses[0])
    assert (model(images).pose_encoding - poses).abs().max() > 1e-3
    whole_number, also = (model(images, fov=one).pose_encoding for one in (1, torch.tensor(1.0)))
    assert torch.equal(whole_number, also)
    with pytest.raises(ValueError, match="between 0 and pi radians, got 70"):
        model(images, fov=70)


def test_a_blur_keeps_the_sum_and_adds_variances():
    point = torch.zeros(1, 2, 41, 61, dtype=torch.float64)
    point[..., 20, 30] = 1
    twice = gaussian_blur(gaussian_blur(point, 1.5), 2.0)
    rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(61.0) - 30, indexing="ij")
    assert twice[0, 1].sum().item() == pytest.approx(1)
    for offsets in (rows, columns):
        assert (twice[0, 0] * offsets**2).sum().item() == pytest.approx(2.5**2, rel=0.05)


@pytest.mark.parametrize("sigma", [0.8, 3.5])
def test_a_blur_is_two_convolutions_with_borders_continued(sigma):
    maps = torch.rand(2, 3, 9, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius = math.ceil(3 * sigma)  # more than the height
    kernel = torch.exp(-(torch.arange(-radius, radius + 1.0).double() ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None, None]
    padded = F.pad(maps.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    expected = F.conv2d(F.conv2d(padded, kernel), kernel.mT).unflatten(0, (2, 3))[:, :, 0]
    torch.testing.assert_close(gaussian_blur(maps, sigma), expected)


def test_previous_frame_stays_within_the_chunk():
    maps = torch.arange(6.0)[:, None]
    assert previous_frame(maps, 3).flatten().tolist() == [0, 0, 1, 3, 3, 4]


def test_coordinates_are_relative_to_the_middle_in_half_widths():
    place = coordinates(torch.zeros(1, 5, 2, 4, dtype=torch.float64))[0]
    torch.testing.assert_close(place[0, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]).double())
    torch.testing.assert_close(place[1, :, 0], torch.tensor([-0.25, 0.25]).double())


def test_a_new_model_starts_at_the_measured_motion():
    torch.manual_seed(0)
    model = Scal3RModel(tiny_config(patch_encoder="direct")).double().eval()
    output = model(random_images(1, 2, 3))
    stages = output.pose_encoding_stages
    assert stages.shape == (3, 1, 2, 3, 9)
    torch.testing.assert_close(stages[1:], stages[:1].expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(stages[0], output.motion_poses)
    assert output.motion_steps.shape == (1, 2, 3, 3, 3, 4) and output.inverse_depth.shape == (1, 2, 3, 8, 12)


def test_without_heads_the_encoder_runs_alone():
    model = tiny_model(patch_encoder="direct")
    images = random_images(1, 2, 3)
    expected = model(images)
    model.aggregator.frame_blocks[0].register_forward_hook(lambda *_: pytest.fail("a layer ran"))
    alone = model(images, heads=[])
    assert alone.pose_encoding is None and alone.depth is None
    for name in ("motion_poses", "motion_steps", "inverse_depth", "motion_fov"):
        torch.testing.assert_close(alone[name], expected[name])


def test_nested_chunks_and_other_passes_give_the_same_cameras():
    model = tiny_model(patch_encoder="direct")
    images = random_images(1, 3, 3)
    expected = model(images)
    nested = model([list(images[0])])
    model.chunks_per_pass = 1
    apart = model(images)
    for chunk in range(3):
        torch.testing.assert_close(nested.pose_encoding[0][chunk], expected.pose_encoding[0, chunk])
    for name in ("pose_encoding", "motion_steps", "inverse_depth"):
        torch.testing.assert_close(apart[name], expected[name])
    assert nested.motion_steps is None


def test_a_memory_for_each_chunk_keeps_its_motion():
    images = random_images(2, 2, 3)
    shared, single = (
        tiny_model(patch_encoder="direct", memory_scope=scope)(images) for scope in ("sequence", "chunk")
    )
    torch.testing.assert_close(single.motion_steps, shared.motion_steps)
    assert not torch.allclose(single.pose_encoding, shared.pose_encoding)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"direct_stride": 2}, "direct_stride must be odd"),
        ({"direct_levels": 4, "direct_stride": 1}, "direct_levels - 1"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(patch_encoder="direct", **sizes)
