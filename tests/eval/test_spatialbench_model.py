"""What SpatialBench's harness calls on our model: the contract of its adapters, on the small model."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest
import torch

from scal3r_eval.spatialbench import SpatialBenchModel
from scal3r_train import reconstruct
from scal3r_train.config import UserError

HW = (36, 48)  # of patches of the small model, 12 pixels


@pytest.fixture(scope="module")
def model() -> SpatialBenchModel:
    model = SpatialBenchModel()
    model.load_model(None, "cpu")
    model.configure(overrides={"schedule": {"chunk_size": 4, "overlap": 2}}, block_size=None)
    return model


def test_a_scene_gives_what_the_harness_reads(model: SpatialBenchModel, tmp_path: Path) -> None:
    images = torch.rand((5, 3, *HW), generator=torch.Generator().manual_seed(0))
    found = model.predict({"images_raw": images, "depth": None, "extrinsic": None})
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {
        "pred_pose": (5, 3, 4),
        "w2c_extrinsics": (5, 3, 4),
        "pred_depth": (5, *HW),
        "pred_confidence": (5, *HW),
        "pred_intrinsic": (5, 3, 3),
    }
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in found.values())
    last = np.tile([[[0, 0, 0, 1]]], (5, 1, 1))
    there, back = (np.concatenate([found[name], last], 1) for name in ("pred_pose", "w2c_extrinsics"))
    np.testing.assert_allclose(there @ back, np.tile(np.eye(4), (5, 1, 1)), atol=1e-5)
    scene = reconstruct(
        list(images), model.model, schedule={"chunk_size": 4, "overlap": 2}, input__image_hw=list(HW)
    )
    np.testing.assert_array_equal(found["pred_pose"], scene.world_from_cam.float().numpy())
    np.testing.assert_allclose(found["pred_intrinsic"][:, 0, 2] + 0.5, scene.intrinsics[:, 0, 2], rtol=1e-6)


def test_sizes_that_the_model_cannot_take_are_refused(model: SpatialBenchModel) -> None:
    with pytest.raises(
        UserError, match="no multiples of 12; put resolution_override: {width: 518, align: 12}"
    ):
        model.predict({"images_raw": torch.zeros((2, 3, 36, 50))})
    with pytest.raises(UserError, match="no model is loaded"):
        SpatialBenchModel().predict({"images_raw": torch.zeros((2, 3, 36, 48))})


class TheirBase(ABC):
    """What the harness's base class asks for, and one of the things that it brings."""

    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def load_model(self, checkpoint: str | None = None, device: str = "cuda") -> None: ...

    @abstractmethod
    def predict(self, scene: dict[str, object]) -> dict[str, np.ndarray]: ...

    def normalize_gt_poses(self, scene: dict[str, object]) -> str:
        return "theirs"


class Registered(SpatialBenchModel, TheirBase):
    """As docs/data/spatialbench.md has it."""


def test_it_has_the_methods_of_their_adapters(model: SpatialBenchModel) -> None:
    registered = Registered()
    assert registered.name() == model.name() and registered.normalize_gt_poses({}) == "theirs"
    registered.configure(model="scal3r_train", recipe="r.yaml", overrides=None, depth_alignment="median")
    assert (registered.recipe, registered.overrides) == ("r.yaml", {})
    assert model.name() and not model.supports_metric_depth() and not model.requires_intrinsics()
    assert model.max_frames() is None
    model.prepare({})
