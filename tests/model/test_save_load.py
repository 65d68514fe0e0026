"""Saving and loading, and the weights a model starts with."""

import pytest
import torch
from torch import nn
from transformers import AutoModel

from scal3r_train.model import modeling_scal3r
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.model.tiny import FIELDS, random_images, tiny_config, tiny_model


def all_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("encoder", ["dinov2", "conv", "correlation", "direct"])
@pytest.mark.parametrize("loader", [Scal3RModel, AutoModel])
def test_a_saved_model_comes_back_exactly(tmp_path, encoder, loader):
    model = tiny_model(torch.float32, patch_encoder=encoder)
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "scal3r_auto.py",
    }
    loaded = loader.from_pretrained(tmp_path)
    assert isinstance(loaded, Scal3RModel)
    assert not loaded.training
    assert all_equal(loaded.state_dict(), model.state_dict())
    images = random_images(1, 2, 3, dtype=torch.float32)
    first, second = model(images), loaded(images)
    assert all(torch.equal(first[name], second[name]) for name in FIELDS)


def test_many_shards_come_back_exactly(tmp_path):
    model = tiny_model(torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert all_equal(Scal3RModel.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_loading_draws_no_random_weights_and_makes_no_second_copy(tmp_path, monkeypatch):
    """Parameters are built on the meta device and only ever hold what the file says."""
    model = tiny_model(torch.float32, patch_encoder="dinov2")
    model.save_pretrained(tmp_path)
    devices, original = [], Scal3RModel.__init__

    def watched(self: Scal3RModel, config: object) -> None:
        original(self, config)
        devices.extend(parameter.device.type for parameter in self.parameters())

    def forbidden(*_: object) -> None:
        raise AssertionError("loading initialised a weight")

    monkeypatch.setattr(Scal3RModel, "__init__", watched)
    for function in ("_init_linear", "_init_memory", "_init_encoder"):
        monkeypatch.setattr(modeling_scal3r, function, forbidden)
    before = torch.get_rng_state()
    loaded = Scal3RModel.from_pretrained(tmp_path)
    assert set(devices) == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)
    assert all_equal(loaded.state_dict(), model.state_dict())


def test_loading_in_bfloat16_keeps_memories_and_heads_in_float32(tmp_path):
    model = tiny_model(torch.float32)
    model.save_pretrained(tmp_path)
    loaded = Scal3RModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    state = model.state_dict()
    for name, parameter in loaded.named_parameters():
        is_kept = ".memory_units." in name or "_head." in name
        assert parameter.dtype == (torch.float32 if is_kept else torch.bfloat16), name
        assert not is_kept or torch.equal(parameter, state[name]), name
    output = loaded(random_images(1, 2, 2, dtype=torch.float32))
    assert all(output[name].isfinite().all() for name in FIELDS)
    assert {output[name].dtype for name in FIELDS} == {torch.float32}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_model_built_in_half_precision_has_memories_and_heads_in_float32(dtype, device):
    with torch.device(device):
        model = Scal3RModel._from_config(tiny_config(), dtype=dtype)
    for name, parameter in model.named_parameters():
        is_kept = ".memory_units." in name or "_head." in name
        expected = torch.promote_types(dtype, torch.float32) if is_kept else dtype
        assert parameter.dtype == expected, name
    assert torch.get_default_dtype() == torch.float32


def test_poses_of_a_model_loaded_in_bfloat16_are_about_as_good_as_those_of_autocast(project_root):
    """On trained weights; with heads in bfloat16 the poses were 6 times as far off as those of autocast."""
    folder = project_root / "assets" / "scal3r-tiny"
    exact, narrow = (
        Scal3RModel.from_pretrained(folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    size = 4 * exact.config.patch_size
    images = torch.rand(1, 2, 4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = exact(images, heads=["camera"]).pose_encoding
        with torch.autocast("cpu", torch.bfloat16):
            error_of_autocast = (exact(images, heads=["camera"]).pose_encoding - truth).norm()
        error = (narrow(images, heads=["camera"]).pose_encoding - truth).norm()
    assert error < 3 * error_of_autocast


def test_initial_weights_follow_the_specification():
    """LayerScale, gate, projections, fast weights, special tokens; biases of norms zero.

    docs/numerics.md#memory-parameters.
    """
    torch.manual_seed(0)
    model = Scal3RModel(tiny_config(hidden_size=64, patch_encoder="dinov2", memory_gate_init=0.1))
    state = model.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    memory = "aggregator.memory_units.1."
    assert not state[memory + "proj.weight"].any()
    assert state[memory + "proj.bias"].tolist() == pytest.approx([0.0] * 128 + [0.1] * 64)
    for name, fan_in in (("w0", 64), ("w2", 64), ("w1", 128)):
        assert state[memory + name].std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert state["aggregator.frame_blocks.0.ls1.gamma"].eq(0.01).all()
    assert state["camera_head.trunk.0.ls2.gamma"].eq(0.01).all()
    assert state["aggregator.patch_embed.blocks.0.ls1.gamma"].eq(1.0).all()
    assert state["aggregator.camera_token"].std().item() == pytest.approx(1e-6, rel=0.3)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all(), name
            assert module.bias.eq(0).all(), name
        elif (
            isinstance(module, nn.Linear)
            and "memory_units" not in name
            and name != "camera_head.pose_branch.fc2"
        ):
            bound = module.in_features**-0.5
            assert 0.8 * bound < module.weight.abs().max() <= bound, name


def test_the_initial_camera_looks_straight_ahead():
    """No translation, no rotation, one radian of view: no field of view starts where its ReLU is flat."""
    for num_iterations in (1, 4):
        torch.manual_seed(0)
        output = Scal3RModel(tiny_config(camera_iterations=num_iterations))(random_images(1, 1, 3).float())
        expected = torch.tensor([0.0] * 6 + [1.0] * 3).expand(1, 1, 3, 9)
        torch.testing.assert_close(output.pose_encoding, expected, rtol=0, atol=0.3)


def test_two_models_of_one_seed_are_equal_and_of_two_seeds_are_not():
    def build(seed: int) -> Scal3RModel:
        torch.manual_seed(seed)
        return Scal3RModel(tiny_config())

    assert all_equal(build(0).state_dict(), build(0).state_dict())
    assert not all_equal(build(0).state_dict(), build(1).state_dict())
