"""Scal3R as SpatialBench's harness wants a model: images of a scene in, cameras and depth out.

The harness (public, `benchmark/evaluation/run_benchmark.py`) knows models by classes that it registers. This one has
their methods and imports nothing of theirs, so that it is tested here; docs/data/spatialbench.md has the ten lines to
put into their repository. A scene is a dictionary, of which `images_raw` [N, 3, H, W], RGB in [0, 1], is read, never
its truth. Shapes: N frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.inference.python_api import reconstruct
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import depth_path
from scal3r_train.shipped import find_checkpoint

HALF_PIXEL = 0.5  # their unprojection has the centre of the top-left pixel at (0, 0), ours at (0.5, 0.5)


class SpatialBenchModel:
    """A reconstruction by Scal3R with the methods of the harness's `ModelAdapter`.

    Keys of the harness's configuration that it does not know itself reach `configure`: `recipe`, a reconstruction
    recipe, and `overrides`, a mapping of its keys (docs/reconstruct.md), such as {"schedule": {"chunk_size": 60}}.
    """

    def __init__(self) -> None:
        """Hold no model yet."""
        self.model: Scal3RModel | None = None
        self.device = "cuda"
        self.recipe: str | None = None
        self.overrides: dict[str, Any] = {}

    def name(self) -> str:
        """Return what reports call it."""
        return "Scal3R (scal3r_train)"

    def configure(self, **options: Any) -> None:
        """Take `recipe` and `overrides`; what else the harness's configuration holds is not for us."""
        self.recipe = options.get("recipe", self.recipe)
        self.overrides = dict(options.get("overrides") or self.overrides)

    def load_model(
        self, checkpoint: str | None = None, device: str = "cuda", weights_dir: str | None = None
    ) -> None:
        """Load a checkpoint folder or a name of the Hub, by default the small model that comes with the package."""
        self.device = device
        model = Scal3RModel.from_pretrained(
            find_checkpoint(checkpoint or "scal3r-tiny"), cache_dir=weights_dir
        )
        self.model = model.to(torch.device(device)).eval()  # type: ignore[arg-type]  # transformers' wrapper of `to`

    def prepare(self, scene: Mapping[str, Any]) -> None:
        """Nothing: what a prediction takes is part of its time."""

    def predict(self, scene: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Reconstruct one scene.

        Returns:
            pred_pose: [N, 3, 4] float32 world_from_cam; w2c_extrinsics: its inverse. The world is the first camera.
            pred_depth: [N, H, W] float32 z-depth in the same unit.
            pred_confidence: [N, H, W] float32, at least 1.
            pred_intrinsic: [N, 3, 3] float32, pixel centres at integers.

        Raises:
            UserError: no model is loaded, or height and width are no multiples of the model's patches.
        """
        if self.model is None:
            raise UserError("no model is loaded; call load_model first")
        images = torch.as_tensor(scene["images_raw"], dtype=torch.float32).clamp(0, 1)
        height, width = (int(side) for side in images.shape[-2:])
        patch = int(self.model.config.patch_size)
        if height % patch or width % patch:
            raise UserError(
                f"images of {width}x{height} pixels are no multiples of {patch}; put resolution_override: "
                f"{{width: 518, align: {patch}}} into the configuration"
            )
        settings = {"export__save_depth": True, "export__report": False, "input__image_hw": [height, width]}
        with TemporaryDirectory(prefix="scal3r-spatialbench-") as folder:
            out = Path(folder) / "scene"
            found = reconstruct(list(images), self.model, out, self.recipe, **settings, **self.overrides)
            maps = [_depth_maps(out, frame) for frame in range(len(images))]
        intrinsics = found.intrinsics.float().numpy().copy()
        intrinsics[:, :2, 2] -= HALF_PIXEL
        return {
            "pred_pose": found.world_from_cam.float().numpy(),
            "w2c_extrinsics": invert_extrinsics(found.world_from_cam).float().numpy(),
            "pred_depth": np.stack([depth for depth, _ in maps]),
            "pred_confidence": np.stack([confidence for _, confidence in maps]),
            "pred_intrinsic": intrinsics,
        }

    def supports_metric_depth(self) -> bool:
        """Depth has an unknown unit."""
        return False

    def requires_intrinsics(self) -> bool:
        """Cameras are predicted."""
        return False

    def max_frames(self) -> int | None:
        """Long scenes are cut into chunks."""
        return None


def _depth_maps(folder: Path, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth and confidence [H, W] of a frame of a scene that was just written."""
    with np.load(depth_path(folder, frame), allow_pickle=False) as arrays:
        return arrays["depth"], arrays["confidence"]
