"""The Adaptive Memory Unit: what enters the summed gradient, what leaves, and in which precision.

Shapes: B sequences, K chunks, S frames, P tokens of a frame (special first), C channels.
"""

import math

import pytest
import torch
from torch import Tensor

from scal3r_train.model.amu import AdaptiveMemoryUnit, StartedSum, keep_local
from scal3r_train.model.chunk_batch import ChunkBatch
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.rope import TokenPositions, token_positions
from tests.model.tiny import random_images, tiny_config, tiny_model

GRID = (2, 3)
NUM_SPECIAL = 3


def make_unit(dtype: torch.dtype = torch.float64, **changes: object) -> AdaptiveMemoryUnit:
    config = tiny_config(memory_layers=[3], **changes)
    return next(iter(tiny_model(dtype, **config.to_diff_dict()).aggregator.memory_units.values()))


def make_tokens(*leading: int, grid: tuple[int, int] = GRID, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, NUM_SPECIAL + grid[0] * grid[1], 16)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def chunk_batch(
    tokens: Tensor,
    grid: tuple[int, int] = GRID,
    sequences: tuple[int, ...] | None = None,
    mask: Tensor | None = None,
) -> ChunkBatch:
    sequences = tuple(range(len(tokens))) if sequences is None else sequences
    positions = TokenPositions(token_positions(*grid, NUM_SPECIAL, tokens.device))
    return ChunkBatch(tokens, positions, sequences, mask)


def summed_gradient(unit: AdaptiveMemoryUnit, batches: list[ChunkBatch], num_sequences: int) -> FastWeights:
    gradients = [unit.chunk_gradient(batch) for batch in batches]
    return unit.start_sum(batches, gradients, num_sequences)()


def through(unit: AdaptiveMemoryUnit, batches: list[ChunkBatch], num_sequences: int = 1) -> list[ChunkBatch]:
    """Write all batches and read them back."""
    weights = unit.updated_weights(summed_gradient(unit, batches, num_sequences))
    return [unit.apply_weights(batch, weights) for batch in batches]


def assert_weights_close(found: FastWeights, expected: FastWeights) -> None:
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)


def test_chunks_of_a_sequence_write_as_one_long_chunk():
    unit, tokens = make_unit(), make_tokens(1, 4, 2)
    together = summed_gradient(unit, [chunk_batch(tokens.reshape(1, 1, 8, *tokens.shape[3:]))], 1)
    assert_weights_close(summed_gradient(unit, [chunk_batch(tokens)], 1), together)
    apart = [chunk_batch(tokens[:, k : k + 1], sequences=(0,)) for k in range(4)]
    assert_weights_close(summed_gradient(unit, apart, 1), together)


def test_queries_made_beforehand_are_those_the_memory_makes():
    unit, batch = make_unit(), chunk_batch(make_tokens(2, 2, 2))
    weights = unit.updated_weights(summed_gradient(unit, [batch], 2))
    made = unit.apply_weights(batch, weights)
    assert torch.equal(unit.apply_weights(batch, weights, unit.queries(batch)).tokens, made.tokens)
    other = unit.queries(chunk_batch(make_tokens(2, 2, 2, seed=1)))
    assert not torch.allclose(unit.apply_weights(batch, weights, other).tokens, made.tokens)


@pytest.mark.parametrize("mode", ["none", "blocks", "segments"])
def test_an_observer_sees_each_update_and_every_batch_s_gate_once(mode):
    model = tiny_model().train()
    model.set_activation_checkpointing(mode)
    unit, seen = model.aggregator.memory_units["1"], []

    class Observer:
        def saw_update(self, weights, gradient, updated):
            seen.append(("update", weights.w0.shape, gradient.w1.shape, updated.w2.shape))

        def saw_gate(self, gate, chunk_mask):
            seen.append(("gate", gate.shape, chunk_mask.tolist()))

    unit.observer = Observer()
    mask = torch.tensor([[True, True, False], [True] * 3])
    loss = model(random_images(2, 3, 4), mask).depth.sum()
    unit.observer = None
    loss.backward()
    wide, tall = unit.w0.shape, unit.w1.shape
    assert seen == [("update", wide, (2, *tall), (2, *wide)), ("gate", (2, 3, 4, 6, 16), mask.tolist())]


