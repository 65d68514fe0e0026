"""The pyramid of cost volumes: a known shift is that flow at every level, and what comes of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.model.build_patch_encoder import build_patch_encoder
from scal3r_train.model.chunk_batch import MotionEstimate
from scal3r_train.model.modeling_scal3r import Scal3RModel, _init_motion_encoder
from scal3r_train.model.motion_encoder import MotionPatchEncoder, coordinates, resized, warp
from tests.model.tiny import random_images, randomized, tiny_config, tiny_model

HW = (48, 72)
LARGE = (96, 144)


def encoder(**changes: object) -> MotionPatchEncoder:
    """Return an encoder as training begins: the soft-argmax alone is the flow."""
    torch.manual_seed(0)
    sizes = {"patch_size": 12, "image_size": 48, "correlation_levels": 3, "correlation_channels": 32}
    config = tiny_config(
        **{**sizes, "correlation_radius": 2, "patch_encoder": "direct", **changes}
    )
    built = build_patch_encoder(config)
    assert isinstance(built, MotionPatchEncoder)
    _init_motion_encoder(built)
    torch.nn.init.constant_(built.sharpness, 40.0)
    return built.double().eval()


def shifted_features(dx: int, dy: int, num_frames: int = 3) -> list[Tensor]:
    """Return features of three levels of frames that see what the next one sees at a place moved by (dx, dy) pixels."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = LARGE[0] // 3, LARGE[1] // 3
    noise = torch.randn(32, rows + 64, columns + 64, generator=generator, dtype=torch.float64)
    grain = torch.randn(1, 32, rows // 4 + 16, columns // 4 + 16, generator=generator, dtype=torch.float64)
    noise = noise + 2 * F.interpolate(grain, size=noise.shape[1:], mode="bicubic")[0]
    starts = [(32 - frame * dy // 3, 32 - frame * dx // 3) for frame in range(num_frames)]
    fine = torch.stack([noise[:, y : y + rows, x : x + columns] for y, x in starts])
    return [F.avg_pool2d(fine, 4), F.avg_pool2d(fine, 2), fine]


@pytest.mark.parametrize("shift", [(12, 0), (0, -12), (-12, 12), (24, -12)])
def test_a_known_shift_is_the_flow_of_every_level(shift, monkeypatch):
    """A frame shows at x what the one before it showed at x + shift; in the middle, where both see it."""
    built = encoder()
    levels = shifted_features(*(-side for side in shift))
    monkeypatch.setattr(built, "_pyramid", lambda _images: levels)
    _, _, flow, _ = built(torch.rand(3, 3, *LARGE, dtype=torch.float64))
    assert flow.shape == (3, 3, 2, 32, 48)
    for level in range(3):
        middle = flow[1:, level, :, 13:19, 20:28]
        truth = torch.tensor(shift, dtype=torch.float64)[:, None, None].expand_as(middle)
        torch.testing.assert_close(middle, truth, rtol=0, atol=0.3)
    assert flow[0].abs().max() == 0, "the first frame has none before it"


@pytest.mark.parametrize("shift", [(3, 0), (-6, 9), (15, -6)])
def test_finer_levels_come_nearer_to_what_is_no_multiple_of_a_coarse_cell(shift, monkeypatch):
    built = encoder()
    levels = shifted_features(*(-side for side in shift))
    monkeypatch.setattr(built, "_pyramid", lambda _images: levels)
    _, _, flow, _ = built(torch.rand(3, 3, *LARGE, dtype=torch.float64))
    coarse, _, fine = (
        (flow[1:, level, :, 12:20, 18:30] - torch.tensor(shift).double()[:, None, None]).norm(dim=1).median()
        for level in range(3)
    )
    assert fine < 0.5 * coarse and fine < 0.6 * 3


def test_what_is_still_has_no_motion():
    _, poses, flow, _ = encoder()(torch.rand(1, 3, *HW, dtype=torch.float64).expand(3, -1, -1, -1))
    extrinsics, _ = decode_pose(poses, HW)
    torch.testing.assert_close(extrinsics, torch.eye(3, 4).double().expand_as(extrinsics), rtol=0, atol=0.05)


def test_the_reference_is_at_the_origin_and_shapes_are_those_stated():
    images = torch.rand(2, 3, 4, 3, *HW, dtype=torch.float64)
    tokens, *motion = randomized(encoder())(images)
    estimate = MotionEstimate(*motion)
    assert tokens.shape == (2, 3, 4, 24, 16)
    assert estimate.poses.shape == (2, 3, 4, 9)
    assert estimate.flow.shape == (2, 3, 4, 3, 2, 16, 24)
    assert estimate.inverse_depth.shape == (2, 3, 4, 16, 24)
    identity = torch.tensor([0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(estimate.poses[:, :, 1, :7], identity.expand(2, 3, 7))


def test_chunks_do_not_see_each_other():
    images = torch.rand(1, 2, 3, 3, *HW, dtype=torch.float64)
    whole, alone = randomized(encoder())(images), randomized(encoder())(images[:, 1:])
    for together, single in zip(whole, alone, strict=True):
        torch.testing.assert_close(together[:, 1:], single)


def test_warp_fetches_what_lies_where_the_displacement_points():
    maps = torch.rand(1, 2, 5, 7, dtype=torch.float64)
    displacement = torch.zeros(1, 2, 5, 7, dtype=torch.float64)
    displacement[:, 0], displacement[:, 1] = 2, -1
    found = warp(maps, displacement)
    torch.testing.assert_close(found[..., 1:, :-2], maps[..., :-1, 2:])
    assert found[..., 0, :].abs().max() < 1e-15 and found[..., -2:].abs().max() < 1e-15
    displacement[:, 0], displacement[:, 1] = 0.25, 0
    torch.testing.assert_close(
        warp(maps, displacement)[..., :-1], 0.75 * maps[..., :-1] + 0.25 * maps[..., 1:]
    )


def test_coordinates_are_relative_to_the_middle_in_half_widths():
    place = coordinates((2, 4), 3, (6, 12), torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(place[0, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]).double())
    torch.testing.assert_close(place[1, :, 0], torch.tensor([-0.25, 0.25]).double())


def test_resizing_keeps_the_unit_of_values():
    assert resized(torch.full((1, 2, 3, 4), 5.0), (6, 8)).unique().tolist() == [5.0]


def test_a_new_model_starts_at_the_measured_motion():
    torch.manual_seed(0)
    model = Scal3RModel(tiny_config(patch_encoder="direct")).double().eval()
    output = model(random_images(1, 2, 3))
    stages = output.pose_encoding_stages
    assert stages.shape == (3, 1, 2, 3, 9)
    torch.testing.assert_close(stages[1:], stages[:1].expand(2, -1, -1, -1, -1))
    assert output.flow.shape == (1, 2, 3, 2, 2, 4, 6) and output.inverse_depth.shape == (1, 2, 3, 4, 6)


def test_nested_chunks_and_other_passes_give_the_same_cameras():
    model = tiny_model(patch_encoder="direct")
    images = random_images(1, 3, 3)
    expected = model(images)
    nested = model([list(images[0])])
    model.chunks_per_pass = 1
    apart = model(images)
    for chunk in range(3):
        torch.testing.assert_close(nested.pose_encoding[0][chunk], expected.pose_encoding[0, chunk])
    for name in ("pose_encoding", "flow", "inverse_depth"):
        torch.testing.assert_close(apart[name], expected[name])
    assert nested.flow is None


def test_a_memory_for_each_chunk_keeps_its_motion():
    images = random_images(2, 2, 3)
    shared, single = (
        tiny_model(patch_encoder="direct", memory_scope=scope)(images)
        for scope in ("sequence", "chunk")
    )
    torch.testing.assert_close(shared.flow, single.flow)
    torch.testing.assert_close(shared.pose_encoding_stages[0], single.pose_encoding_stages[0])
