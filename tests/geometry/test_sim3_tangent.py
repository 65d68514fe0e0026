"""Exp, Log, adjoint and Jacobians of Sim(3) against scipy's matrix functions and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3Batch

ANGLES = [0.0, 1e-12, 1e-6, 1e-3, 0.3, 0.99, 1.01, 2.0, 3.1, np.pi - 1e-9]
SIGMAS = [0.0, 1e-12, -1e-6, 1e-3, -0.7, 2.0, -3.0]


def tangents() -> Tensor:
    """Every angle with every log scale, random axes and translations."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for angle in ANGLES:
        for sigma in SIGMAS:
            axis = torch.randn(3, generator=generator, dtype=torch.float64)
            tau = 3 * torch.randn(3, generator=generator, dtype=torch.float64)
            rows.append(torch.cat([tau, angle * axis / axis.norm(), torch.tensor([sigma]).double()]))
    return torch.stack(rows)


def matrix_of(tangent: Tensor) -> np.ndarray:
    """The Lie algebra's element as a 4 x 4 matrix."""
    x = tangent.numpy()
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = [[x[6], -x[5], x[4]], [x[5], x[6], -x[3]], [-x[4], x[3], x[6]]]
    matrix[:3, 3] = x[:3]
    return matrix


def little_adjoint(tangent: Tensor) -> np.ndarray:
    """The commutator with an element, column by column from the 4 x 4 matrices."""
    columns = []
    for unit in torch.eye(7, dtype=torch.float64):
        a, b = matrix_of(tangent), matrix_of(unit)
        c = a @ b - b @ a
        columns.append([*c[:3, 3], c[2, 1], c[0, 2], c[1, 0], c[0, 0]])
    return np.array(columns).T


def homogeneous(sim3: Sim3Batch) -> np.ndarray:
    return np.stack([single.matrix().numpy() for single in sim3.unstack()])


def test_exp_is_the_matrix_exponential() -> None:
    x = tangents()
    expected = np.stack([scipy.linalg.expm(matrix_of(row)) for row in x])
    np.testing.assert_allclose(homogeneous(sim3_tangent.exp(x)), expected, rtol=0, atol=2e-13 * 30)


def test_log_is_the_matrix_logarithm() -> None:
    x = tangents()[: 7 * 8]  # scipy's logm is unreliable close to half a turn
    moved = sim3_tangent.exp(x)
    expected = np.stack([scipy.linalg.logm(matrix).real for matrix in homogeneous(moved)])
    got = np.stack([matrix_of(row) for row in sim3_tangent.log(moved)])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_small_and_large_arguments_agree() -> None:
    """Alone, small arguments get fewer quadrature nodes than in the company of large ones."""
    x = tangents()
    small = x[(x[:, 3:6].norm(dim=1) < 0.4) & (x[:, 6].abs() < 0.4)]
    together = torch.cat([small, x[-1:]])
    alone = sim3_tangent.left_jacobian_inverse(small)
    torch.testing.assert_close(alone, sim3_tangent.left_jacobian_inverse(together)[:-1], rtol=0, atol=1e-13)


def test_log_undoes_exp() -> None:
    x = tangents()
    torch.testing.assert_close(sim3_tangent.log(sim3_tangent.exp(x)), x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, -0.8, 0], [0.48, 0.6, -0.64]])
def test_half_turns(axis: list[float]) -> None:
    """At pi the axis has either sign, and Exp of the answer is the rotation again."""
    direction = torch.tensor([axis], dtype=torch.float64)
    rotation = 2 * direction.T @ direction - torch.eye(3, dtype=torch.float64)
    phi = sim3_tangent.rotation_log(rotation[None])
    assert abs(phi.norm().item() - np.pi) < 1e-12
    again = sim3_tangent.exp(torch.cat([torch.zeros(1, 3), phi, torch.zeros(1, 1)], dim=1).double())
    torch.testing.assert_close(again.rotation[0], rotation, rtol=0, atol=1e-12)


def test_adjoint_moves_a_tangent_across() -> None:
    x, d = tangents(), tangents().flip(0) * 0.3
    t = sim3_tangent.exp(x)
    moved = (sim3_tangent.adjoint(t) @ d[..., None])[..., 0]
    left, right = homogeneous(t @ sim3_tangent.exp(d)), homogeneous(sim3_tangent.exp(moved) @ t)
    scale = np.abs(left).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(left / scale, right / scale, rtol=0, atol=1e-10)


def test_left_jacobian_is_the_integral_of_the_adjoint() -> None:
    """Jl = sum of ad^n / (n + 1)!, the top right block of expm([[ad, I], [0, 0]])."""
    x = tangents()
    expected = []
    for row in x:
        big = np.zeros((14, 14))
        big[:7, :7], big[:7, 7:] = little_adjoint(row), np.eye(7)
        expected.append(scipy.linalg.expm(big)[:7, 7:])
    np.testing.assert_allclose(sim3_tangent.left_jacobian(x), np.stack(expected), rtol=0, atol=1e-11)


def test_inverse_jacobians() -> None:
    x = tangents()
    eye = torch.eye(7, dtype=torch.float64).expand(len(x), 7, 7)
    left = sim3_tangent.left_jacobian_inverse(x) @ sim3_tangent.left_jacobian(x)
    right = sim3_tangent.right_jacobian_inverse(x) @ sim3_tangent.right_jacobian(x)
    torch.testing.assert_close(left, eye, rtol=0, atol=1e-9)
    torch.testing.assert_close(right, eye, rtol=0, atol=1e-9)


def test_right_jacobian_inverse_by_finite_differences() -> None:
    x = tangents()
    x = x[x[:, 3:6].norm(dim=1) < 3]  # a step across pi changes the sign of the axis
    jacobian = sim3_tangent.right_jacobian_inverse(x)
    step = 1e-5
    for column, unit in enumerate(torch.eye(7, dtype=torch.float64)):
        small = (step * unit).expand_as(x)
        plus = sim3_tangent.log(sim3_tangent.exp(x) @ sim3_tangent.exp(small))
        minus = sim3_tangent.log(sim3_tangent.exp(x) @ sim3_tangent.exp(-small))
        slope = (plus - minus) / (2 * step)
        torch.testing.assert_close(jacobian[:, :, column], slope, rtol=1e-6, atol=1e-6)
