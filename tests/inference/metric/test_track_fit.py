"""The fit to a track: its scale, what it says of its error, lines, outliers."""

import math

import numpy as np
import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.metric.camera_height import down_in_world
from scal3r_train.inference.metric.jackknife import jackknife_std
from scal3r_train.inference.metric.track_fit import fit_track, turned_by_gravity

NUM = 60
SCALE = 3.7


def path(*, straight: bool = False) -> torch.Tensor:
    """A drive round a quarter of a circle, or straight on, [NUM, 3] metres."""
    angle = torch.linspace(0, math.pi / 2, NUM, dtype=torch.float64)
    if straight:
        return torch.stack([20 * angle, 0 * angle, 0 * angle], dim=-1)
    return 20 * torch.stack([angle.sin(), 1 - angle.cos(), 0.01 * angle.sin()], dim=-1)


def scene_from_track() -> Sim3:
    tangent = torch.tensor([[3.0, -2, 5, 0.4, -1.2, 0.3, -math.log(SCALE)]], dtype=torch.float64)
    return sim3_tangent.exp(tangent).unstack()[0]


def test_the_stated_error_is_the_error_over_many_draws() -> None:
    """Noise that wanders: the stated error must neither be that of independent fixes nor much too large."""
    points = scene_from_track().apply(path())
    errors, stated = [], []
    for seed in range(20):
        random = np.random.default_rng(seed)
        noise = np.repeat(random.normal(size=(NUM // 6, 3)), 6, axis=0)
        fit = fit_track(points, path() + 0.2 * torch.from_numpy(noise))
        errors.append(math.log(float(fit.track_from_world.scale) / SCALE))
        assert fit.relative_std is not None
        stated.append(fit.relative_std)
    error, said = (float(np.sqrt(np.mean(np.square(values)))) for values in (errors, stated))
    assert 0.7 < said / error < 1.5


def test_noise_of_the_track_is_not_taken_for_length() -> None:
    """A fit that treats both sides alike would be far too long here."""
    random = np.random.default_rng(0)
    positions = path().repeat_interleave(50, dim=0) + 2.0 * torch.from_numpy(
        random.normal(size=(NUM * 50, 3))
    )
    fit = fit_track(scene_from_track().apply(path()).repeat_interleave(50, dim=0), positions)
    assert abs(float(fit.track_from_world.scale) / SCALE - 1) < 0.015


def test_outliers_lose_their_weight() -> None:
    positions = path() + 0.01 * torch.randn(
        NUM, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    positions[::4] += torch.tensor([40.0, -30, 80], dtype=torch.float64)
    fit = fit_track(scene_from_track().apply(path()), positions)
    assert float(fit.weights[::4].max()) < 1e-4
    assert abs(float(fit.track_from_world.scale) / SCALE - 1) < 1e-3


def test_a_straight_track_is_turned_by_gravity() -> None:
    positions = path(straight=True)
    fit = fit_track(scene_from_track().apply(positions), positions)
    assert fit.is_line
    assert not fit_track(scene_from_track().apply(path()), path()).is_line
    down = scene_from_track().rotation @ torch.tensor([0.0, 0, -1], dtype=torch.float64)
    turned = turned_by_gravity(fit.track_from_world, positions, down)
    torch.testing.assert_close(turned.rotation, scene_from_track().inverse().rotation)
    torch.testing.assert_close(turned.apply(scene_from_track().apply(positions)), positions)


def test_a_camera_that_stays_and_a_track_of_another_drive_are_refused() -> None:
    still = torch.zeros(NUM, 3, dtype=torch.float64)
    with pytest.raises(UserError, match="in the scene the camera stays"):
        fit_track(still, path())
    with pytest.raises(UserError, match="in the track the camera stays"):
        fit_track(path(), still)
    noise = torch.randn(NUM, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(UserError, match="are they of one drive"):
        fit_track(noise, path().flip(0) + 5 * noise.roll(7, 0))


def test_down_is_square_to_level_cameras_however_they_pitch() -> None:
    poses = []
    for frame in range(12):
        tangent = torch.zeros(2, 7, dtype=torch.float64)
        tangent[0, 4], tangent[1, 3] = 0.5 * frame, 0.6  # turned about y, then looking down
        turn, pitch = sim3_tangent.exp(tangent).rotation
        poses.append(torch.cat([turn @ pitch, torch.zeros(3, 1, dtype=torch.float64)], dim=1))
    down = torch.tensor([0.0, 1, 0], dtype=torch.float64)
    assert float(down_in_world(torch.stack(poses)) @ down) > 0.999
    straight = torch.eye(3, 4, dtype=torch.float64).repeat(5, 1, 1)
    torch.testing.assert_close(down_in_world(straight), down)


def test_a_jackknife_of_a_mean_is_the_textbooks_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=10)
    stated = jackknife_std(10, lambda kept: float(values[kept].mean()))
    assert stated == pytest.approx(values.std(ddof=1) / math.sqrt(10))
    assert jackknife_std(2, lambda kept: 1.0) is None
