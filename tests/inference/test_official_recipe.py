"""recipes/reconstruct/official.yaml follows the release's rules: a slow plain version of these gives the same scene.

Against the release itself: `python -m benchmarks.official CHECKOUT`; stages of it: the goldens (tests/golden), whose
settings of seams are this recipe's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.official import IMAGE_HW, write_images
from scal3r_train.config import UserError, load_config
from scal3r_train.data.index.source import record_from_images
from scal3r_train.geometry.sim3_fit import REFERENCE_FIT
from scal3r_train.inference import reconstruct as reconstruct_module
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import depth_path, load_scene
from tests.conftest import PROJECT_ROOT
from tests.forking import ForkServer
from tests.inference.conftest import make_tiny_model
from tests.inference.plain_release import plain_release

OFFICIAL = PROJECT_ROOT / "recipes/reconstruct/official.yaml"
SIZE, OVERLAP = 6, 3
SETTINGS = [
    f"schedule.chunk_size={SIZE}",
    f"schedule.overlap={OVERLAP}",
    "input.resize.size=42",
    "export.report=false",
    "export.max_points=1000",
]
# Of the extent. With memories in bfloat16 roundings count for so much (docs/numerics.md#conditioning).
TOLERANCE = {"working": 1e-5, "bfloat16": 1e-3}


def official(*changes: str) -> ReconstructionRecipe:
    return load_config(ReconstructionRecipe, OFFICIAL, [*SETTINGS, *changes])


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixteen images, of which the last three look like the first three."""
    folder = tmp_path_factory.mktemp("sixteen") / "images"
    write_images(folder)
    return folder


@pytest.mark.parametrize(
    ("dtype", "loops", "size", "overlap"),
    [
        ("working", False, SIZE, OVERLAP),
        ("working", True, SIZE, OVERLAP),
        pytest.param("working", True, 14, 4, id="a loop of chunks that share frames"),
        ("bfloat16", False, SIZE, OVERLAP),
    ],
)
def test_the_plain_rules_give_the_same_scene(
    dtype: str, loops: bool, size: int, overlap: int, sixteen: Path, tmp_path: Path
) -> None:
    model = make_tiny_model(newton_schulz_dtype=dtype)
    chunks = [f"schedule.chunk_size={size}", f"schedule.overlap={overlap}"]
    recipe = official(*chunks, f"loop_closure.enabled={str(loops).lower()}", "export.save_depth=true")
    video = Video.choose(record_from_images(sixteen), recipe.input, model.config)
    expected = plain_release(model, video.images(range(16)), size, overlap, loops=loops)
    scene = reconstruct(sixteen, model, recipe, tmp_path / "scene")
    assert scene is not None
    assert [tuple(loop["frames"]) for loop in scene.info.loops if loop["accepted"]] == expected.loops
    assert len(expected.loops) == loops
    centres = expected.c2w[:, :3, 3]
    extent = np.linalg.norm(centres[:, None] - centres, axis=2).max()
    tolerance = TOLERANCE[dtype]
    found = scene.world_from_cam.numpy()
    np.testing.assert_allclose(found[:, :, 3] / extent, centres / extent, rtol=0, atol=tolerance)
    scale = np.cbrt(np.linalg.det(expected.c2w[:, :3, :3]))[:, None, None]
    np.testing.assert_allclose(found[:, :, :3], expected.c2w[:, :3, :3] / scale, rtol=0, atol=tolerance)
    depth = np.stack([np.load(depth_path(tmp_path / "scene", frame))["depth"] for frame in range(16)])
    np.testing.assert_allclose(depth, expected.depth, rtol=tolerance, atol=0)
    focal = expected.intrinsics[:, 0, 0] * IMAGE_HW[1] / 42
    np.testing.assert_allclose(scene.intrinsics[:, 0, 0], focal, rtol=tolerance, atol=0)
    if loops:
        without = plain_release(model, video.images(range(16)), size, overlap, loops=False)
        changed = np.abs(without.intrinsics[:, 0, 0] / expected.intrinsics[:, 0, 0] - 1).max()
        assert changed > 10 * tolerance, "loop chunks write nothing that matters"


def test_seams_have_the_rounds_of_the_release() -> None:
    assert official().alignment.robust == REFERENCE_FIT


def test_several_processes_agree_with_one(forks: ForkServer, sixteen: Path, tmp_path: Path) -> None:
    """The loop chunk lies on the first of two, its other end on the second."""
    model = make_tiny_model()
    model.save_pretrained(tmp_path / "model")
    dtype = "model.newton_schulz_dtype=working"
    expected = reconstruct(sixteen, model, official(dtype), tmp_path / "one")
    assert expected is not None
    words = ("reconstruct", sixteen, tmp_path / "two", OFFICIAL, f"model.checkpoint={tmp_path / 'model'}")
    done = forks.run_ranks(2, "-m", "scal3r_train.cli", *words, dtype, *SETTINGS)
    assert done.returncode == 0, done.stderr[-3000:]
    scene = load_scene(tmp_path / "two")
    assert scene.info.num_processes == 2
    (loop,), (other,) = scene.info.loops, expected.info.loops
    assert (loop["frames"], loop["chunks"], loop["accepted"]) == (other["frames"], other["chunks"], True)
    extent = expected.world_from_cam[:, :, 3].abs().max()
    torch.testing.assert_close(
        scene.world_from_cam, expected.world_from_cam, rtol=0, atol=float(1e-5 * extent)
    )


def test_a_restart_predicts_no_loop_chunk_again(
    sixteen: Path, tmp_path: Path, tiny_model: Scal3RModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when everything is predicted; the network must not run a second time."""
    whole = reconstruct(sixteen, tiny_model, official(), tmp_path / "whole", "abc")
    assert whole is not None

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reconstruct_module, "find_and_close_loops", killed)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(sixteen, tiny_model, official(), tmp_path / "scene", "abc")
    monkeypatch.undo()
    monkeypatch.setattr(ChunkRunner, "predict", killed)
    scene = reconstruct(sixteen, tiny_model, official(), tmp_path / "scene", "abc")
    assert scene is not None
    assert torch.equal(scene.world_from_cam, whole.world_from_cam)


def test_unjudged_loops_and_common_scales_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"set alignment.common_scale.enabled = false"):
        official("alignment.common_scale.enabled=true")
    assert official("alignment.common_scale.enabled=true", "loop_closure.enabled=false")


def test_unjudged_loops_need_shared_pixels() -> None:
    with pytest.raises(UserError, match=r"set alignment.evidence to points or both"):
        official("alignment.evidence=cameras")
    assert official("alignment.evidence=cameras", "loop_closure.enabled=false")
