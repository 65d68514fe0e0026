"""ICP finds motions that were made."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from scal3r_train.config import UserError
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.metrics.icp import IcpMode, IcpSettings, refine_alignment

MOTION = Sim3(
    torch.tensor(1.0).double(),
    torch.from_numpy(Rotation.from_rotvec([0.02, -0.03, 0.05]).as_matrix()),
    torch.tensor([0.2, -0.1, 0.15]).double(),
)


def surface(num: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    x, y = random.uniform(-6, 6, (2, num))
    return np.column_stack([x, y, np.sin(0.7 * x) + np.cos(0.9 * y) + 0.3 * np.sin(2 * x + y)])


def scaled(scale: float) -> Sim3:
    return Sim3(torch.tensor(scale).double(), MOTION.rotation, MOTION.translation)


def moved_back(points: np.ndarray, motion: Sim3) -> np.ndarray:
    return motion.inverse().apply(torch.from_numpy(points)).numpy()


def errors(found: Sim3, motion: Sim3) -> tuple[float, float, float]:
    """Ratio of scales - 1, angle in radians, distance."""
    turn = Rotation.from_matrix((found.rotation @ motion.rotation.T).numpy()).magnitude()
    distance = (found.translation - motion.translation).norm().item()
    return abs(found.scale.item() / motion.scale.item() - 1), float(turn), distance


@pytest.mark.parametrize(("mode", "scale"), [("se3", 1.0), ("sim3", 1.04), ("sim3", 0.96)])
def test_the_motion_of_a_copy_is_found_to_the_last_digits(mode: IcpMode, scale: float) -> None:
    truth, motion = surface(4000, 0), scaled(scale)
    found = refine_alignment(
        moved_back(truth, motion), truth, IcpSettings(mode, 2.0, max_rounds=200, tolerance=1e-9)
    )
    assert found.converged
    assert max(errors(found.sim3, motion)) < 1e-6
    assert found.median_after < 1e-6 < 0.05 < found.median_before


@pytest.mark.parametrize(("mode", "scale"), [("se3", 1.0), ("sim3", 1.04)])
def test_other_points_noise_outliers_and_a_missing_part(mode: IcpMode, scale: float) -> None:
    random, motion = np.random.default_rng(3), scaled(scale)
    seen = surface(8000, 1)
    seen = seen[seen[:, 0] < 2] + random.normal(0, 0.02, (int((seen[:, 0] < 2).sum()), 3))
    estimate = np.concatenate([seen, random.uniform(-8, 8, (1200, 3))])
    found = refine_alignment(moved_back(estimate, motion), surface(8000, 0), IcpSettings(mode, 2.0))
    assert found.converged
    scale_error, turn, distance = errors(found.sim3, motion)
    assert scale_error < 0.005
    assert turn < 0.003
    assert distance < 0.03
    assert (found.sim3.scale == 1) == (mode == "se3")


def test_a_scale_does_not_creep_where_nothing_is_wrong() -> None:
    """Independent points of one surface: pairs of one direction alone would shrink the estimate."""
    found = refine_alignment(surface(5000, 1), surface(5000, 2), IcpSettings("sim3", 1.0))
    assert found.sim3.scale.item() == pytest.approx(1, abs=0.003)


def test_few_points_are_drawn_and_the_result_is_repeatable() -> None:
    truth = surface(8000, 0)
    settings = IcpSettings("se3", 2.0, max_points=500)
    runs = [refine_alignment(moved_back(truth, MOTION), truth, settings) for _ in range(2)]
    assert runs[0].num_pairs <= 1000
    assert torch.equal(runs[0].sim3.matrix(), runs[1].sim3.matrix())
    assert max(errors(runs[0].sim3, MOTION)) < 0.02


def test_rounds_are_bounded() -> None:
    truth = surface(2000, 0)
    found = refine_alignment(moved_back(truth, MOTION), truth, IcpSettings("se3", 2.0, max_rounds=2))
    assert (found.num_rounds, found.converged) == (2, False)


def test_clouds_that_do_not_meet_are_a_user_error() -> None:
    truth = surface(1000, 0)
    with pytest.raises(UserError, match="only 0 points lie within 2 of the other cloud"):
        refine_alignment(truth + 100, truth, IcpSettings("se3", 2.0))
