"""The field of view of a video whose camera is unknown, from the pictures themselves.

For a network whose encoder measures motion. Some windows of the video pass the encoder with one focal length for all;
each says how it would change it (geometry/direct_alignment.py: focal_evidence), and the sum over windows moves it,
until it stays. What turns tell is far more than what a single picture does; a video that never turns keeps near the
network's own estimate.

Shapes: W windows, S frames of one, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.chunk_runner import MAX_UINT8
from scal3r_train.model.modeling_scal3r import Scal3RModel
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
    windows = calibration_windows(video.num_frames)
    found = from_main(lambda: calibrate(model, [video.images(window) for window in windows]))
    if current_process().is_main:
        num_frames = sum(map(len, windows))
        tell(f"field of view {math.degrees(found):.1f} degrees, calibrated from {num_frames} frames")
    return found


def calibration_windows(num_frames: int) -> list[range]:
    """Return equally long runs of frames, spread over a video; one of all frames where it is short."""
    size = min(WINDOW_SIZE, num_frames)
    number = max(1, min(NUM_WINDOWS, num_frames // size))
    last = num_frames - size
    starts = [round(last * place / max(1, number - 1)) for place in range(number)]
    return [range(start, start + size) for start in starts]


@torch.no_grad()
def calibrate(model: Scal3RModel, windows: Sequence[Tensor]) -> float:
    """Return the horizontal field of view in radians that suits all windows, W times [S, 3, H, W] uint8."""
    device, dtype = model.device, model.dtype
    images = torch.stack([window.to(device).to(dtype) / MAX_UINT8 for window in windows])[None]
    own = _log_focal(model(images, heads=[], return_dict=True).motion_fov[..., 0].double().median().item())
    log_focal = own
    for _ in range(MAX_ROUNDS):
        fov = images.new_full(images.shape[:2], _fov(log_focal))
        evidence = model(images, heads=[], fov=fov, return_dict=True).focal_evidence
        information, pull = evidence.double().flatten(0, -2).sum(0).tolist()
        change = (pull + OWN_INFORMATION * (own - log_focal)) / (information + OWN_INFORMATION)
        if not math.isfinite(change):  # pictures of which nothing can be read, as black ones
            return _fov(own)
        log_focal += max(-MAX_CHANGE, min(MAX_CHANGE, change))
        if abs(change) < SMALL_CHANGE:
            break
    return _fov(log_focal)


def _log_focal(fov: float) -> float:
    """Return the log of the focal length in image widths."""
    return -math.log(2 * math.tan(fov / 2))


def _fov(log_focal: float) -> float:
    return 2 * math.atan(0.5 * math.exp(-log_focal))
