"""Fast-weight maths against autograd, finite differences and singular values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.model import fast_weight
from scal3r_train.model.fast_weight import FastWeights, TokenRates

NUM_GROUPS, NUM_HEADS, NUM_TOKENS, DIM, INNER = 2, 3, 11, 4, 6


def problem(seed: int = 0) -> tuple[FastWeights, torch.Tensor, torch.Tensor, TokenRates]:
    """Return weights, keys, values and rates of random values, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = FastWeights(
        normal(NUM_HEADS, DIM, INNER), normal(NUM_HEADS, INNER, DIM), normal(NUM_HEADS, DIM, INNER)
    )
    keys, values = normal(2, NUM_GROUPS, NUM_HEADS, NUM_TOKENS, DIM)
    rates = TokenRates(*normal(3, NUM_GROUPS, NUM_HEADS, NUM_TOKENS).exp())
    return weights, keys, values, rates


def one_head(group: int, head: int) -> tuple[FastWeights, torch.Tensor, torch.Tensor, TokenRates]:
    weights, keys, values, rates = problem()
    return (
        FastWeights(*(w[head] for w in weights)),
        keys[group, head],
        values[group, head],
        TokenRates(*(rate[group, head] for rate in rates)),
    )


def test_gradient_equals_the_autograd_twin_head_by_head():
    gradient = fast_weight.ascent_gradient(*problem())
    for group in range(NUM_GROUPS):
        for head in range(NUM_HEADS):
            reference = fast_weight.ascent_gradient_autograd(*one_head(group, head))
            for value, expected in zip(gradient, reference, strict=True):
                torch.testing.assert_close(value[group, head], expected, rtol=1e-12, atol=1e-12)


def test_gradient_equals_finite_differences_of_the_objective():
    """J_m, the objective with matrix m's rates, changes by <G_m, step> to second order."""
    weights, keys, values, rates = one_head(0, 1)
    gradient = fast_weight.ascent_gradient(weights, keys, values, rates)
    for name in FastWeights._fields:
        direction = torch.randn_like(getattr(weights, name))

        def objective(step: float, name: str = name, direction: torch.Tensor = direction) -> torch.Tensor:
            moved = weights._replace(**{name: getattr(weights, name) + step * direction})
            products = (fast_weight.forward(moved, keys) * values).sum(-1)
            return (getattr(rates, name) * products).sum()

        slope = (objective(1e-5) - objective(-1e-5)) / 2e-5
        torch.testing.assert_close((getattr(gradient, name) * direction).sum(), slope, rtol=1e-8, atol=1e-7)


def test_gradient_equals_torch_func_for_shared_rates():
    """An oracle that shares no code with the reference: the gradient of a loss written token by token."""
    weights, keys, values, _ = one_head(1, 0)
    rates = TokenRates(*(torch.linspace(0.1, 2, NUM_TOKENS, dtype=torch.float64),) * 3)

    def objective(matrices: dict[str, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for rate, key, value in zip(rates.w0, keys, values, strict=True):
            gate = key @ matrices["w0"]
            hidden = gate / (1 + torch.exp(-gate)) * (key @ matrices["w2"])
            total = total + rate * torch.dot(hidden @ matrices["w1"], value)
        return total

    expected = torch.func.grad(objective)(weights._asdict())
    found = fast_weight.ascent_gradient(weights, keys, values, rates)._asdict()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_gradient_is_differentiable_in_all_inputs():
    weights, keys, values, rates = one_head(0, 0)
    inputs = [leaf.clone().requires_grad_() for leaf in (*weights, keys, values, *rates)]

    def gradient(*flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(
            fast_weight.ascent_gradient(FastWeights(*flat[:3]), flat[3], flat[4], TokenRates(*flat[5:]))
        )

    assert torch.autograd.gradcheck(gradient, inputs)


def test_update_is_differentiable():
    weights, keys, values, rates = one_head(0, 0)
    gradient = fast_weight.ascent_gradient(weights, keys, values, rates)
    inputs = [leaf.clone().requires_grad_() for leaf in (*weights, *gradient)]

    def updated(*flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(fast_weight.update(FastWeights(*flat[:3]), FastWeights(*flat[3:]), 3, torch.float64))

    assert torch.autograd.gradcheck(updated, inputs, rtol=1e-3)


def test_a_small_step_along_the_gradient_stores_values_under_their_keys():
    """Sign: weights move so that f(k) points more towards v."""
    weights, keys, values, rates = one_head(0, 0)
    gradient = fast_weight.ascent_gradient(weights, keys, values, rates)
    moved = FastWeights(*(w + 1e-4 * g for w, g in zip(weights, gradient, strict=True)))
    before = (fast_weight.forward(weights, keys) * values).sum()
    assert (fast_weight.forward(moved, keys) * values).sum() > before


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    weakest=st.floats(0.05, 1.0),
    seed=st.integers(0, 10_000),
)
def test_newton_schulz_moves_singular_values_into_the_band(rows, columns, weakest, seed):
    """And keeps the singular vectors: the result is U f(S) V^T of the input's own U and V."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64)).Q
    values = weakest + (1 - weakest) * torch.rand(rank, generator=generator, dtype=torch.float64)
    result = fast_weight.newton_schulz(u * values @ v.mT, 5, torch.float64)
    in_basis = u.mT @ result @ v
    torch.testing.assert_close(in_basis, in_basis.diag().diag(), rtol=0, atol=1e-10)
    assert in_basis.diag().min() >= 0.68
    assert in_basis.diag().max() <= 1.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_newton_schulz_ignores_scale_and_treats_tall_as_transposed(dtype):
    gradient = torch.randn(2, 3, 4, 9)
    result = fast_weight.newton_schulz(gradient, 5, dtype)
    assert result.dtype == gradient.dtype
    # A power of two is exact in every dtype; the 1e-7 beside the norm is what remains.
    torch.testing.assert_close(
        fast_weight.newton_schulz(1024 * gradient, 5, dtype), result, rtol=0, atol=1e-5
    )
    assert torch.equal(fast_weight.newton_schulz(gradient.mT, 5, dtype), result.mT)


def test_newton_schulz_of_nothing_is_nothing():
    """A sequence of padding alone has gradient zero: its weights stay as they are (their norms included)."""
    zero = torch.zeros(1, 4, 6)
    assert torch.equal(fast_weight.newton_schulz(zero, 5, torch.float32), zero)
    weights, *_ = problem()
    same = fast_weight.update(weights, FastWeights(*(torch.zeros_like(w) for w in weights)), 5, torch.float64)
    for weight, value in zip(weights, same, strict=True):
        torch.testing.assert_close(value, weight, rtol=1e-4, atol=0)


def test_update_keeps_column_norms_and_moves_as_specified():
    """Column norms (over the input dimension) stay up to the epsilon of 1e-5 beside the norm."""
    weights, keys, values, rates = problem()
    gradient = fast_weight.ascent_gradient(weights, keys, values, rates)
    updated = fast_weight.update(weights, gradient, 5, torch.float64)
    for weight, step, value in zip(weights, gradient, updated, strict=True):
        assert value.shape == step.shape
        norms = weight.norm(dim=-2).expand(value.norm(dim=-2).shape)
        torch.testing.assert_close(value.norm(dim=-2), norms, rtol=1e-4, atol=0)
        for group in range(NUM_GROUPS):
            for head in range(NUM_HEADS):
                moved = weight[head] + fast_weight.newton_schulz(step[group, head], 5, torch.float64)
                cosines = torch.cosine_similarity(moved, value[group, head], dim=0)
                torch.testing.assert_close(cosines, torch.ones_like(cosines))