def test_sequences_do_not_mix():
    unit, tokens = make_unit(), make_tokens(3, 2, 2)
    together = summed_gradient(unit, [chunk_batch(tokens)], 3)
    # The same three as unequal batches in disorder: sequence 2 in two pieces, 0 and 1 in one.
    pieces = [
        chunk_batch(tokens[2:, :1], sequences=(2,)),
        chunk_batch(tokens[:2].flip(0), sequences=(1, 0)),
        chunk_batch(tokens[2:, 1:], sequences=(2,)),
    ]
    assert_weights_close(summed_gradient(unit, pieces, 3), together)
    for row in range(3):
        alone = summed_gradient(unit, [chunk_batch(tokens[row : row + 1])], 1)
        assert_weights_close(FastWeights(*(matrix[row : row + 1] for matrix in together)), alone)


def test_each_sequence_reads_its_own_weights():
    unit, tokens = make_unit(), make_tokens(2, 1, 2)
    rows = [chunk_batch(tokens[row : row + 1], sequences=(row,)) for row in range(2)]
    (together,) = through(unit, [chunk_batch(tokens)], 2)
    apart = through(unit, rows, 2)
    for row in range(2):
        torch.testing.assert_close(apart[row].tokens[0], together.tokens[row], rtol=1e-11, atol=1e-12)


def test_padding_chunks_write_exactly_nothing():
    unit, real = make_unit(), make_tokens(1, 2, 2)
    mask = torch.tensor([[True, False, True]])
    gradients = []
    for seed in (1, 2):
        padding = 5 * make_tokens(1, 1, 2, seed=seed)
        tokens = torch.cat([real[:, :1], padding, real[:, 1:]], dim=1).requires_grad_()
        gradient = unit.chunk_gradient(chunk_batch(tokens, mask=mask))
        sum(matrix.sin().sum() for matrix in gradient).backward()
        assert torch.equal(tokens.grad[:, 1], torch.zeros_like(tokens.grad[:, 1]))
        assert tokens.grad[:, 0, :, NUM_SPECIAL:].abs().min() > 0
        gradients.append(gradient)
    for value, other in zip(*gradients, strict=True):
        assert torch.equal(value, other)
    assert_weights_close(gradients[0], unit.chunk_gradient(chunk_batch(real)))
    only_padding = chunk_batch(real, mask=torch.tensor([[False, False]]))
    assert all(not matrix.any() for matrix in unit.chunk_gradient(only_padding))


def test_special_tokens_neither_write_nor_change():
    unit, tokens = make_unit(), make_tokens(1, 2, 2)
    other = tokens.clone()
    other[..., :NUM_SPECIAL, :] = 7
    for value, same in zip(
        unit.chunk_gradient(chunk_batch(tokens)), unit.chunk_gradient(chunk_batch(other)), strict=True
    ):
        assert torch.equal(value, same)
    (result,) = through(unit, [chunk_batch(tokens)], 1)
    assert torch.equal(result.tokens[..., :NUM_SPECIAL, :], tokens[..., :NUM_SPECIAL, :])
    assert (result.tokens - tokens)[..., NUM_SPECIAL:, :].abs().min() > 0


def test_fewer_patches_than_special_tokens():
    """The release cuts zeros for special tokens out of the patches (docs/numerics.md#departures-from-the-release)."""
    tokens = make_tokens(1, 2, 2, grid=(1, 1))
    (result,) = through(make_unit(), [chunk_batch(tokens, grid=(1, 1))])
    assert result.tokens.shape == tokens.shape


def test_without_rotary_embedding_positions_do_not_matter():
    """The release fails without it; with it a transposed grid is another input."""
    tokens = make_tokens(1, 2, 2)
    for frequency, is_same in ((0, True), (100.0, False)):
        unit = make_unit(rope_frequency=frequency)
        (wide,), (tall,) = (
            through(unit, [chunk_batch(tokens)], 1),
            through(unit, [chunk_batch(tokens, grid=GRID[::-1])], 1),
        )
        assert torch.allclose(wide.tokens, tall.tokens) == is_same


@pytest.mark.parametrize("is_training", [False, True])
def test_the_same_input_twice_gives_the_same_output(is_training):
    """The release keeps fast weights between calls and cannot train (docs/numerics.md#departures-from-the-release)."""
    unit, batch = make_unit().train(is_training), chunk_batch(make_tokens(1, 2, 2))
    before = {name: value.clone() for name, value in unit.state_dict().items()}
    (first,), (second,) = through(unit, [batch], 1), through(unit, [batch], 1)
    assert torch.equal(first.tokens, second.tokens)
    after = unit.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_parameter_learns():
    unit, batch = make_unit().train(), chunk_batch(make_tokens(1, 2, 2))
    through(unit, [batch], 1)[0].tokens.sin().sum().backward()
    for name, parameter in unit.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_the_sum_over_the_context_sees_one_fused_tensor_per_call():
    unit, batch = make_unit(), chunk_batch(make_tokens(2, 2, 2))
    seen = []

    def double(gradient: Tensor) -> StartedSum:
        seen.append(gradient.shape)
        return lambda: 2 * gradient

    alone = summed_gradient(unit, [batch], 2)
    unit.sum_over_context = double
    assert_weights_close(summed_gradient(unit, [batch], 2), FastWeights(*(2 * matrix for matrix in alone)))
    assert seen == [(2, sum(matrix.numel() for matrix in (unit.w0, unit.w1, unit.w2)))]


