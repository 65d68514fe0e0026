"""The field of view of a video whose camera is unknown, from the pictures themselves.

For a network whose encoder measures motion. Some windows of the video are looked at once; then their motion is measured
with one focal length for all, each says how it would change it (geometry/direct_alignment.py: focal_evidence), and the
sum over windows moves it, until it stays. What turns tell is far more than what a single picture does; a video that
never turns keeps near the network's own estimate.

Shapes: W windows, S frames of one, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scal3r_train.geometry.camera import focal_from_fov, fov_from_focal
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.chunk_runner import MAX_UINT8
from scal3r_train.model.aggregator import normalize_images
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.motion_encoder import DirectPatchEncoder
from scal3r_train.notes import tell
from scal3r_train.parallel.collectives import from_main
from scal3r_train.parallel.process import current_process

NUM_WINDOWS, WINDOW_SIZE = 8, 12
# What the network's own estimate counts: it errs by about 0.3 in log focal length, and 10^4 of the windows' by 0.1,
# for the errors of one video's depths are alike (docs/experiments.md).
OWN_INFORMATION = 1e3
MAX_ROUNDS, MAX_CHANGE, SMALL_CHANGE = 12, 0.2, 1e-3  # of log focal length


def field_of_view(model: Scal3RModel, video: Video) -> float | None:
    """Return the video's horizontal field of view in radians, as known or calibrated by a network that measures motion.

    None where the network does not ask for it. The main process calibrates, and all take its answer.

    Raises:
        UserError: on all processes, when an image cannot be read.
    """
    if not model.config.has_motion:
        return None
    known = video.known_fov()
    if known is not None:
        return known
    encoder = model.aggregator.patch_embed
    assert isinstance(encoder, DirectPatchEncoder), type(encoder)
    found = from_main(lambda: calibrate(encoder, windows_of(video, model)))
    if current_process().is_main:
        num_frames = sum(map(len, calibration_windows(video.num_frames)))
        tell(f"field of view {math.degrees(found):.1f} degrees, calibrated from {num_frames} frames")
    return found


def calibration_windows(num_frames: int) -> list[range]:
    """Return equally long runs of frames, spread over a video; one of all frames where it is short."""
    size = min(WINDOW_SIZE, num_frames)
    number = max(1, min(NUM_WINDOWS, num_frames // size))
    last = num_frames - size
    starts = [round(last * place / max(1, number - 1)) for place in range(number)]
    return [range(start, start + size) for start in starts]


def windows_of(video: Video, model: Scal3RModel) -> Tensor:
    """Return the pictures by which a video is calibrated, as the model's encoder takes them, [W, S, 3, H, W].

    Raises:
        UserError: an image cannot be read.
    """
    windows = [video.images(window) for window in calibration_windows(video.num_frames)]
    return normalize_images(torch.stack(windows).to(model.device, model.dtype) / MAX_UINT8)


@torch.no_grad()
def calibrate(encoder: DirectPatchEncoder, images: Tensor) -> float:
    """Return the horizontal field of view in radians that suits all windows, normalised [W, S, 3, H, W]."""
    sight = encoder.look(images)
    own = focal_from_fov(sight.fov[:, 0].double().median()).log()
    log_focal = own
    for _ in range(MAX_ROUNDS):
        fov = fov_from_focal(log_focal.exp()).to(sight.fov.dtype).expand(len(images))
        information, pull = encoder.measure(sight, fov).focal_evidence.double().sum(0)
        change = (pull + OWN_INFORMATION * (own - log_focal)) / (information + OWN_INFORMATION)
        if not change.isfinite():  # pictures of which nothing can be read, as black ones
            return fov_from_focal(own.exp()).item()
        log_focal = log_focal + change.clamp(-MAX_CHANGE, MAX_CHANGE)
        if change.abs() < SMALL_CHANGE:
            break
    return fov_from_focal(log_focal.exp()).item()
