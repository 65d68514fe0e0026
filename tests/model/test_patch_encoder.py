"""Patch encoders: DINOv2 against transformers' own, one strided convolution, and the local cost volume."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from scal3r_train.model.patch_encoder import (
    ConvPatchEncoder,
    CorrelationPatchEncoder,
    DinoPatchEncoder,
    build_patch_encoder,
    expected_displacement,
    local_correlation,
    sum_from_reference,
)
from tests.model.tiny import randomized, tiny_config

# transformers' names (those of 5.23 and those before) -> ours.
NAMES = (
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.attention\.(q_proj|attention\.query)\.", ".attn.q."),
    (r"\.attention\.(k_proj|attention\.key)\.", ".attn.k."),
    (r"\.attention\.(v_proj|attention\.value)\.", ".attn.v."),
)


def our_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return transformers' encoder weights under our names, queries, keys and values as one matrix."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".attn.q.", f".attn.{letter}.")) for letter in "qkv"]
        renamed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return renamed


@pytest.mark.parametrize("image_hw", [(32, 32), (24, 40), (56, 32)])
@pytest.mark.parametrize("num_registers", [1, 4])
def test_dinov2_equals_transformers(image_hw, num_registers):
    config = tiny_config(
        image_size=32,
        patch_size=8,
        patch_encoder="dinov2",
        encoder_layers=3,
        mlp_ratio=4.0,
        num_register_tokens=num_registers,
    )
    oracle = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            mlp_ratio=4,
            image_size=32,
            patch_size=8,
            num_register_tokens=num_registers,
            layer_norm_eps=1e-6,
            attn_implementation="eager",
        )
    )
    randomized(oracle, scale=0.3).eval()
    encoder = DinoPatchEncoder(config).eval()
    encoder.load_state_dict(our_state(oracle.state_dict()), strict=True)
    images = torch.randn(2, 3, *image_hw)
    with torch.no_grad():
        expected = oracle(images).last_hidden_state
        torch.testing.assert_close(encoder.encode(images), expected, rtol=1e-5, atol=1e-5)
        patches = encoder(images.unflatten(0, (1, 2)))[0]
    torch.testing.assert_close(patches, expected[:, 1 + num_registers :], rtol=1e-5, atol=1e-5)


def test_dinov2_works_without_registers():
    encoder = DinoPatchEncoder(tiny_config(patch_encoder="dinov2", num_register_tokens=0))
    assert encoder(torch.randn(1, 2, 3, 8, 12)).shape == (1, 2, 6, 16)
    assert "register_tokens" not in encoder.state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_positions_are_resampled_in_at_least_float32(dtype):
    """A float64 model is resampled in float64: the exactness tests need its gradient."""
    encoder = randomized(DinoPatchEncoder(tiny_config(patch_encoder="dinov2"))).to(dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert encoder.positions(3, 5).dtype == expected
    assert encoder.positions(2, 2) is encoder.pos_embed
    assert encoder(torch.rand(1, 1, 3, 8, 12, dtype=dtype)).dtype == dtype


def test_conv_encoder_is_a_linear_map_of_each_patch():
    encoder = ConvPatchEncoder(4, 5).double()
    images = torch.rand(2, 3, 3, 8, 12, dtype=torch.float64)
    patches = images.unfold(-2, 4, 4).unfold(-2, 4, 4)  # [2, 3, 3, rows, columns, 4, 4]
    patches = patches.permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(2, 3)
    expected = patches @ encoder.proj.weight.flatten(1).T + encoder.proj.bias
    torch.testing.assert_close(encoder(images), expected)


@pytest.mark.parametrize(("radius", "hw"), [(0, (3, 4)), (1, (3, 4)), (2, (5, 3)), (4, (2, 2))])
def test_local_correlation_equals_a_slow_loop(radius, hw):
    features, previous = torch.randn(2, 2, 3, *hw, dtype=torch.float64)
    found = local_correlation(features, previous, radius)
    expected = torch.zeros(2, (2 * radius + 1) ** 2, *hw, dtype=torch.float64)
    for a in range(2):
        for y in range(hw[0]):
            for x in range(hw[1]):
                for plane in range((2 * radius + 1) ** 2):
                    row = y + plane // (2 * radius + 1) - radius
                    column = x + plane % (2 * radius + 1) - radius
                    if 0 <= row < hw[0] and 0 <= column < hw[1]:
                        product = features[a, :, y, x] @ previous[a, :, row, column]
                        expected[a, plane, y, x] = product / 3
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_local_correlation_is_differentiable():
    inputs = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda both: local_correlation(both[0], both[1], 1), inputs)


def test_local_correlation_peaks_where_the_image_moved():
    previous = F.normalize(torch.randn(1, 32, 9, 9), dim=1)
    moved = torch.roll(previous, shifts=(2, -1), dims=(2, 3))
    planes = local_correlation(moved, previous, 3)
    peak = planes[0, :, 4, 4].argmax().item()
    assert (peak // 7 - 3, peak % 7 - 3) == (-2, 1)


def make_correlation_encoder() -> CorrelationPatchEncoder:
    torch.manual_seed(1)
    return randomized(CorrelationPatchEncoder(tiny_config(patch_encoder="correlation"))).double()


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (0, [True, True, False, False]),
        (1, [True, True, True, True]),
        (2, [False, False, True, True]),
        (3, [False, False, False, True]),
    ],
)
def test_correlation_encoder_sums_motion_from_the_reference(frame, expected):
    """The second of four frames is the reference: whose motion passes the changed frame changes, nobody else."""
    encoder, images = make_correlation_encoder(), torch.rand(2, 4, 3, 8, 12, dtype=torch.float64)
    other = images.clone()
    other[0, frame] = 1 - other[0, frame].square()
    changed = (encoder(images) - encoder(other)).abs().amax(dim=(2, 3)) > 1e-9
    assert changed.tolist() == [expected, [False] * 4]


@pytest.mark.parametrize(("num_frames", "reference"), [(1, 0), (2, 0), (3, 1), (5, 2)])
def test_motion_adds_up_from_the_reference_both_ways(num_frames, reference):
    motion = torch.randn(num_frames, 2, 3, dtype=torch.float64)
    found = sum_from_reference(motion)
    for frame in range(num_frames):
        after, before = motion[reference + 1 : frame + 1], motion[frame + 1 : reference + 1]
        torch.testing.assert_close(found[frame], after.sum(0) - before.sum(0))


def test_expected_displacement_points_at_a_clear_peak():
    """Units of the radius, x before y."""
    encoder = make_correlation_encoder()
    planes = torch.full((1, 9, 1, 1), -1e3, dtype=torch.float64)
    planes[0, 2] = 1e3  # row -1, column +1
    found = expected_displacement(planes, encoder.sharpness, encoder.radius)[0, :, 0, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0], dtype=torch.float64))
    flat = expected_displacement(torch.zeros_like(planes), encoder.sharpness, encoder.radius)
    torch.testing.assert_close(flat, torch.zeros_like(flat))


def test_correlation_encoder_marks_the_first_frame():
    """In a still image the same motion is added with every frame; the first frame alone has another token."""
    tokens = make_correlation_encoder()(torch.rand(1, 3, 8, 12, dtype=torch.float64).expand(4, -1, -1, -1))
    steps = tokens[1:] - tokens[:-1]
    torch.testing.assert_close(steps[1], steps[2])
    assert not torch.allclose(steps[0], steps[1], atol=1e-4)


def test_correlation_encoder_orders_its_patches_row_major():
    """What changes in one corner of a wide image changes the tokens around that corner most."""
    encoder = make_correlation_encoder()
    images = torch.rand(1, 3, 24, 48, dtype=torch.float64)
    lit = images.clone()
    lit[..., 16:, 40:] = 1
    row, column = divmod((encoder(lit) - encoder(images))[0].norm(dim=-1).argmax().item(), 12)
    assert row >= 3
    assert column >= 9


@pytest.mark.parametrize("kind", ["dinov2", "conv"])
def test_other_encoders_make_one_token_per_patch_row_major(kind):
    """A bright patch changes its own token most."""
    encoder = randomized(build_patch_encoder(tiny_config(patch_encoder=kind)))
    images = torch.zeros(1, 1, 3, 8, 16)
    lit = images.clone()
    lit[..., 4:, 8:12] = 1
    tokens = encoder(lit) - encoder(images)
    assert tokens.shape == (1, 1, 8, 16)
    assert tokens[0, 0].norm(dim=-1).argmax() == math.prod((1, 4)) + 2
