"""Alternating attention: one block written out slowly, special tokens, segments, and what each tap holds."""

import pytest
import torch
from torch import Tensor

from scal3r_train.model.aggregator import Aggregator, normalize_images
from scal3r_train.model.block import Block
from scal3r_train.model.chunk_batch import batch_images, reference_first_order
from scal3r_train.model.rope import rotary_table, rotate, token_positions
from tests.model.tiny import random_images, randomized, tiny_model

CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_block_equals_its_formula_head_by_head(qk_norm, eps):
    block = randomized(Block(16, 2, 2.0, 0.5, qk_norm=qk_norm, norm_eps=eps)).double()
    p = dict(block.named_parameters())
    table = rotary_table(token_positions(2, 2, 1, torch.device("cpu")), 8, 100.0, torch.float64)
    x = torch.randn(5, 16, dtype=torch.float64)
    normed = layer_norm(x, p["norm1.weight"], p["norm1.bias"], eps)
    q, k, v = (normed @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]).split(16, dim=-1)
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        query, key = q[:, head], k[:, head]
        if qk_norm:
            query = layer_norm(query, p["attn.q_norm.weight"], p["attn.q_norm.bias"], 1e-5)
            key = layer_norm(key, p["attn.k_norm.weight"], p["attn.k_norm.bias"], 1e-5)
        weights = (rotate(query, table) @ rotate(key, table).T / 8**0.5).exp()
        heads.append(weights / weights.sum(1, keepdim=True) @ v[:, head])
    attended = torch.cat(heads, dim=-1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
    y = x + p["ls1.gamma"] * attended
    hidden = (
        layer_norm(y, p["norm2.weight"], p["norm2.bias"], eps) @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]
    )
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    expected = y + p["ls2.gamma"] * (hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"])
    torch.testing.assert_close(block(x[None], table)[0], expected, **CLOSE)


@pytest.mark.parametrize(
    ("memory_layers", "expected"),
    [
        ([1, 3], [range(0, 2), range(2, 4)]),
        ([0, 2], [range(0, 1), range(1, 3), range(3, 4)]),
        ([], [range(0, 4)]),
        ([0, 1, 2, 3], [range(j, j + 1) for j in range(4)]),
    ],
)
def test_memories_cut_the_layers_into_segments(memory_layers, expected):
    assert tiny_model(memory_layers=memory_layers).aggregator.segments() == expected


@pytest.fixture(scope="module")
def aggregator() -> Aggregator:
    return tiny_model().aggregator


def test_tokens_start_with_the_frame_s_role_and_follow_the_reference(aggregator):
    images = random_images(1, 1, 4)
    (batch,) = batch_images(images, None)
    tokens = aggregator.embed(batch).tokens[0, 0]
    assert tokens.shape == (4, 3 + 6, 16)
    for position in range(4):
        role = min(position, 1)
        assert torch.equal(tokens[position, 0], aggregator.camera_token[0, role, 0])
        assert torch.equal(tokens[position, 1:3], aggregator.register_token[0, role])
    patches = aggregator.patch_embed(normalize_images(images))[0, 0]
    torch.testing.assert_close(tokens[:, 3:], patches[reference_first_order(4)], **CLOSE)


def test_images_lose_the_mean_and_deviation_of_imagenet():
    images = torch.tensor([0.485 + 0.229, 0.456, 0.406 - 2 * 0.225]).view(3, 1, 1)
    torch.testing.assert_close(normalize_images(images).flatten(), torch.tensor([1.0, 0.0, -2.0]))


def test_a_tap_holds_the_frame_block_before_and_the_layer_after_its_memory(aggregator):
    """The frame half is never touched by the memory of the same layer (docs/numerics.md#alternating-attention)."""
    frame_outputs, memory_outputs = {}, {}
    handles = []
    for j in range(4):
        block = aggregator.frame_blocks[j]
        handles.append(block.register_forward_hook(lambda _m, _i, y, j=j: frame_outputs.__setitem__(j, y)))
    for j, unit in aggregator.memory_units.items():
        handles.append(  # a memory's last call, which applies it, returns the tokens
            unit.register_forward_hook(lambda _m, _i, y, j=j: memory_outputs.__setitem__(int(j), y))
        )
    (taps,) = aggregator(batch_images(random_images(1, 2, 3), None), 1, [1, 2, 3])
    for handle in handles:
        handle.remove()
    assert taps.keys() == {1, 2, 3}
    for j, tap in taps.items():
        assert torch.equal(tap.frame_half.flatten(0, 2), frame_outputs[j])
    for j in (1, 3):
        assert torch.equal(taps[j].layer_half, memory_outputs[j])


def test_frame_blocks_see_one_frame_and_global_blocks_one_chunk():
    """Without memories a change stays in its chunk; without global blocks it stays in its frame."""
    images = random_images(2, 2, 3)
    other = images.clone()
    other[0, 1, 0] = 1 - other[0, 1, 0]

    def changed(aggregator: Aggregator) -> list:
        outputs = [aggregator(batch_images(x, None), 2, [3])[0][3].layer_half for x in (images, other)]
        return ((outputs[0] - outputs[1]).abs().amax(dim=(-2, -1)) > 1e-9).tolist()

    chunkwise = tiny_model(memory_layers=[]).aggregator
    nothing, everything = [False] * 3, [True] * 3
    assert changed(chunkwise) == [[nothing, everything], [nothing, nothing]]
    with torch.no_grad():
        for block in chunkwise.global_blocks:
            block.ls1.gamma.zero_()
            block.ls2.gamma.zero_()
    # Temporal frame 0 is second in processing order, behind the reference.
    assert changed(chunkwise) == [[nothing, [False, True, False]], [nothing, nothing]]
    assert changed(tiny_model().aggregator) == [[everything, everything], [nothing, nothing]]
