"""A tiny random model and a folder of images, the same for all tests of reconstruction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.inference.streaming.streams import RunStream, stream_runner

IMAGE_HW = (63, 90)  # processed at 28 x 42: resized to 29 x 42, then one row is cut off
NUM_FRAMES = 11


def make_tiny_model(**sizes: object) -> Scal3RModel:
    """Random weights, but cameras with an opening angle and memories that matter."""
    torch.manual_seed(0)
    defaults = {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "patch_encoder": "conv",
        "tap_layers": [0, 0, 1, 1],
        "memory_layers": [0, 1],
        "layer_scale_init": 1.0,
        "camera_heads": 2,
        "camera_layers": 1,
        "camera_iterations": 2,
        "dpt_features": 8,
        "dpt_channels": [8, 8, 8, 8],
        "dpt_refine_channels": 8,
    }
    model = Scal3RModel(Scal3RConfig(**{**defaults, **sizes}))
    with torch.no_grad():
        output = model.camera_head.pose_branch.fc2  # own values: not the initialisation's small motions
        torch.nn.init.normal_(output.weight, std=0.1)
        output.bias.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 1.0, 0.5, 0.7]))
        for memory in model.aggregator.memory_units.values():
            torch.nn.init.normal_(memory.proj.weight, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_model() -> Scal3RModel:
    return make_tiny_model()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    height, width = IMAGE_HW
    scenery = random.integers(0, 256, (height, width + 3 * NUM_FRAMES, 3), np.uint8)
    for frame in range(NUM_FRAMES):
        Image.fromarray(scenery[:, 3 * frame : 3 * frame + width]).save(folder / f"{frame:03d}.png")
    return folder


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def run_stream(tiny_model: Scal3RModel, incoming: Path, tmp_path: Path) -> RunStream:
    """RunStream the incoming folder with overrides into tmp_path / scene."""
    return stream_runner(incoming, tmp_path / "scene", tiny_model)
