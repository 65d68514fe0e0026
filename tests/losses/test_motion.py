"""Motion loss: true flow by projection, zero at the truth, and a known value for a known error."""

from dataclasses import replace

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import project, transform_points
from scal3r_train.losses.motion import MotionLossSettings, motion_targets, motion_terms
from scal3r_train.losses.objective import ObjectiveSettings, compute_terms
from scal3r_train.losses.targets import build_targets

HW, CELLS, STRIDE = (12, 16), (4, 5), 3


@pytest.fixture
def targets(make_batch):
    """Cameras that move little, so that most of what one sees is in view of the one before."""
    batch = make_batch(hw=(12, 15))
    still = torch.eye(3, 4, dtype=torch.float64).expand_as(batch.extrinsics).clone()
    still[..., 3] = 0.1 * torch.arange(3).double()[:, None]
    return build_targets(replace(batch, extrinsics=still), "chunk", lambda x: x, min_valid_pixels=1)


def perfect(targets):
    flow, _, has_depth, log_depth = motion_targets(targets, CELLS, (12, 15))
    return flow[:, :, :, None].repeat(1, 1, 1, 2, 1, 1, 1), (-log_depth).exp()


def means(terms):
    return {name: (entry.term.total.sum() / entry.term.count.sum()).item() for name, entry in terms.items()}


def test_zero_at_the_truth(targets):
    found = means(motion_terms(*perfect(targets), targets, MotionLossSettings()))
    assert found == {"motion_flow": 0.0, "motion_log_depth": pytest.approx(0, abs=1e-12)}


def test_a_known_offset_at_one_of_two_levels(targets):
    flow, inverse_depth = perfect(targets)
    flow[:, :, :, 0, 0] += 3
    flow[:, :, :, 0, 1] -= 4
    found = means(motion_terms(flow, 2 * inverse_depth, targets, MotionLossSettings()))
    assert found["motion_flow"] == pytest.approx(2.5)
    assert found["motion_log_depth"] == pytest.approx(torch.tensor(2.0).log().item())


def test_errors_are_capped(targets):
    flow, inverse_depth = perfect(targets)
    terms = motion_terms(flow + 100, inverse_depth, targets, MotionLossSettings(max_element_loss=7))
    assert means(terms)["motion_flow"] == pytest.approx(7)


def test_flow_leads_to_where_the_point_was_seen(targets):
    """A cell's centre moved by the flow is the projection of its point into the camera before."""
    flow, is_seen, _, _ = motion_targets(targets, CELLS, (12, 15))
    assert is_seen[:, :, 1:].double().mean() > 0.3 and not is_seen[:, :, 0].any()
    b, k, s, row, column = (int(i) for i in is_seen.nonzero()[7])
    from scal3r_train.geometry.pose_encoding import decode_pose

    extrinsics, intrinsics = decode_pose(targets.pose_encoding[b, k, s - 1], (12, 15))
    point = targets.world_points[b, k, s, STRIDE * row + 1, STRIDE * column + 1]
    pixel = project(transform_points(extrinsics, point[None]), intrinsics)[0]
    here = torch.tensor([STRIDE * column + 1.5, STRIDE * row + 1.5], dtype=torch.float64)
    torch.testing.assert_close(here + flow[b, k, s, :, row, column], pixel)


def test_gradients_are_finite_where_nothing_is_known(targets):
    nothing = replace(
        targets,
        mask=torch.zeros_like(targets.mask),
        pose_encoding=torch.zeros_like(targets.pose_encoding),
        chunk_mask=torch.zeros_like(targets.chunk_mask),
    )
    flow, inverse_depth = (x.requires_grad_() for x in perfect(targets))
    for truth in (targets, nothing):
        terms = motion_terms(flow, inverse_depth, truth, MotionLossSettings())
        total = sum(entry.term.total.sum() for entry in terms.values())
        gradients = torch.autograd.grad(total, (flow, inverse_depth))
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_is_off_by_default(make_batch, perfect_output):
    targets = build_targets(make_batch(), "chunk", lambda x: x)
    output = perfect_output(targets)
    assert "motion_flow" not in compute_terms(output, targets, ObjectiveSettings())
    switched_on = ObjectiveSettings(motion={"weight": 1.0})
    assert "motion_flow" not in compute_terms(output, targets, switched_on), "the model measures none"
    nothing = {name: {"weight": 0.0} for name in ("camera", "depth", "points")}
    with pytest.raises(UserError, match="nothing to learn from"):
        compute_terms(output, targets, ObjectiveSettings(**nothing, motion={"weight": 1.0}))
