"""Two learning rates, weight decay for matrices only, warm-up and cosine in closed form."""

import math

import pytest
import torch

from scal3r_train.losses.camera import CameraLossSettings
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.losses.points import PointLossSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.training.optim import OptimSettings, build_optimizer, parameter_groups
from scal3r_train.training.trainer import freeze_untrained_heads
from tests.training.tiny import NETWORK

SETTINGS = OptimSettings(
    num_steps=10, memory_lr=1e-2, backbone_lr=1e-3, warmup_steps=4, min_lr_ratio=0.1, weight_decay=0.3
)


@pytest.fixture(scope="module")
def model() -> Scal3RModel:
    return Scal3RModel(Scal3RConfig(**NETWORK | {"point_head": True}))


def test_every_parameter_is_in_one_group_of_the_right_kind(model: Scal3RModel) -> None:
    place = {id(p): group for group in parameter_groups(model, SETTINGS) for p in group["params"]}
    assert len(place) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = place[id(parameter)]
        is_memory = ".memory_units." in name
        assert group["lr"] == (SETTINGS.memory_lr if is_memory else SETTINGS.backbone_lr), name
        decays = parameter.dim() > 1 and "token" not in name
        assert group["weight_decay"] == (SETTINGS.weight_decay if decays else 0), name
    assert sum("memory" in str(group["name"]) for group in parameter_groups(model, SETTINGS)) == 2


def test_warm_up_and_cosine(model: Scal3RModel) -> None:
    optimizer, scheduler = build_optimizer(model, SETTINGS)
    rates = []
    for _ in range(SETTINGS.num_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    warm = [SETTINGS.backbone_lr * step / 4 for step in range(4)]
    cosine = [(1 + math.cos(math.pi * done / 6)) / 2 for done in range(7)]
    expected = warm + [SETTINGS.backbone_lr * (0.1 + 0.9 * value) for value in cosine]
    assert rates == pytest.approx(expected)


def test_heads_without_a_loss_are_frozen(model: Scal3RModel) -> None:
    off = ObjectiveSettings(camera=CameraLossSettings(weight=0), points=PointLossSettings(weight=0))
    freeze_untrained_heads(model, off)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"aggregator", "depth_head"}
    held = {id(p) for group in parameter_groups(model, SETTINGS) for p in group["params"]}
    assert all(id(p) not in held for p in model.camera_head.parameters())
    assert isinstance(build_optimizer(model, SETTINGS)[0], torch.optim.AdamW)
