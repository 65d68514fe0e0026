"""Motion loss: zero at the truth, known values for known errors, nothing learned where nothing is known."""

from dataclasses import replace

import pytest
import roma
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.losses.motion import MotionLossSettings, motion_terms, true_steps
from scal3r_train.losses.objective import ObjectiveSettings, compute_terms
from scal3r_train.losses.targets import build_targets

NUM_LEVELS, STRIDE = 2, 3  # of an encoder; 12 x 15 pixels are 4 x 5 cells


@pytest.fixture
def batch(make_batch):
    return make_batch(hw=(12, 15))


@pytest.fixture
def targets(batch):
    return build_targets(batch, "data", lambda x: x, min_valid_pixels=1)


def perfect(targets):
    """Fields of view, steps, inverse depth and focal evidence of a model that knows."""
    depth = targets.depth[..., STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    steps = true_steps(targets)[:, :, :, None].repeat(1, 1, 1, NUM_LEVELS, 1, 1)
    evidence = torch.zeros(*targets.chunk_mask.shape, 2, dtype=steps.dtype)
    return targets.pose_encoding[..., 8].clone(), steps, 1 / torch.where(depth > 0, depth, 1.0), evidence


def means(terms):
    return {name: (entry.term.total.sum() / entry.term.count.sum()).item() for name, entry in terms.items()}


def test_zero_at_the_truth(targets):
    found = means(motion_terms(*perfect(targets), targets, MotionLossSettings()))
    assert found == {
        "motion_turn": pytest.approx(0, abs=1e-7),
        "motion_translation": 0.0,
        "motion_fov": 0.0,
        "motion_focal": 0.0,
        "motion_log_depth": pytest.approx(0, abs=1e-12),
    }


def test_true_steps_lead_to_the_frame_before(batch, targets):
    """In the data's own unit, by the batch's cameras; a chunk's first frame stays."""
    found = true_steps(targets)
    expected = compose_extrinsics(batch.extrinsics[:, :, :-1], invert_extrinsics(batch.extrinsics[:, :, 1:]))
    real = batch.chunk_mask
    torch.testing.assert_close(found[:, :, 1:][real], expected[real])
    identity = torch.eye(3, 4, dtype=found.dtype)
    torch.testing.assert_close(found[:, :, 0], identity.expand_as(found[:, :, 0]))


def test_known_errors_at_one_of_two_levels(targets):
    fov, steps, inverse_depth, evidence = perfect(targets)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.02, 0.0], dtype=torch.float64))
    steps[:, :, :, 0, :, :3] = turn @ steps[:, :, :, 0, :, :3]
    steps[:, :, :, 1, :, 3] *= 1.5
    found = means(motion_terms(fov, steps, 2 * inverse_depth, evidence, targets, MotionLossSettings()))
    assert found["motion_turn"] == pytest.approx(0.01, rel=1e-3)
    assert found["motion_translation"] == pytest.approx(0.25)
    assert found["motion_log_depth"] == pytest.approx(torch.tensor(2.0).log().item())


def test_a_wrong_field_of_view_costs_itself_alone(targets):
    fov, steps, inverse_depth, evidence = perfect(targets)
    found = means(motion_terms(fov + 0.1, steps, inverse_depth, evidence, targets, MotionLossSettings()))
    assert found["motion_fov"] == pytest.approx(0.1)
    assert found["motion_turn"] == pytest.approx(0, abs=1e-7) and found["motion_translation"] == 0


def test_the_pull_on_the_focal_length_counts_as_the_change_it_asks_for(targets):
    fov, steps, inverse_depth, evidence = perfect(targets)
    evidence[..., 0], evidence[..., 1] = 900, -50
    found = means(motion_terms(fov, steps, inverse_depth, evidence, targets, MotionLossSettings()))
    assert found["motion_focal"] == pytest.approx(0.05)


def test_the_field_of_view_of_a_batch_is_that_of_its_cameras(batch):
    """Of the frames' mean focal length; padding has some."""
    mask = torch.ones_like(batch.chunk_mask)
    mask[0, 1] = False
    one_camera = replace(
        batch, chunk_mask=mask, intrinsics=batch.intrinsics[:, :, :1].expand_as(batch.intrinsics)
    )
    targets = build_targets(one_camera, "data", lambda x: x, min_valid_pixels=1)
    torch.testing.assert_close(one_camera.fov()[0, 0], targets.pose_encoding[0, 0, 0, 8])
    assert one_camera.fov()[0, 1] == 1


def test_errors_are_capped(targets):
    fov, steps, inverse_depth, evidence = perfect(targets)
    steps[..., 3] *= 1e6
    terms = motion_terms(fov, steps, inverse_depth, evidence, targets, MotionLossSettings(max_element_loss=7))
    assert means(terms)["motion_translation"] == pytest.approx(7)


def test_what_is_no_number_reaches_the_loss(targets):
    """The vote on finite losses must see it."""
    fov, steps, inverse_depth, evidence = perfect(targets)
    terms = motion_terms(fov, steps * torch.nan, inverse_depth, evidence, targets, MotionLossSettings())
    found = means(terms)
    assert all(found[name] != found[name] for name in ("motion_turn", "motion_translation"))


def test_gradients_are_finite_where_nothing_is_known(targets):
    nothing = replace(
        targets,
        mask=torch.zeros_like(targets.mask),
        pose_encoding=torch.zeros_like(targets.pose_encoding),
        chunk_mask=torch.zeros_like(targets.chunk_mask),
    )
    inputs = [x.requires_grad_() for x in perfect(targets)]
    for truth in (targets, nothing):
        terms = motion_terms(*inputs, truth, MotionLossSettings())
        total = sum(entry.term.total.sum() for entry in terms.values())
        gradients = torch.autograd.grad(total, inputs)
        assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(entry.term.count.sum() == 0 for entry in terms.values())


def test_without_depth_there_is_no_unit_of_length(batch):
    blind = replace(batch, depth=torch.zeros_like(batch.depth))
    targets = build_targets(blind, "data", lambda x: x, min_valid_pixels=1)
    terms = motion_terms(*perfect(targets), targets, MotionLossSettings())
    assert terms["motion_translation"].term.count.sum() == 0 < terms["motion_turn"].term.count.sum()


def test_is_off_by_default(make_batch, perfect_output):
    targets = build_targets(make_batch(), "chunk", lambda x: x)
    output = perfect_output(targets)
    assert "motion_turn" not in compute_terms(output, targets, ObjectiveSettings())
    switched_on = ObjectiveSettings(motion={"weight": 1.0})
    assert "motion_turn" not in compute_terms(output, targets, switched_on), "the model measures none"
    nothing = {name: {"weight": 0.0} for name in ("camera", "depth", "points")}
    with pytest.raises(UserError, match="nothing to learn from"):
        compute_terms(output, targets, ObjectiveSettings(**nothing, motion={"weight": 1.0}))
