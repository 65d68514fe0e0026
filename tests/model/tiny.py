"""A network small enough for tests, and random values for all of its parameters."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput

IMAGE_HW = (8, 12)
FIELDS = ("pose_encoding", "pose_encoding_stages", "depth", "depth_conf", "world_points", "world_points_conf")

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def tiny_config(**changes: Any) -> Scal3RConfig:
    """Return a configuration with four layers and two memories."""
    sizes: dict[str, Any] = {
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 16,
        "num_layers": 4,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "num_register_tokens": 2,
        "patch_encoder": "conv",
        "encoder_layers": 1,
        "encoder_heads": 2,
        "correlation_channels": 4,
        "correlation_radius": 1,
        "direct_channels": 4,
        "direct_stride": 1,
        "direct_levels": 2,
        "tap_layers": [0, 1, 2, 3],
        "memory_layers": [1, 3],
        "memory_expansion": 2,
        "camera_heads": 2,
        "camera_layers": 1,
        "camera_iterations": 2,
        "dpt_features": 8,
        "dpt_channels": [4, 4, 8, 8],
        "dpt_refine_channels": 4,
    }
    return Scal3RConfig(**{**sizes, **changes})


def randomized(module: ModuleT, seed: int = 0, scale: float = 0.1) -> ModuleT:
    """Add noise to every parameter, so that no zero or one of the initialisation hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += scale * noise.to(parameter.dtype)
    return module


def tiny_model(dtype: torch.dtype = torch.float64, **changes: Any) -> Scal3RModel:
    """Return a model in evaluation mode with random parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return randomized(Scal3RModel(tiny_config(**changes))).to(dtype).eval()


def random_images(*leading: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return images [*leading, 3, H, W] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*leading, 3, *IMAGE_HW, generator=generator, dtype=torch.float64).to(dtype)


def scalar(output: Scal3ROutput) -> Tensor:
    """Return a number that depends on every value of an output, nested or not."""
    return sum((value.sin().sum() for name in output for value in _tensors(output[name])), torch.tensor(0.0))


def _tensors(value: Tensor | list[list[Tensor]]) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [chunk for sequence in value for chunk in sequence]
