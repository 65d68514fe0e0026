"""The rigid motion between two views from optical flow and inverse depth, as a differentiable least-squares problem.

A point on the ray x = (u, v, 1) of the current camera with inverse depth rho lies on the ray x' of the previous one if
    lambda x' = R x + rho t,        prev_from_cur = [R | t].
The two equations that remain without lambda are linear in t and, at R = exp(w) R_0 to first order, in the turn w
(Longuet-Higgins and Prazdny, 1980, in its exact form for translation). A few Gauss-Newton rounds solve for both.
Shapes: A pairs of views, N points; rays are given by their first two components.
"""

import torch
from torch import Tensor

DAMPING = 1e-5
TINY = 1e-12


def solve_egomotion(
    rays: Tensor, moved_rays: Tensor, inverse_depth: Tensor, weight: Tensor, num_rounds: int = 3
) -> Tensor:
    """Return prev_from_cur [A, 3, 4] from rays [A, N, 2] here and there, inverse depth and weight >= 0 [A, N].

    The translation is in the unit of 1 / inverse_depth. Damping keeps to no motion what nothing determines. From the
    second round on points with large residuals count less (Cauchy weights of the mean squared residual, without
    gradient).
    """
    import roma  # noqa: PLC0415

    num_pairs = len(rays)
    weight = weight / (weight.sum(-1, keepdim=True) + TINY)
    ones = torch.ones_like(inverse_depth)
    here = torch.cat([rays, ones[..., None]], dim=-1)
    rotation = torch.eye(3, dtype=rays.dtype, device=rays.device).expand(num_pairs, 3, 3)
    translation = rays.new_zeros(num_pairs, 3)
    damping = DAMPING * torch.eye(6, dtype=rays.dtype, device=rays.device)
    trust = torch.ones_like(weight)
    for _ in range(num_rounds):
        x, y, z = (here @ rotation.mT).unbind(-1)
        u, v = moved_rays.unbind(-1)
        zero = torch.zeros_like(x)
        rows_u = torch.stack(
            [u * y, -u * x - z, y, -inverse_depth, zero, u * inverse_depth], dim=-1
        )
        rows_v = torch.stack(
            [v * y + z, -v * x, -x, zero, -inverse_depth, v * inverse_depth], dim=-1
        )
        jacobian = torch.stack([rows_u, rows_v], dim=-2)  # [A, N, 2, 6]
        constant = torch.stack([u * z - x, v * z - y], dim=-1)
        weighted = jacobian * (weight * trust)[..., None, None]
        normal = weighted.flatten(1, 2).mT @ jacobian.flatten(1, 2) + damping
        right = (weighted * constant[..., None]).sum(dim=(1, 2))
        motion = -torch.linalg.solve(normal, right)
        rotation = roma.rotvec_to_rotmat(motion[:, :3]) @ rotation
        translation = motion[:, 3:]
        with torch.no_grad():
            squared = ((jacobian @ motion[:, None, :, None])[..., 0] + constant).square().sum(-1)
            mean = (weight * trust * squared).sum(-1, keepdim=True) / ((weight * trust).sum(-1, keepdim=True) + TINY)
            trust = 1 / (1 + squared / (2 * mean + TINY))
    return torch.cat([rotation, translation[..., None]], dim=-1)


def chain_from_reference(prev_from_cur: Tensor, reference: int) -> Tensor:
    """Return cam_from_reference [..., S, 3, 4] from the motion to the frame before, [..., S, 3, 4].

    The first frame's own motion is not used.
    """
    from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics

    num_frames = prev_from_cur.shape[-3]
    identity = torch.eye(3, 4, dtype=prev_from_cur.dtype, device=prev_from_cur.device)
    first_from_cam = [identity.expand_as(prev_from_cur[..., 0, :, :])]
    for frame in range(1, num_frames):
        first_from_cam.append(compose_extrinsics(first_from_cam[-1], prev_from_cur[..., frame, :, :]))
    stacked = torch.stack(first_from_cam, dim=-3)
    return compose_extrinsics(invert_extrinsics(stacked), stacked[..., reference : reference + 1, :, :])