def test_a_sequence_held_elsewhere_still_takes_part():
    """A process without chunks contributes zeros and makes the same call."""
    unit, shapes = make_unit(), []
    unit.sum_over_context = lambda gradient: shapes.append(gradient.shape) or keep_local(gradient)
    assert through(unit, [], 1) == []
    assert through(unit, [chunk_batch(make_tokens(1, 1, 2), sequences=(1,))], 2)[0].tokens.isfinite().all()
    assert [shape[0] for shape in shapes] == [1, 2]


def test_token_rates_start_at_the_base_rate():
    """softplus(0 + c) = base_lr, c = base_lr + ln(1 - exp(-base_lr)) (docs/numerics.md#memory-gradient)."""
    unit = make_unit(memory_base_lr=0.01)
    with torch.no_grad():
        unit.lrs.weight.zero_()
        unit.lrs.bias.zero_()
    batch = chunk_batch(make_tokens(1, 2, 2))
    rates = unit.token_rates(unit.patch_tokens(batch.tokens), batch.chunk_mask)
    for rate in rates:
        assert rate.shape == (1, 1, 2 * 2 * math.prod(GRID))
        torch.testing.assert_close(rate, torch.full_like(rate, 0.01))


def test_autocast_leaves_the_memory_in_float32():
    unit, batch = make_unit(torch.float32), chunk_batch(make_tokens(1, 2, 2).float())
    plain = through(unit, [batch], 1)[0].tokens
    dtypes = []
    unit.sum_over_context = lambda gradient: dtypes.append(gradient.dtype) or keep_local(gradient)
    with torch.autocast("cpu", torch.bfloat16):
        cast = through(unit, [batch], 1)[0].tokens
    assert dtypes == [torch.float32]
    assert torch.equal(cast, plain)


def test_bfloat16_weights_and_tokens_are_widened():
    unit = make_unit(torch.bfloat16)
    batch = chunk_batch(make_tokens(1, 2, 2).bfloat16())
    (result,) = through(unit, [batch], 1)
    assert result.tokens.dtype == torch.bfloat16
    wide_unit = make_unit(torch.float32)
    wide_unit.load_state_dict({name: value.float() for name, value in unit.state_dict().items()})
    (wide,) = through(wide_unit, [chunk_batch(batch.tokens.float())])
    change = (wide.tokens - batch.tokens.float())[..., NUM_SPECIAL:, :]
    error = (result.tokens.float() - wide.tokens)[..., NUM_SPECIAL:, :]
    assert error.abs().max() <= 2**-8 * wide.tokens.abs().max()  # the rounding of the result alone
    assert change.norm() > 10 * error.norm()


def test_bfloat16_newton_schulz_is_a_setting():
    batch = chunk_batch(make_tokens(1, 2, 2))
    exact, rounded = (
        through(make_unit(newton_schulz_dtype=dtype), [batch])[0].tokens for dtype in ("working", "bfloat16")
    )
    difference = (exact - rounded).norm() / (exact - batch.tokens).norm()
    assert 1e-4 < difference < 0.5


@pytest.mark.parametrize("gate", [0.0, 0.1])
def test_the_initial_memory_adds_its_gate_times_unit_variance(gate):
    """With projection weights zero the output is gate * LayerNorm, so gate 0 is neutral
    (docs/numerics.md#memory-parameters).
    """
    model = Scal3RModel(tiny_config(memory_gate_init=gate))
    unit = model.aggregator.memory_units["3"]
    batch = chunk_batch(make_tokens(1, 2, 2).float())
    change = (through(unit, [batch], 1)[0].tokens - batch.tokens)[..., NUM_SPECIAL:, :]
    spread = change.std(dim=-1, unbiased=False)
    torch.testing.assert_close(spread, torch.full_like(spread, gate), rtol=1e-2, atol=1e-7)
