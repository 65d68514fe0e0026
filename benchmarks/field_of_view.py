"""The fields of view of videos of unknown cameras, as a network that measures motion sees and calibrates them.

    python -m benchmarks.field_of_view CHECKPOINT INDEX.parquet

For every sequence of an index with true intrinsics: the true horizontal field of view in degrees, the network's own
estimate (median over the windows), the calibrated one (inference/network/calibration.py), and both errors of the focal
length in percent, which are those of every turn.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch

from scal3r_train.data.index.index import load_index
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.calibration import calibrate, windows_of
from scal3r_train.model.load_model import load_model
from scal3r_train.model.motion_encoder import DirectPatchEncoder


def focal_error(fov: float, truth: float) -> float:
    """Return by how many percent the focal length is too long."""
    return 100 * (math.tan(truth / 2) / math.tan(fov / 2) - 1)


def main(arguments: list[str]) -> None:
    """Print one row for each sequence."""
    model = load_model(Path(arguments[0]), torch.device("cpu"))
    encoder = model.aggregator.patch_embed
    assert isinstance(encoder, DirectPatchEncoder), type(encoder)
    index = load_index(Path(arguments[1]))
    size = model.config.image_size
    print("| sequence | true | own | calibrated | own, focal % | calibrated, focal % |\n|" + " --- |" * 6)
    for number in range(len(index)):
        record = index[number]
        settings = InputSettings(image_hw=(size, size * 12 // 7), intrinsics="from_index")
        video = Video.choose(record, settings, model.config)
        truth = video.known_fov()
        assert truth is not None
        images = windows_of(video, model)
        with torch.no_grad():
            own = encoder.look(images).fov.median().item()
        found = calibrate(encoder, images)
        video.close()
        degrees = " | ".join(f"{math.degrees(angle):.1f}" for angle in (truth, own, found))
        errors = " | ".join(f"{focal_error(angle, truth):+.1f}" for angle in (own, found))
        print(f"| {record.sequence_id} | {degrees} | {errors} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
