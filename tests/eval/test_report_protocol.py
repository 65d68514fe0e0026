"""The protocol in one line."""

from pathlib import Path

import pytest

from scal3r_eval.recipe import load_eval_recipe
from scal3r_eval.report.write_reports import protocol_line
from tests.conftest import PROJECT_ROOT


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "synthetic",
            "Protocol: every frame; images of 48 x 72 (H x W); chunks of 8 frames, overlap 4; poses aligned by sim3; "
            "F1 at 1 m, one point in 0.25 m, within 60 m of a true camera; depth scaled by medians per sequence.",
        ),
        (
            "kitti",
            "Protocol: every frame; images with a long side of 518; chunks of 60 frames, overlap 30; poses aligned by "
            "sim3.",
        ),
    ],
)
def test_of_shipped_recipes(name: str, line: str) -> None:
    recipe = load_eval_recipe(PROJECT_ROOT / "recipes" / "eval" / f"{name}.yaml")
    assert protocol_line(recipe.model_dump(mode="json")) == line


def test_of_what_a_user_changed() -> None:
    overrides = [
        *("sequences.stride=3", "sequences.start=5", "sequences.stop=90", "sequences.max_frames=20"),
        *("protocol.image_hw=null", "protocol.chunk_size=null", "protocol.align=se3", "protocol.depth=null"),
        *("protocol.points.icp=se3", "protocol.points.voxel=null", "protocol.points.max_depth=null"),
    ]
    path = Path("recipes/eval/synthetic.yaml")
    recipe = load_eval_recipe(PROJECT_ROOT / path, overrides)
    assert protocol_line(recipe.model_dump(mode="json")) == (
        "Protocol: every 3-th frame from 5 to before 90, at most 20; image size of recipes/reconstruct/demo.yaml; "
        "chunks of recipes/reconstruct/demo.yaml; poses aligned by se3; F1 at 1 m, one point in 0.1 m, after ICP (se3)."
    )
