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
from scal3r_train.model.aggregator import normalize_images
from tests.model.tiny import tiny_model


class Pulls:
    """An encoder whose pictures pull to a focal length; its own field of view is 1 radian."""

    def __init__(self, true_fov: float, information: float) -> None:
        self.true_log_focal = -math.log(2 * math.tan(true_fov / 2))
        self.information = information

    def look(self, images):
        return SimpleNamespace(fov=torch.ones(images.shape[:2]))

    def measure(self, sight, fov):
        log_focal = -(2 * (fov.double() / 2).tan()).log()
        information = torch.full_like(log_focal, self.information / len(fov))
        pull = information * (self.true_log_focal - log_focal)
        return SimpleNamespace(focal_evidence=torch.stack([information, pull], dim=-1))


@pytest.mark.parametrize("true_fov", [0.6, 1.5])
def test_evidence_and_own_estimate_are_weighed(true_fov):
    windows = torch.zeros(4, 3, 3, 8, 12)
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


@torch.no_grad()
def test_an_encoder_calibrates_to_where_the_whole_model_has_no_pull_left():
    model = tiny_model(dtype=torch.float32, patch_encoder="direct").eval()
    images = torch.rand(2, 4, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    found = calibrate(model.aggregator.patch_embed, normalize_images(images))
    assert 0.05 < found < 3.1
    output = model(images[None], heads=[], fov=torch.full((1, 2), found), return_dict=True)
    information, pull = output.focal_evidence.double().flatten(0, -2).sum(0).tolist()
    own, used = (
        (0.5 / (fov / 2).tan()).log() for fov in (output.motion_fov.double().median(), torch.tensor(found))
    )
    left = (pull + OWN_INFORMATION * float(own - used)) / (information + OWN_INFORMATION)
    assert abs(left) < 2e-3
