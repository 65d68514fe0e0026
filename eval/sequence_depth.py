"""Depth of a scene folder against the depth files of an index row. Shapes: S frames, H W pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scal3r_eval.sequences import EvalSequence
from scal3r_train.config import UserError, validate_mapping
from scal3r_train.data.camera.transforms import ResizeRule
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.metrics.depth import DepthScale, depth_errors
from scal3r_train.scene.folder import INFO_NAME
from scal3r_train.scene.scene import load_scene_info, read_depth

MAX_FRAMES = 200  # evenly over the sequence, so that memory does not grow with it
METRICS = ("abs_rel", "delta_1", "delta_2", "delta_3")


def score_depth(scene: Path, sequence: EvalSequence, scale: DepthScale) -> dict[str, float | None]:
    """Return `depth_errors` of at most MAX_FRAMES frames at the size that they were processed at.

    Raises:
        UserError: scene.json or a depth file is missing or damaged, or no pixel can be compared.
    """
    record = sequence.record
    known = [place for place, frame in enumerate(sequence.frame_indices) if record.depth[frame]]
    if not known:
        raise UserError(f"{sequence.name} has no depth; set protocol.depth=null")
    chosen = np.unique(np.linspace(0, len(known) - 1, min(MAX_FRAMES, len(known))).round().astype(int))
    places = [known[number] for number in chosen]
    estimate = [read_depth(scene, place) for place in places]
    size = _size(scene, estimate[0])
    truth = []
    for place in places:
        frames = read_frames(record, [sequence.frame_indices[place]], size)
        assert frames.depth is not None, "the record has depth"
        truth.append(frames.depth[0])
    errors = depth_errors(torch.from_numpy(np.stack(estimate)), torch.stack(truth), scale).as_dict()
    return {f"depth_{name}": float(errors[name]) for name in METRICS}


def _size(scene: Path, depth: np.ndarray) -> tuple[int, int] | ResizeRule:
    """Return how the frames of a scene were sized: the rule of its recipe, which also says what is cut, or (H, W).

    Raises:
        UserError: scene.json is missing or damaged.
    """
    recipe = load_scene_info(scene).recipe
    given = validate_mapping(InputSettings, recipe.get("input", {}), f"input of {scene / INFO_NAME}")
    if given.image_hw is None and given.resize is not None:
        return given.resize
    return depth.shape[0], depth.shape[1]
