"""Camera and dense heads: position map from its definition, activations, passes, iterations."""

import math

import pytest
import torch

from scal3r_train.model.camera_head import CameraHead
from scal3r_train.model.dpt_head import DPTHead, ResidualConvUnit, position_map
from tests.model.tiny import randomized, tiny_config


@pytest.mark.parametrize(
    ("channels", "hw", "aspect"), [(8, (2, 3), 1.5), (16, (5, 4), 0.8), (4, (1, 1), 1.0)]
)
def test_position_map_equals_its_definition(channels, hw, aspect):
    """E of docs/numerics.md#dpt-heads, number by number."""
    height, width = hw
    found = position_map(channels, height, width, aspect, torch.device("cpu"))
    quarter = channels // 4
    extent_x = aspect / math.sqrt(aspect**2 + 1)
    extent_y = 1 / math.sqrt(aspect**2 + 1)
    for row in range(height):
        for column in range(width):
            u = extent_x * (2 * column - (width - 1)) / width
            v = extent_y * (2 * row - (height - 1)) / height
            frequencies = [100 ** (-k / quarter) for k in range(quarter)]
            expected = [
                0.1 * function(position * frequency)
                for position in (u, v)
                for function in (math.sin, math.cos)
                for frequency in frequencies
            ]
            assert found[:, row, column].tolist() == pytest.approx(expected, abs=1e-7)


def test_position_map_is_point_symmetric_in_its_sines():
    found = position_map(8, 4, 6, 1.5, torch.device("cpu"))
    turned = found.flip(1, 2)
    torch.testing.assert_close(found[:2], -turned[:2])
    torch.testing.assert_close(found[2:4], turned[2:4])


def test_the_residual_unit_skips_the_rectified_input():
    """Released weights expect it (docs/numerics.md#dpt-heads): with zero convolutions the unit is a ReLU."""
    unit = ResidualConvUnit(4)
    for parameter in unit.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 3, 3)
    before = x.clone()
    assert torch.equal(unit(x), x.clamp(min=0))
    assert torch.equal(x, before)


def make_dense(activation: str, frames_per_pass: int = 8) -> DPTHead:
    config = tiny_config(dpt_frames_per_pass=frames_per_pass)
    torch.manual_seed(0)
    return randomized(DPTHead(config, 4 if activation == "inverse_log" else 2, activation)).double().eval()


def make_taps(num_frames: int, grid: tuple[int, int]) -> list[list[torch.Tensor]]:
    return [[tap] for tap in torch.randn(4, num_frames, math.prod(grid), 32, dtype=torch.float64)]


@pytest.mark.parametrize("grid", [(2, 3), (1, 1), (5, 2)])
def test_dense_heads_fill_the_image(grid):
    depth, conf = make_dense("exp")(make_taps(3, grid), grid)
    assert depth.shape == (3, 4 * grid[0], 4 * grid[1], 1)
    assert conf.shape == (3, 4 * grid[0], 4 * grid[1])
    assert depth.min() > 0
    assert conf.min() >= 1
    points, _ = make_dense("inverse_log")(make_taps(3, grid), grid)
    assert points.shape == (3, 4 * grid[0], 4 * grid[1], 3)


def test_frames_of_a_dense_head_are_independent_of_the_pass_they_share():
    taps = make_taps(5, (2, 3))
    together, conf = make_dense("exp", 8)(taps, (2, 3))
    for frames_per_pass in (1, 2):
        values, other_conf = make_dense("exp", frames_per_pass)(taps, (2, 3))
        torch.testing.assert_close(values, together, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other_conf, conf, rtol=1e-12, atol=1e-12)


def test_a_tap_may_come_in_parts_and_behind_special_tokens():
    taps = make_taps(5, (2, 3))
    special = torch.full((5, 2, 32), 7.0, dtype=torch.float64)
    parts = [torch.cat([special, tap], dim=1).split([12, 20], dim=-1) for (tap,) in taps]
    for found, expected in zip(
        make_dense("exp")(parts, (2, 3)), make_dense("exp")(taps, (2, 3)), strict=True
    ):
        assert torch.equal(found, expected)


def test_point_activation_inverts_the_signed_logarithm():
    points = torch.tensor([-30.0, -0.1, 0.0, 1e-4, 5.0], dtype=torch.float64)
    logarithm = points.sign() * torch.log1p(points.abs())
    torch.testing.assert_close(make_dense("inverse_log")._activate(logarithm), points, rtol=1e-12, atol=0)


def make_camera(**changes: object) -> CameraHead:
    torch.manual_seed(0)
    return randomized(CameraHead(tiny_config(**changes))).double().eval()


def test_camera_iterations_refine_one_another():
    """The first stages do not depend on how many follow; one iteration is the first stage."""
    tokens = torch.randn(2, 3, 32, dtype=torch.float64)
    four = make_camera(camera_iterations=4)(tokens)
    assert four.shape == (4, 2, 3, 9)
    torch.testing.assert_close(make_camera(camera_iterations=2)(tokens), four[:2])
    assert (four[1:] - four[:-1]).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_field_of_view_is_rectified_but_refined_unrectified():
    """A step below zero is not forgotten: the raw sum goes into the next iteration (docs/numerics.md#camera-head)."""
    head = make_camera(camera_iterations=2)
    steps = iter([torch.tensor([0.0] * 7 + [-1.0, 0.5]), torch.tensor([0.0] * 7 + [1.5, -0.75])])
    head.pose_branch.forward = lambda x: next(steps).expand(*x.shape[:2], 9).to(x.dtype)
    seen = []
    head.embed_pose.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    stages = head(torch.randn(1, 1, 32, dtype=torch.float64))
    assert stages[:, 0, 0, 7:].tolist() == [[0, 0.5], [0.5, 0]]
    assert seen[1][0, 0, 7:].tolist() == [-1, 0.5]


def test_frames_of_a_camera_head_talk_within_their_chunk_only():
    head, tokens = make_camera(), torch.randn(2, 3, 32, dtype=torch.float64)
    other = tokens.clone()
    other[0, 0] = -other[0, 0]
    changed = (head(tokens) - head(other)).abs().amax(dim=(0, 3)) > 1e-9
    assert changed.tolist() == [[True] * 3, [False] * 3]
