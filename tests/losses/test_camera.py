import pytest
import torch

from scal3r_train.losses.camera import CameraLossSettings, camera_terms

T, B, K, S = 4, 1, 2, 3


def both(value=True):
    return torch.full((B, K), value)


def truth():
    encoding = torch.zeros(B, K, S, 9, dtype=torch.float64)
    encoding[..., :3] = torch.tensor([0.3, -0.2, 0.9])
    encoding[..., 3:7] = torch.nn.functional.normalize(torch.tensor([0.1, 0.2, -0.3, 0.8]).double(), dim=0)
    encoding[..., 7:] = 1.1
    return encoding


def means(terms):
    return {name: (entry.term.total / entry.term.count) for name, entry in terms.items()}


def run(stages, settings=None, pose_mask=None, translation_mask=None):
    pose_mask = both() if pose_mask is None else pose_mask
    translation_mask = pose_mask if translation_mask is None else translation_mask
    return camera_terms(stages, truth(), pose_mask, translation_mask, settings or CameraLossSettings())


def test_zero_at_the_truth():
    for mean in means(run(truth().expand(T, -1, -1, -1, -1))).values():
        assert mean.abs().max() == 0


def test_closed_form_over_stages():
    stages = truth().repeat(T, 1, 1, 1, 1)
    stages[0, ..., :3] += 0.5  # first stage: decayed three times
    stages[3, ..., 2] -= 0.6  # last stage, one component of three
    stages[2, ..., 7] += 0.4  # second to last, one component of two
    result = means(run(stages))
    torch.testing.assert_close(
        result["camera_translation"], torch.full((B, K), (0.6**3 * 0.5 + 0.2) / 4).double()
    )
    torch.testing.assert_close(result["camera_fov"], torch.full((B, K), 0.6 * 0.2 / 4).double())
    assert result["camera_rotation"].abs().max() == 0


def test_weights_and_counts():
    terms = run(truth()[None])
    assert [terms[f"camera_{part}"].weight for part in ("translation", "rotation", "fov")] == [5.0, 5.0, 2.5]
    assert [
        terms[f"camera_{part}"].term.count[0, 0].item() for part in ("translation", "rotation", "fov")
    ] == [9, 12, 6]


def test_gradient_points_towards_the_truth():
    stages = (truth()[None] + 0.1).requires_grad_()
    sum(entry.term.total.sum() for entry in run(stages).values()).backward()
    assert torch.equal(stages.grad.sign(), torch.ones_like(stages))


@pytest.mark.parametrize("antipodal", [True, False])
def test_antipodal_quaternion_is_the_same_rotation(antipodal):
    stages = truth()[None].clone()
    stages[..., 3:7] *= -1
    result = means(run(stages, CameraLossSettings(antipodal_rotations=antipodal)))["camera_rotation"]
    expected = 0.0 if antipodal else 2 * truth()[0, 0, 0, 3:7].abs().mean().item()
    torch.testing.assert_close(result, torch.full((B, K), expected).double())


def test_translation_error_is_capped_but_not_infinity():
    stages = truth()[None].clone()
    stages[..., 0] += 1e4
    torch.testing.assert_close(means(run(stages))["camera_translation"], torch.full((B, K), 100 / 3).double())
    stages[0, 0, 0, 0, 0] = torch.inf
    assert not means(run(stages))["camera_translation"][0, 0].isfinite()


def test_masked_chunks_have_no_loss_and_no_gradient():
    stages = (truth()[None] + 0.1).clone()
    stages[:, :, 1] = torch.nan
    stages.requires_grad_()
    terms = run(stages, pose_mask=torch.tensor([[True, False]]))
    for entry in terms.values():
        assert entry.term.total[0, 1] == 0
        assert entry.term.count[0, 1] == 0
    sum(entry.term.total.sum() for entry in terms.values()).backward()
    assert stages.grad[:, :, 1].abs().max() == 0
    assert stages.grad[:, :, 0].abs().min() > 0


def test_translation_needs_a_known_unit():
    terms = run(truth()[None] + 0.1, translation_mask=torch.tensor([[True, False]]))
    assert terms["camera_translation"].term.count.tolist() == [[9, 0]]
    assert terms["camera_translation"].term.total[0, 1] == 0
    assert terms["camera_rotation"].term.count.tolist() == [[12, 12]]
