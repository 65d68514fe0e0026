"""Running an evaluation in tests, and reading its numbers."""

from pathlib import Path
from typing import Any

import torch

from scal3r_eval import pipeline
from scal3r_eval.recipe import load_eval_recipe
from scal3r_eval.results import EvalResults
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import invert_extrinsics

FIRST, SECOND = "town_001_00000", "town_001_00001"


def run(recipe: Path, *overrides: str) -> EvalResults:
    results = pipeline.evaluate(load_eval_recipe(recipe, overrides))
    assert results is not None
    return results


def ate(results: EvalResults, method: str, sequence: str) -> Any:
    return results.scores[method][sequence][0].metrics["ate_rmse_m"]


def truth_of(record: SequenceRecord, num_frames: int) -> torch.Tensor:
    assert record.cam_from_world is not None
    return invert_extrinsics(torch.from_numpy(record.cam_from_world[:num_frames]))
