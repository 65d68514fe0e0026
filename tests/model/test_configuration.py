"""The configuration refuses sizes that do not fit together, and survives its own file format."""

import json

import pytest
from transformers import AutoConfig

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from tests.model.tiny import tiny_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "hidden_size must be a multiple of num_heads"),
        ({"memory_heads": 3}, "hidden_size must be a multiple of memory_heads"),
        ({"camera_heads": 3}, r"2\*hidden_size must be a multiple of camera_heads"),
        ({"patch_encoder": "dinov2", "encoder_heads": 3}, "hidden_size must be a multiple of encoder_heads"),
        ({"memory_expansion": 0}, "memory_expansion = 0 must be a whole number from 1"),
        ({"memory_base_lr": 0.0}, "memory_base_lr = 0.0 must be a number from"),
        ({"correlation_stride": 0}, "correlation_stride = 0 must be a whole number from 1"),
        ({"num_layers": 10**9}, "num_layers = 1000000000 must be"),
        ({"hidden_size": "64"}, "hidden_size = '64' must be"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio = nan must be a number"),
        ({"patch_encoder": "resnet"}, "patch_encoder resnet is not one of"),
        ({"newton_schulz_dtype": "float16"}, "newton_schulz_dtype is not working or bfloat16"),
        ({"memory_layers": [1, 4]}, r"must lie in 0\.\.3"),
        ({"tap_layers": [-1, 1, 2, 3]}, "must be whole numbers from 0"),
        ({"memory_layers": [3, 1]}, "memory_layers must increase"),
        ({"memory_layers": [1, 1]}, "memory_layers must increase"),
        ({"tap_layers": [1, 2, 3]}, "exactly four tap_layers"),
        ({"tap_layers": [3, 2, 1, 0]}, "last of tap_layers must be the last layer"),
        ({"tap_layers": [], "depth_head": False, "point_head": False}, "last of tap_layers"),
        ({"num_heads": 8}, "head size"),
        ({"memory_heads": 8}, "hidden_size / memory_heads to be a multiple of 4"),
        ({"image_size": 10}, "image_size must be a multiple of patch_size"),
        (
            {"patch_encoder": "correlation", "correlation_stride": 3},
            "correlation_stride must be even and divide",
        ),
        ({"dpt_channels": [4, 4, 8]}, "dpt_channels"),
        ({"dpt_channels": [4, 6, 8, 8]}, "dpt_channels"),
        ({"dpt_features": 12}, "dpt_features"),
    ],
)
def test_contradicting_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_config(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_frequency": 0, "num_heads": 16, "memory_heads": 16},
        {"memory_layers": []},
        {"tap_layers": [3], "depth_head": False, "point_head": False},
        {"memory_layers": (0, 2), "tap_layers": (0, 1, 2, 3)},
        {"depth_head": False, "point_head": False, "dpt_channels": [3, 3, 3, 3]},
    ],
)
def test_fitting_sizes_are_accepted(changes):
    tiny_config(**changes)


def test_the_defaults_are_the_released_configuration():
    config = Scal3RConfig()
    assert (config.hidden_size, config.num_layers, config.memory_layers) == (1024, 24, [14, 17, 20, 23])
    assert config.num_special_tokens == 5


def test_a_configuration_survives_saving(tmp_path):
    config = tiny_config(memory_gate_init=0.0, newton_schulz_dtype="bfloat16", memory_layers=(0, 2))
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "scal3r"
    for loaded in (Scal3RConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, Scal3RConfig)
        assert public(loaded) == public(config)


def public(config: Scal3RConfig) -> dict[str, object]:
    return {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
