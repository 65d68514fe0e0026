"""Kernels of attention and compiled blocks: the numbers of the plain network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scal3r_train.config import UserError
from scal3r_train.model.block import attention_function, eager, sdpa
from scal3r_train.model.kernels import compile_each_block, use_kernels
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.model.tiny import FIELDS, random_images, scalar, tiny_model

IMAGES = random_images(1, 2, 3)


def outputs_and_gradients(model: Scal3RModel, images: Tensor = IMAGES) -> dict[str, Tensor]:
    model.zero_grad()
    output = model(images)
    scalar(output).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return gradients | {name: output[name].detach() for name in FIELDS}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance, msg=name)


def test_eager_attention_is_that_of_the_fused_kernels():
    model = tiny_model(patch_encoder="dinov2").train()
    expected = outputs_and_gradients(model)
    model.set_attn_implementation("eager")
    assert_close(outputs_and_gradients(model), expected)


@pytest.mark.slow
def test_flex_attention_is_too():
    """Forward only: the CPU has no backward of it. Compiling takes most of a minute."""
    model = tiny_model(torch.float32, hidden_size=64)
    expected = model(IMAGES.float()).depth
    model.set_attn_implementation("flex_attention")
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES.float()).depth, expected, rtol=1e-5, atol=1e-5)


def test_saved_models_load_with_the_asked_attention(tmp_path):
    tiny_model(torch.float32).save_pretrained(tmp_path)
    loaded = Scal3RModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.aggregator.frame_blocks[0].attn.config._attn_implementation == "eager"


@pytest.fixture
def recorded_attention(monkeypatch: pytest.MonkeyPatch):
    """An attention as users of transformers register them, under a name that would be a flash kernel's."""
    seen: list[tuple[torch.dtype, int]] = []

    def attention(module: nn.Module, query, key, value, attention_mask, scaling, is_causal, **_: object):
        assert attention_mask is None
        assert not is_causal
        assert not module.is_causal
        assert query.shape == key.shape == value.shape
        assert scaling == query.shape[-1] ** -0.5
        seen.append((query.dtype, query.shape[1]))
        return sdpa(module, query, key, value, None)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_of_tests", attention)
    return seen


def test_flash_kernels_get_half_precision_and_the_camera_head_stays_in_float32(recorded_attention):
    model = tiny_model(torch.float32, patch_encoder="dinov2")
    images = IMAGES.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(images)
        model.config._attn_implementation = "flash_attention_of_tests"
        output = model(images)
    blocks = 1 + 2 * model.config.num_layers
    assert recorded_attention == [(torch.bfloat16, model.config.num_heads)] * blocks
    assert all(torch.equal(output[name], expected[name]) for name in FIELDS)


def test_the_function_of_a_name():
    assert attention_function(None, torch.float32) is sdpa
    assert attention_function("sdpa", torch.bfloat16) is sdpa
    assert attention_function("eager", torch.float32) is eager
    assert attention_function("flash_attention_2", torch.float32) is sdpa
    for name in ("flash_attention_2", "flash_attention_3", "flex_attention"):
        assert attention_function(name, torch.bfloat16) is ALL_ATTENTION_FUNCTIONS[name]
    with pytest.raises(KeyError):
        attention_function("no_attention", torch.bfloat16)


def test_a_kernel_that_is_not_there_is_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"^model.attention flash_attention_2 cannot be used: .+; sdpa always can$"
    ):
        use_kernels(tiny_model(), "flash_attention_2", compile_blocks=False)


def test_compiled_blocks_compute_the_same_with_every_checkpointing():
    """By the tracer and autograd's compiler; what a GPU's code generator makes of the graphs, only a GPU can show."""
    model = tiny_model(num_layers=2, tap_layers=[0, 0, 1, 1], memory_layers=[0, 1]).train()
    modes = ("none", "blocks", "segments")
    expected = outputs_and_gradients(model)
    names = list(model.state_dict())
    torch._dynamo.utils.counters.clear()
    compile_each_block(model, backend="aot_eager")
    for mode in modes:
        model.set_activation_checkpointing(mode)
        assert_close(outputs_and_gradients(model), expected)
    assert list(model.state_dict()) == names
    assert not torch._dynamo.utils.counters["graph_break"]
    # One graph of frame blocks, one of global blocks, one of the camera head, whatever the mode and the layer.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
