"""Two learning rates, weight decay for matrices only, warm-up and cosine in closed form."""

import copy
import math

import pytest
import torch
from transformers import get_scheduler

from scal3r_train.losses.camera import CameraLossSettings
from scal3r_train.losses.depth_and_points import PointLossSettings
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.training.optim import OptimSettings, build_optimizer, learning_rate_factor, parameter_groups
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


@pytest.mark.parametrize(
    ("num_steps", "warmup", "floor"), [(10, 4, 0.1), (7, 0, 0.0), (5, 5, 0.2), (3, 9, 0.0)]
)
def test_without_stages_it_is_the_schedule_of_transformers(num_steps: int, warmup: int, floor: float) -> None:
    """To the last bit, so that runs begun with it go on unchanged."""
    settings = OptimSettings(
        num_steps=num_steps, warmup_steps=warmup, min_lr_ratio=floor, memory_lr=3e-4, backbone_lr=7e-6
    )
    theirs = torch.optim.AdamW(
        [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (3e-4, 7e-6)]
    )
    schedule = get_scheduler(
        "cosine_with_min_lr",
        theirs,
        num_warmup_steps=warmup,
        num_training_steps=num_steps,
        scheduler_specific_kwargs={"min_lr_rate": floor},
    )
    for step in range(num_steps + 1):
        ours = [
            rate * learning_rate_factor(settings, part, step)
            for part, rate in (("memory", 3e-4), ("backbone", 7e-6))
        ]
        assert ours == [group["lr"] for group in theirs.param_groups]
        theirs.step()
        schedule.step()


STAGED = SETTINGS.model_copy(
    update={
        "stages": OptimSettings(
            stages=[{"until": 3, "backbone_lr": 4e-3}, {"until": 7, "memory_lr": 2e-2}, {"backbone_lr": 5e-4}]
        ).stages
    }
)


def test_stages_change_the_peaks_and_nothing_else(model: Scal3RModel) -> None:
    optimizer, scheduler = build_optimizer(model, STAGED)
    shape = [0, 0.25, 0.5, 0.75] + [0.1 + 0.9 * (1 + math.cos(math.pi * done / 6)) / 2 for done in range(6)]
    memory = [1e-2] * 3 + [2e-2] * 4 + [1e-2] * 3
    backbone = [4e-3] * 3 + [1e-3] * 4 + [5e-4] * 3
    for step in range(SETTINGS.num_steps):
        rates = {str(group["name"]).split("_")[0]: group["lr"] for group in optimizer.param_groups}
        assert rates["memory"] == pytest.approx(memory[step] * shape[step])
        assert rates["backbone"] == pytest.approx(backbone[step] * shape[step])
        optimizer.step()
        scheduler.step()


def test_the_schedule_goes_on_where_it_was_left(model: Scal3RModel) -> None:
    """From its state alone, whatever the optimizer's rates were in between."""
    optimizer, scheduler = build_optimizer(model, STAGED)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    state = copy.deepcopy(scheduler.state_dict())
    again, other = build_optimizer(model, STAGED)
    other.load_state_dict(state)
    for _ in range(4):
        for one in (optimizer, again, scheduler, other):
            one.step()
        assert [g["lr"] for g in again.param_groups] == [g["lr"] for g in optimizer.param_groups]


def test_stages_of_the_optimizer_are_checked() -> None:
    with pytest.raises(ValueError, match=r"stages\.0\.until = 5: the last stage has no end"):
        OptimSettings(stages=[{"until": 5, "memory_lr": 1e-3}])
    with pytest.raises(ValueError, match="greater than 0"):
        OptimSettings(stages=[{"backbone_lr": 0}])


def test_heads_without_a_loss_are_frozen(model: Scal3RModel) -> None:
    off = ObjectiveSettings(camera=CameraLossSettings(weight=0), points=PointLossSettings(weight=0))
    freeze_untrained_heads(model, off)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"aggregator", "depth_head"}
    held = {id(p) for group in parameter_groups(model, SETTINGS) for p in group["params"]}
    assert all(id(p) not in held for p in model.camera_head.parameters())
    assert isinstance(build_optimizer(model, SETTINGS)[0], torch.optim.AdamW)


@pytest.mark.parametrize(
    ("losses", "heads"),
    [
        ({}, ("camera", "depth", "points")),
        ({"camera": {"translation_weight": 0, "rotation_weight": 0}}, ("camera", "depth", "points")),
        ({"camera": {"translation_weight": 0, "rotation_weight": 0, "fov_weight": 0}}, ("depth", "points")),
        ({"depth": {"confidence_weight": 0, "regression_weight": 0}}, ("camera", "depth", "points")),
        (
            {"depth": {"confidence_weight": 0, "regression_weight": 0, "gradient_strides": []}},
            ("camera", "points"),
        ),
        (
            {"points": {"confidence_weight": 0, "regression_weight": 0, "normal_weight": 0}},
            ("camera", "depth"),
        ),
        ({"points": {"weight": 0}, "camera": {"weight": 0}}, ("depth",)),
    ],
)
def test_a_head_learns_when_any_term_of_its_loss_has_a_weight(
    model: Scal3RModel, losses: dict, heads: tuple[str, ...]
) -> None:
    objective = ObjectiveSettings.model_validate(losses)
    assert objective.heads == heads
    model.requires_grad_(True)
    freeze_untrained_heads(model, objective)
    names = {"camera_head": "camera", "depth_head": "depth", "point_head": "points"}
    prefixes = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert tuple(names[prefix] for prefix in sorted(prefixes - {"aggregator"})) == heads
