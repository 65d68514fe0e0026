"""What the trainer puts together: data that can travel to other processes, telemetry, starting weights."""

import json
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.data.dataset import plan_data
from scal3r_train.parallel.accelerator import build_accelerator
from scal3r_train.train import build_model, main, stored_weights
from scal3r_train.training.monitoring.telemetry import Telemetry, TelemetrySettings
from scal3r_train.training.recipe import TrainedModelSettings, require_whole_patches
from tests.training import tiny


def test_reading_processes_need_not_be_forked(towns: Path) -> None:
    """Python 3.14 and macOS start them afresh: the data set has to be sent."""
    recipe = tiny.recipe(towns, towns)
    data = plan_data(recipe.data, recipe.curriculum, 0, 0, 1)
    assert len(ForkingPickler.dumps(data.dataset)) > 0


def test_telemetry_writes_due_steps_and_forgets_what_comes_again(tmp_path: Path) -> None:
    def write(first_step: int, steps: range) -> None:
        settings = TelemetrySettings(log_every=2)
        with Telemetry(
            settings, tmp_path, build_accelerator("single", 1), num_steps=9, first_step=first_step, name="t"
        ) as telemetry:
            for step in steps:
                telemetry.log(step, {"loss": float("nan") if step == 4 else step / 2})
            telemetry.log(steps[-1], {"val/x": 1.0}, always=True)

    write(0, range(1, 6))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": None}, {"step": 5, "val/x": 1.0}]
    write(3, range(4, 7))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 6]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    other: Any = SimpleNamespace(is_main_process=False)
    with Telemetry(TelemetrySettings(), tmp_path, other, num_steps=9, first_step=0, name="t") as telemetry:
        telemetry.log(10, {"loss": 1.0}, always=True)
        telemetry.say("nothing")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        stored_weights(TrainedModelSettings(checkpoint=str(tmp_path / "absent")))


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    model = build_model(TrainedModelSettings.model_validate({"network": tiny.NETWORK}))
    model.save_pretrained(tmp_path / "model")
    again = tiny.loaded(
        TrainedModelSettings(checkpoint=str(tmp_path / "model"), activation_checkpointing="blocks")
    )
    assert again.training
    assert any(vars(module).get("gradient_checkpointing") for module in again.modules())
    assert not any(vars(module).get("gradient_checkpointing") for module in model.modules())
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_training_goes_on_from_a_checkpoint_with_other_memories(tmp_path: Path) -> None:
    folder = str(tmp_path / "model")
    build_model(TrainedModelSettings.model_validate({"network": tiny.NETWORK})).save_pretrained(folder)
    of = {
        memory: tiny.loaded(TrainedModelSettings.model_validate({"checkpoint": folder, "memory": memory}))
        for memory in (None, "chunk", "off")
    }
    assert [model.config.memory_scope for model in of.values()] == ["sequence", "chunk", "sequence"]
    whole, without = of[None].state_dict(), of["off"].state_dict()
    assert not of["off"].config.memory_layers and whole.keys() == of["chunk"].state_dict().keys()
    memories = {name for name in whole if name.startswith("aggregator.memory_units.")}
    assert memories and without.keys() == whole.keys() - memories
    assert all(torch.equal(value, whole[name]) for name, value in without.items())
    for settings, message in (
        ({"network": tiny.NETWORK, "memory": "off"}, "memory changes a checkpoint"),
        ({"checkpoint": folder, "memory": "off", "train": "memories"}, "needs memories, and memory is off"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainedModelSettings.model_validate(settings)


def test_a_new_network_begins_with_the_encoder_of_another(tmp_path: Path) -> None:
    folder = str(tmp_path / "model")
    build_model(TrainedModelSettings.model_validate({"network": tiny.NETWORK})).save_pretrained(folder)
    stored = tiny.loaded(TrainedModelSettings(checkpoint=folder)).state_dict()
    other = tiny.NETWORK | {"memory_layers": [], "mlp_ratio": 1.0}
    model = build_model(TrainedModelSettings.model_validate({"network": other, "encoder": folder}))
    equal = {
        name
        for name, value in model.state_dict().items()
        if value.shape == stored[name].shape and torch.equal(value, stored[name])
    }
    encoder = {name for name in stored if name.startswith("aggregator.patch_embed.")}
    assert encoder and encoder <= equal
    assert "aggregator.camera_token" in stored and "aggregator.camera_token" not in equal
    wider = TrainedModelSettings.model_validate(
        {"network": tiny.NETWORK | {"hidden_size": 48}, "encoder": folder}
    )
    with pytest.raises(UserError, match="does not fit the new network: [0-9]+ mismatched tensors, such as "):
        build_model(wider)
    stated = Path(folder) / "config.json"
    stated.write_text(stated.read_text().replace('"patch_size": 14', '"patch_size": 28'))
    with pytest.raises(UserError, match="has patch_size 28, the new network 14; give model.network"):
        build_model(TrainedModelSettings.model_validate({"network": other, "encoder": folder}))
    with pytest.raises(ValueError, match="encoder is for a new network"):
        TrainedModelSettings.model_validate({"checkpoint": folder, "encoder": folder})
    with pytest.raises(UserError, match="folder .*absent does not exist"):
        build_model(
            TrainedModelSettings.model_validate({"network": other, "encoder": str(tmp_path / "absent")})
        )


def test_resolution_is_checked_against_a_checkpoint_too(towns: Path, tmp_path: Path) -> None:
    resolution = [{"height": 30, "width": 42}]
    changes = {"model": {"checkpoint": "x"}, "curriculum.resolution": resolution}
    recipe = tiny.recipe(towns, tmp_path, changes)
    with pytest.raises(UserError, match="resolution 30x42 must be a multiple of patch_size 14"):
        require_whole_patches(recipe, 14)


def test_no_recipe_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no recipe given"):
        main([])
