"""The fast-weight maths of the Adaptive Memory Unit as pure functions.

docs/model.md#the-memory explains it. The numerics: docs/numerics.md#memory-gradient, docs/numerics.md#newton-schulz
and docs/numerics.md#memory-update.

A fast-weight network is f_W(z) = (SiLU(z w0) * (z w2)) w1 per head. Shapes: G groups (sequences or chunks), E heads,
N tokens, D head dimension, M inner dimension. w0, w2 [..., E, D, M]; w1 [..., E, M, D]; keys, values and queries
[..., E, N, D]; token learning rates [..., E, N] per matrix. All leading dimensions broadcast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scal3r_train.model.precision import strict_product

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
COLUMN_NORM_EPS = 1e-5


class FastWeights(NamedTuple):
    """The three matrices of a fast-weight network, or a gradient of the same shapes."""

    w0: Tensor
    w1: Tensor
    w2: Tensor


class TokenRates(NamedTuple):
    """Learning rates of every token for each of the three matrices, [..., E, N] each."""

    w0: Tensor
    w1: Tensor
    w2: Tensor


def summed(gradients: Sequence[FastWeights]) -> FastWeights:
    """Return the sum of at least one gradient, added up in order."""
    return FastWeights(*(sum(same[1:], same[0]) for same in zip(*gradients, strict=True)))


def forward(weights: FastWeights, z: Tensor) -> Tensor:
    """Return f_W(z), [..., E, N, D]."""
    return (F.silu(z @ weights.w0) * (z @ weights.w2)) @ weights.w1


def ascent_gradient(weights: FastWeights, keys: Tensor, values: Tensor, rates: TokenRates) -> FastWeights:
    """Return the gradient of `J = sum_i rate_i <f_W(k_i), v_i>`, with each matrix using its own token rates.

    docs/numerics.md#memory-gradient.

    Following it upwards stores values under their keys. Written out by hand so that it is an ordinary differentiable
    expression (one backward through it, no double backward) and needs one pass over the tokens.
    """
    z = keys @ weights.w0
    u = keys @ weights.w2
    r = values @ weights.w1.mT
    sigmoid = torch.sigmoid(z)
    silu = z * sigmoid
    silu_slope = sigmoid * (1 + z * (1 - sigmoid))
    return FastWeights(
        w0=keys.mT @ (r * u * silu_slope * rates.w0[..., None]),
        w1=(silu * u * rates.w1[..., None]).mT @ values,
        w2=keys.mT @ (r * silu * rates.w2[..., None]),
    )


def ascent_gradient_autograd(
    weights: FastWeights, keys: Tensor, values: Tensor, rates: TokenRates
) -> FastWeights:
    """Plain reference of `ascent_gradient`: autograd of the objective, one matrix at a time; the tests' oracle."""

    def gradient_of(name: str) -> Tensor:
        leaves = FastWeights(*(w.detach().clone().requires_grad_() for w in weights))
        rate = rates._asdict()[name]
        objective = (rate * (forward(leaves, keys) * values).sum(-1)).sum()
        (gradient,) = torch.autograd.grad(objective, leaves._asdict()[name])
        return gradient

    return FastWeights(w0=gradient_of("w0"), w1=gradient_of("w1"), w2=gradient_of("w2"))


def newton_schulz(gradient: Tensor, num_steps: int, dtype: torch.dtype) -> Tensor:
    """Move the singular values of each matrix, [..., R, C], towards 1, keeping its singular vectors.

    docs/numerics.md#newton-schulz.

    The quintic iteration runs in `dtype`, never in TF32, and returns the input's dtype. Singular values end in about
    [0.68, 1.15]; directions weaker than 1e-3 of the Frobenius norm are lifted only partly. The scale of the input is
    irrelevant.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    tall = gradient.shape[-2] > gradient.shape[-1]
    x = (gradient.mT if tall else gradient).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_steps):
        gram = strict_product(x, x.mT)
        x = a * x + strict_product(b * gram + strict_product(c * gram, gram), x)
    return (x.mT if tall else x).to(gradient.dtype)


def update(weights: FastWeights, gradient: FastWeights, num_steps: int, dtype: torch.dtype) -> FastWeights:
    """Return the updated fast weights: add the orthogonalised gradient, then restore each column's norm.

    docs/numerics.md#memory-update.

    There is no step size: the gradient's direction alone acts. Gradient may carry leading group dimensions that the
    weights do not have.
    """

    def updated(weight: Tensor, matrix_gradient: Tensor) -> Tensor:
        moved = weight + newton_schulz(matrix_gradient, num_steps, dtype)
        norm_before = weight.norm(dim=-2, keepdim=True)
        return moved / (moved.norm(dim=-2, keepdim=True) + COLUMN_NORM_EPS) * norm_before

    return FastWeights(*(updated(w, g) for w, g in zip(weights, gradient, strict=True)))
