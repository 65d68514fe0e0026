"""The rotary embedding: a slow reference from its definition, and what it is for."""

import math
import weakref

import pytest
import torch

from scal3r_train.model.rope import TokenPositions, rotary_table, rotate, token_positions


def rotate_slowly(x: list[float], row: int, column: int, frequency: float) -> list[float]:
    """Rotate one vector pair by pair (docs/numerics.md#rope)."""
    half = len(x) // 2
    result = list(x)
    for offset, position in ((0, row), (half, column)):
        for i in range(half // 2):
            angle = position * frequency ** (-2 * i / half)
            u, v = x[offset + i], x[offset + i + half // 2]
            result[offset + i] = u * math.cos(angle) - v * math.sin(angle)
            result[offset + i + half // 2] = v * math.cos(angle) + u * math.sin(angle)
    return result


def test_rotation_equals_the_definition():
    positions = token_positions(2, 3, 2, torch.device("cpu"))
    x = torch.randn(len(positions), 12, dtype=torch.float64)
    found = rotate(x, rotary_table(positions, 12, 100.0, torch.float64))
    expected = [
        rotate_slowly(vector, row, column, 100.0)
        for vector, (row, column) in zip(x.tolist(), positions.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_positions_put_special_tokens_at_zero_and_count_patches_from_one():
    positions = token_positions(2, 3, 2, torch.device("cpu")).tolist()
    assert positions == [[0, 0], [0, 0], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]


def test_special_tokens_are_not_rotated():
    x = torch.randn(3, 8)
    assert torch.equal(rotate(x, rotary_table(torch.zeros(3, 2, dtype=torch.int64), 8, 100.0, x.dtype)), x)


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (3, 2)])
def test_products_of_queries_and_keys_depend_on_relative_position_only(shift):
    positions = token_positions(3, 3, 0, torch.device("cpu"))
    q, k = torch.randn(2, 9, 16, dtype=torch.float64)
    here = rotary_table(positions, 16, 100.0, torch.float64)
    there = rotary_table(positions + torch.tensor(shift), 16, 100.0, torch.float64)
    products = rotate(q, here) @ rotate(k, here).mT
    torch.testing.assert_close(rotate(q, there) @ rotate(k, there).mT, products, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(rotate(q, there) @ rotate(k, here).mT, products)


def test_tokens_of_several_frames_are_rotated_frame_by_frame():
    table = rotary_table(token_positions(2, 2, 1, torch.device("cpu")), 8, 100.0, torch.float32)
    frames = torch.randn(2, 3, 5, 8)
    expected = torch.stack([rotate(frame, table) for frame in frames.unbind(1)], dim=1)
    assert torch.equal(rotate(frames.flatten(1, 2), table), expected.flatten(1, 2))


def test_a_table_is_made_once_per_kind_and_dies_with_its_positions():
    positions = TokenPositions(token_positions(2, 2, 1, torch.device("cpu")))
    table = positions.table(8, 100.0, torch.float32)
    assert positions.table(8, 100.0, torch.float32) is table
    assert torch.equal(table.cos, rotary_table(positions.positions, 8, 100.0, torch.float32).cos)
    others = [
        positions.table(*kind)
        for kind in ((4, 100.0, torch.float32), (8, 10.0, torch.float32), (8, 100.0, torch.float64))
    ]
    assert all(
        other.cos.shape != table.cos.shape or not torch.equal(other.cos, table.cos) for other in others
    )
    assert positions.table(8, 0, torch.float32) is None
    assert torch.equal(table.from_token(1).sin, table.sin[1:])
    kept = weakref.ref(table.cos)
    del positions, table, others
    assert kept() is None
