"""The tangent space of Sim(3): Exp, Log, adjoint and Jacobians, batched and in float64.

A tangent vector is (tau, phi, sigma) [N, 7]: translation, rotation vector (radians) and log scale. As a matrix it is
[[phi^ + sigma I, tau], [0, 0]], and Exp is the matrix exponential: s = e^sigma, R = exp(phi^), t = V tau
(docs/numerics.md#sim3-tangent).
With sigma = 0 everything is SE(3), whose six numbers are the first six.

All coefficients are integrals over v in [0, 1] of smooth functions (V = integral of e^(sigma v) exp(v phi^), ...),
evaluated by Gauss-Legendre quadrature: exact to rounding for angles up to pi and scale factors up to e^5, and
without the cancellations that closed forms have at sigma = 0, theta = 0 or both. Sources: Eade, "Lie groups for 2D and
3D transformations"; Sola et al. 2018 for the meaning of the Jacobians. Shapes: N similarities, Q quadrature nodes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3Batch

_FEW, _MANY = 6, 12  # nodes that are exact to rounding for small and for all arguments
_SMALL = 0.5
_SERIES_BELOW = 1.0  # (x - sin x) / x^3 loses digits to cancellation below


def exp(tangent: Tensor) -> Sim3Batch:
    """Similarities of tangent vectors [N, 7] float64; the inverse of `log` for angles below pi."""
    tau, phi, sigma = tangent[:, :3], tangent[:, 3:6], tangent[:, 6]
    theta = phi.norm(dim=1)
    hat = skew(phi)
    rotation = _polynomial(torch.ones_like(theta), _r1(theta), _r2(theta), hat)
    return Sim3Batch(sigma.exp(), rotation, (_v_matrix(theta, sigma, hat) @ tau[..., None])[..., 0])


def log(sim3: Sim3Batch) -> Tensor:
    """Tangent vectors [N, 7] float64; angles in [0, pi], where at pi either axis may come."""
    phi, sigma = rotation_log(sim3.rotation), sim3.scale.log()
    inverse = _v_inverse(phi.norm(dim=1), sigma, skew(phi))
    tau = (inverse @ sim3.translation[..., None])[..., 0]
    return torch.cat([tau, phi, sigma[:, None]], dim=1)


def rotation_log(rotation: Tensor) -> Tensor:
    """Rotation vectors [N, 3] of rotations [N, 3, 3], of length at most pi.

    By way of the quaternion whose largest component is found first (Shepperd 1978), so half turns are as exact as
    small ones.
    """
    m = rotation
    trace = m.diagonal(dim1=1, dim2=2).sum(1)
    x, y, z = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    xx, yy, zz = (1 - trace + 2 * m[:, i, i] for i in range(3))
    # Four times the outer product of the xyzw quaternion with itself: every row is a multiple of the quaternion.
    outer = torch.stack([xx, xy, xz, x, xy, yy, yz, y, xz, yz, zz, z, x, y, z, 1 + trace], dim=1)
    outer = outer.unflatten(1, (4, 4))
    best = outer.diagonal(dim1=1, dim2=2).argmax(dim=1)
    quaternion_xyzw = outer[torch.arange(len(m)), best]
    quaternion_xyzw = quaternion_xyzw / quaternion_xyzw.norm(dim=1, keepdim=True)
    quaternion_xyzw = torch.where(quaternion_xyzw[:, 3:] < 0, -quaternion_xyzw, quaternion_xyzw)
    vector, w = quaternion_xyzw[:, :3], quaternion_xyzw[:, 3]
    sine = vector.norm(dim=1)
    tiny = sine < 1e-150
    factor = torch.where(tiny, 2.0, 2 * torch.atan2(sine, w) / torch.where(tiny, 1.0, sine))
    return vector * factor[:, None]


def skew(vector: Tensor) -> Tensor:
    """Cross-product matrices [N, 3, 3] of vectors [N, 3]."""
    x, y, z = vector.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).unflatten(-1, (3, 3))


def adjoint(sim3: Sim3Batch) -> Tensor:
    """Ad [N, 7, 7] with T Exp(x) = Exp(Ad(T) x) T."""
    ad = sim3.rotation.new_zeros(len(sim3), 7, 7)
    ad[:, :3, :3] = sim3.scale[:, None, None] * sim3.rotation
    ad[:, :3, 3:6] = skew(sim3.translation) @ sim3.rotation
    ad[:, :3, 6] = -sim3.translation
    ad[:, 3:6, 3:6] = sim3.rotation
    ad[:, 6, 6] = 1
    return ad


def covariance_at_origin(covariances: Tensor, middles: Tensor) -> Tensor:
    """Covariances [N, 7, 7] of errors x of T Exp(x), given those of the same errors about points `middles` [N, 3]."""
    ones, eye = torch.ones_like(middles[:, 0]), torch.eye(3).to(middles).expand(len(middles), 3, 3)
    moved = adjoint(Sim3Batch(ones, eye, middles))
    return moved @ covariances @ moved.transpose(1, 2)


def left_jacobian(tangent: Tensor) -> Tensor:
    """J [N, 7, 7] with Exp(x + d) = Exp(J(x) d) Exp(x) to first order in d."""
    theta, sigma, hat, jacobian = _start(tangent)
    jacobian[:, :3, :3] = _v_matrix(theta, sigma, hat)
    jacobian[:, 3:6, 3:6] = _polynomial(torch.ones_like(theta), _p1(theta), _p2(theta), hat)
    jacobian[:, :3, 3:7] = _translation_coupling(tangent, theta, sigma, hat)
    return jacobian


def left_jacobian_inverse(tangent: Tensor) -> Tensor:
    """The inverse of `left_jacobian`, [N, 7, 7], for angles below 2 pi."""
    theta, sigma, hat, inverse = _start(tangent)
    v_inverse = _v_inverse(theta, sigma, hat)
    rotation_inverse = _inverse_polynomial(torch.ones_like(theta), _p1(theta), _p2(theta), theta, hat)
    coupling = -v_inverse @ _translation_coupling(tangent, theta, sigma, hat)
    inverse[:, :3, :3] = v_inverse
    inverse[:, 3:6, 3:6] = rotation_inverse
    inverse[:, :3, 3:6] = coupling[..., :3] @ rotation_inverse
    inverse[:, :3, 6] = coupling[..., 3]
    return inverse


def right_jacobian(tangent: Tensor) -> Tensor:
    """J [N, 7, 7] with Exp(x + d) = Exp(x) Exp(J(x) d) to first order in d."""
    return left_jacobian(-tangent)


def right_jacobian_inverse(tangent: Tensor) -> Tensor:
    """J^-1 [N, 7, 7] with Log(Exp(x) Exp(d)) = x + J^-1(x) d to first order in d, for angles below 2 pi."""
    return left_jacobian_inverse(-tangent)


def _start(tangent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(angle [N], sigma [N], phi^ [N, 3, 3], a [N, 7, 7] of zeros with the scale's 1)."""
    phi = tangent[:, 3:6]
    jacobian = tangent.new_zeros(len(tangent), 7, 7)
    jacobian[:, 6, 6] = 1
    return phi.norm(dim=1), tangent[:, 6], skew(phi), jacobian


