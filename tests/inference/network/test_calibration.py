"""Calibration: the windows' evidence moves the field of view to where it balances the network's own estimate."""

import math
from types import SimpleNamespace

import pytest
import torch

from scal3r_train.inference.network.calibration import (
    NUM_WINDOWS,
    OWN_INFORMATION,
    WINDOW_SIZE,
    calibrate,
    calibration_windows,
)
from tests.model.tiny import tiny_model


class Pulls:
    """A network whose pictures pull to a focal length; its own field of view is 1 radian."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, true_fov: float, information: float) -> None:
        self.true_log_focal = -math.log(2 * math.tan(true_fov / 2))
        self.information = information

    def __call__(self, images, heads, fov=None, *, return_dict):
        num_windows = images.shape[1]
        own = torch.ones(1, num_windows, images.shape[2])
        used = own[..., 0] if fov is None else fov
        log_focal = -(2 * (used.double() / 2).tan()).log()
        information = torch.full_like(log_focal, self.information / num_windows)
        pull = information * (self.true_log_focal - log_focal)
        return SimpleNamespace(motion_fov=own, focal_evidence=torch.stack([information, pull], dim=-1))


@pytest.mark.parametrize("true_fov", [0.6, 1.5])
def test_evidence_and_own_estimate_are_weighed(true_fov):
    windows = [torch.zeros(3, 3, 8, 12, dtype=torch.uint8)] * 4
    sure = calibrate(Pulls(true_fov, 1e9), windows)
    assert sure == pytest.approx(true_fov, rel=1e-3)
    unsure = calibrate(Pulls(true_fov, 3 * OWN_INFORMATION), windows)
    logs = [-math.log(2 * math.tan(fov / 2)) for fov in (true_fov, 1.0, unsure)]
    assert logs[2] == pytest.approx(0.75 * logs[0] + 0.25 * logs[1], abs=2e-3)
    assert calibrate(Pulls(true_fov, math.nan), windows) == pytest.approx(1.0)


def test_windows_are_spread_and_lie_within_the_video():
    for num_frames in (1, 5, WINDOW_SIZE, 30, 4819):
        windows = calibration_windows(num_frames)
        assert len({len(window) for window in windows}) == 1
        assert windows[0].start == 0 and windows[-1].stop in (num_frames, len(windows[0]))
    assert len(calibration_windows(4819)) == NUM_WINDOWS
    assert calibration_windows(4819)[-1].stop == 4819


def test_a_network_calibrates_within_what_cameras_have():
    model = tiny_model(dtype=torch.float32, patch_encoder="direct").eval()
    windows = torch.randint(
        0, 256, (2, 4, 3, 8, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert 0.05 < calibrate(model, list(windows)) < 3.1