def _translation_coupling(tangent: Tensor, theta: Tensor, sigma: Tensor, hat: Tensor) -> Tensor:
    """The rows of the left Jacobian for tau and its columns for phi and sigma, [N, 3, 4].

    J = integral of Exp(u ad) over u in [0, 1]. Written out by blocks, and with the order of the double integral
    exchanged, the phi block is the sum over powers a, b of c_ab (phi^^a tau)^ phi^^b with
    c_ab = integral of e^(sigma v) r_a(v) (P_b(1) - P_b(v)), where exp(v phi^) = sum of r_a(v) phi^^a and P_b is
    the integral of r_b; the sigma column is -(sum of c_a0 phi^^a) tau.
    """
    v, node_weights = _quadrature(theta, sigma)
    v_theta = v * theta
    weighted = node_weights * torch.exp(v * sigma)
    r = torch.stack([torch.ones_like(v_theta), v * _r1(v_theta), v**2 * _r2(v_theta)])
    p = torch.stack([v.expand_as(v_theta), v**2 * _p1(v_theta), v**3 * _p2(v_theta)])
    p_end = torch.stack([torch.ones_like(theta), _p1(theta), _p2(theta)])[:, None]
    c = torch.einsum("aqn,bqn->nab", weighted * r, p_end - p)
    tau = tangent[:, :3]
    once = torch.linalg.cross(tangent[:, 3:6], tau)
    vectors = torch.stack(
        [tau, once, torch.linalg.cross(tangent[:, 3:6], once)], dim=1
    )  # phi^^a tau, [N, 3, 3]
    mixed = torch.einsum("nab,nax->nbx", c, vectors)
    block = skew(mixed[:, 0]) + (skew(mixed[:, 1]) + skew(mixed[:, 2]) @ hat) @ hat
    return torch.cat([block, -mixed[:, 0, :, None]], dim=2)


def _v_coefficients(theta: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C, A, B), each [N], of V = C I + A phi^ + B phi^^2, the integral of e^(sigma v) exp(v phi^)."""
    v, node_weights = _quadrature(theta, sigma)
    v_theta = v * theta
    weighted = node_weights * torch.exp(v * sigma)
    return weighted.sum(0), (weighted * v * _r1(v_theta)).sum(0), (weighted * v**2 * _r2(v_theta)).sum(0)


def _quadrature(theta: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights, [Q, 1] each, enough for the largest of the arguments."""
    largest = max(theta.abs().max(), sigma.abs().max()) if len(theta) else 0.0
    return _gauss_legendre(_FEW if largest < _SMALL else _MANY)


@cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    nodes, node_weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2)[:, None], torch.from_numpy(node_weights / 2)[:, None]


def _v_matrix(theta: Tensor, sigma: Tensor, hat: Tensor) -> Tensor:
    c, a, b = _v_coefficients(theta, sigma)
    return _polynomial(c, a, b, hat)


def _v_inverse(theta: Tensor, sigma: Tensor, hat: Tensor) -> Tensor:
    return _inverse_polynomial(*_v_coefficients(theta, sigma), theta, hat)


def _inverse_polynomial(c: Tensor, a: Tensor, b: Tensor, theta: Tensor, hat: Tensor) -> Tensor:
    """(C I + A phi^ + B phi^^2)^-1, whose eigenvalues are 1/C along the axis, 1/(C - B theta^2 +- i A theta) across."""
    square = theta**2
    g_square = (c - b * square) ** 2 + a**2 * square
    return _polynomial(1 / c, -a / g_square, (a**2 + b**2 * square - c * b) / (c * g_square), hat)


def _polynomial(c0: Tensor, c1: Tensor, c2: Tensor, hat: Tensor) -> Tensor:
    """c0 I + c1 phi^ + c2 phi^^2 [N, 3, 3]."""
    eye = torch.eye(3, dtype=hat.dtype)
    return c0[:, None, None] * eye + c1[:, None, None] * hat + c2[:, None, None] * (hat @ hat)


def _r1(x: Tensor) -> Tensor:
    """Return sin x / x."""
    return torch.sinc(x / torch.pi)


def _r2(x: Tensor) -> Tensor:
    """(1 - cos x) / x^2."""
    return torch.sinc(x / (2 * torch.pi)) ** 2 / 2


_p1 = _r2  # the integral of sin(v theta) / theta over v up to 1 is (1 - cos theta) / theta^2


def _p2(x: Tensor) -> Tensor:
    """(x - sin x) / x^3."""
    square = x.square()
    series = torch.zeros_like(x)
    for k in range(8, 0, -1):  # 1/3! - x^2/5! + ...: nested, the smallest term first
        series = (1 - series * square) / (2 * k * (2 * k + 1))
    safe = torch.where(square < _SERIES_BELOW, 1.0, square)
    return torch.where(square < _SERIES_BELOW, series, (1 - _r1(x)) / safe)
