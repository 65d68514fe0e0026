"""Direct alignment: the rigid motion between two views that makes their maps agree, by Gauss-Newton.

A cell of the current view on the ray x = (u, v, 1) with inverse depth rho is seen by the previous one at
    lambda x' = R x + rho t,        prev_from_cur = [R | t].
Gauss-Newton minimises sum w |f_prev(x') - f_cur(x)|^2, linearised where the previous view is read: the gradient of its
maps there, and the Jacobian of x' by a small motion after [R | t]. Cells are read at single places of maps at full
resolution, which are smooth enough for that; maps that are subsampled instead lose most of the accuracy
(docs/experiments.md). Everything is differentiable, also to maps and weights, so that they can be learned through the
motion (Lv et al., CVPR 2019).
Shapes: A pairs of views, C maps, H W pixels, h w cells (every cell is stride x stride pixels), N = h w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics, pixel_centres

MIN_Z = 0.05  # of x' before division: what comes nearer to the previous camera's plane is out of its view
RELATIVE_DAMPING, DAMPING = 1e-4, 1e-8  # of each of the six unknowns by itself, and of all alike
MAX_TURN, MAX_STEP = 0.15, 0.1  # of one round: radians, units of length
TINY = 1e-12


@dataclass(frozen=True)
class AlignmentProblem:
    """Views to align.

    Attributes:
        current: [A, C, h, w] maps of the current view at the middles of its cells.
        previous: [A, C, H, W] maps of the previous view.
        inverse_depth: [A, h, w] of the current view.
        trust: [A, h, w] >= 0, how much a cell counts.
        focal: [A] focal length in pixels; the principal point is the middle.
    """

    current: Tensor
    previous: Tensor
    inverse_depth: Tensor
    trust: Tensor
    focal: Tensor

    def rays(self) -> Tensor:
        """Return u, v of the cells' middles, [A, N, 2]."""
        height, width = self.current.shape[-2:]
        full_height, full_width = self.previous.shape[-2:]
        centres = pixel_centres(height, width, self.current.dtype, self.current.device).flatten(0, 1)
        middle = centres.new_tensor([full_width / 2, full_height / 2])
        return (centres * (full_width / width) - middle) / self.focal[:, None, None]

    def previous_with_gradient(self) -> Tensor:
        """Return the previous view's maps and their derivatives by x and y, per pixel, [A, 3 * C, H, W]."""
        padded = F.pad(self.previous, (1, 1, 1, 1), mode="replicate")
        along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
        along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
        return torch.cat([self.previous, along_x, along_y], dim=1)


@dataclass(frozen=True)
class Comparison:
    """How the views compare under a motion.

    Attributes:
        difference: [A, C, N] f_prev(x') - f_cur(x), without its mean over what counts (exposure changes).
        gradient: of f_prev by u' and by v' at x', [A, C, N] each.
        moved: [A, N, 2] u', v'.
        parallax: [A, N, 2] d (u', v') / d log rho.
        inverse_depth: [A, N] of the points, as the previous view has it.
        weight: [A, N] trust where x' lies within the previous view, else 0.
    """

    difference: Tensor
    gradient: tuple[Tensor, Tensor]
    moved: Tensor
    parallax: Tensor
    inverse_depth: Tensor
    weight: Tensor


def align(problem: AlignmentProblem, start: Tensor, num_rounds: int) -> Tensor:
    """Return prev_from_cur [A, 3, 4] after some rounds from `start` [A, 3, 4].

    Cells count by trust, where the previous view sees them, and less with large differences (Cauchy, relative to the
    mean squared difference). A small damping keeps what the pictures do not determine where it is. The gradient is that
    of the last round: where the rounds before have converged, that is how their limit depends on maps, depth and trust,
    but for the Gauss-Newton approximation, and the rounds before cost no backward.
    """
    rays, maps = problem.rays(), problem.previous_with_gradient()
    motion = start.detach()
    with torch.no_grad():
        for _ in range(num_rounds - 1):
            motion = _improved(problem, rays, maps, motion)
    return _improved(problem, rays, maps, motion)


def _improved(problem: AlignmentProblem, rays: Tensor, maps: Tensor, motion: Tensor) -> Tensor:
    """Return prev_from_cur after one round of Gauss-Newton."""
    seen = compare(problem, rays, maps, motion)
    weight = seen.weight * _robust(seen)
    weight = weight / (weight.sum(-1, keepdim=True) + TINY)
    difference = seen.difference - _mean(seen.difference, weight[:, None])
    jacobian = _ray_jacobian(seen.moved, seen.inverse_depth)
    along_x, along_y = seen.gradient
    # What the maps say of a place: the 2 x 2 structure of their gradients, and how the difference pulls.
    xx, xy, yy = ((a * b).sum(1) for a, b in ((along_x, along_x), (along_x, along_y), (along_y, along_y)))
    pull = torch.stack([(along * difference).sum(1) for along in seen.gradient], dim=-1)
    of_u, of_v = jacobian.unbind(-2)
    pushed = torch.stack(
        [xx[..., None] * of_u + xy[..., None] * of_v, xy[..., None] * of_u + yy[..., None] * of_v], dim=-2
    )
    weighted = (jacobian * weight[..., None, None]).flatten(1, 2).mT
    normal = weighted @ pushed.flatten(1, 2)
    right = weighted @ pull.flatten(1, 2)[..., None]
    small = -torch.linalg.solve(_damped(normal), right)[..., 0]
    return compose_extrinsics(_motion(_limited(small)), motion)


def compare(problem: AlignmentProblem, rays: Tensor, maps: Tensor, motion: Tensor) -> Comparison:
    """Compare the views under prev_from_cur [A, 3, 4].

    Args:
        problem: the views.
        rays: `problem.rays()`.
        maps: `problem.previous_with_gradient()`.
        motion: prev_from_cur.
    """
    height, width = problem.previous.shape[-2:]
    num_maps = problem.current.shape[1]
    inverse_depth = problem.inverse_depth.flatten(1)
    point = (
        rays @ motion[:, :, :2].mT + motion[:, None, :, 2] + inverse_depth[..., None] * motion[:, None, :, 3]
    )
    z = point[..., 2].clamp(min=MIN_Z)
    moved = point[..., :2] / z[..., None]
    where = (
        moved * problem.focal[:, None, None] / moved.new_tensor([width / 2, height / 2])
    )  # -1 to 1 in view
    in_view = (where.abs() < 1).all(-1) & (point[..., 2] > MIN_Z)
    # What is no number stays none in `moved`; as a place to read from it would end the process.
    grid = where.clamp(-2, 2).nan_to_num()[:, None]
    read = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, :, 0]
    difference, along_x, along_y = read.split(num_maps, dim=1)
    difference = difference - problem.current.flatten(2)
    weight = problem.trust.flatten(1) * in_view.to(z.dtype)
    difference = difference - _mean(difference, weight[:, None])
    focal = problem.focal[:, None, None]
    translation = motion[:, None, :, 3]
    parallax = (inverse_depth / z)[..., None] * (translation[..., :2] - moved * translation[..., 2:])
    return Comparison(
        difference, (along_x * focal, along_y * focal), moved, parallax, inverse_depth / z, weight
    )


def focal_evidence(problem: AlignmentProblem, seen: Comparison, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each pair of views says of its focal length: information and pull, [A] each.

    Half the squared differences, in units of their variance, as a function of the change d of log focal length are
    information d^2 / 2 - pull d to second order, where the motion follows the change and what cells move sideways for
    a step aside, focal / depth, stays. The sum over the pairs of one camera has its minimum at pull / information.

    Args:
        problem: the views.
        seen: how they compare under `motion`.
        motion: [A, 3, 4] prev_from_cur that aligns them.
    """
    weight = seen.weight * _robust(seen)
    with torch.no_grad():
        squared = seen.difference.square().sum(1)
        variance = (weight * squared).sum(-1) / (seen.difference.shape[1] * weight.sum(-1) + TINY) + TINY
    difference = seen.difference - _mean(seen.difference, weight[:, None])
    # Rays and inverse depth go as 1 / focal, and so does all of the point but the turned axis.
    depth = problem.inverse_depth.flatten(1)
    point = (
        problem.rays() @ motion[:, :, :2].mT
        + motion[:, None, :, 2]
        + depth[..., None] * motion[:, None, :, 3]
    )
    change = motion[:, None, :, 2] - point
    by_focal = seen.moved + (change[..., :2] - seen.moved * change[..., 2:]) / point[..., 2:].clamp(min=MIN_Z)
    jacobian = torch.cat([_ray_jacobian(seen.moved, seen.inverse_depth), by_focal[..., None]], dim=-1)
    along_x, along_y = seen.gradient
    rows = along_x[..., None] * jacobian[:, None, :, 0] + along_y[..., None] * jacobian[:, None, :, 1]
    rows, residual = rows.flatten(1, 2), difference.flatten(1)
    weighted = rows * (weight[:, None].expand_as(difference).flatten(1) / variance[:, None])[..., None]
    normal, right = weighted.mT @ rows, weighted.mT @ residual[..., None]
    of_motion, cross = normal[:, :6, :6], normal[:, :6, 6:]
    followed = torch.linalg.solve(_damped(of_motion), torch.cat([cross, right[:, :6]], dim=-1))
    information = normal[:, 6, 6] - (cross[..., 0] * followed[..., 0]).sum(-1)
    pull = (cross[..., 0] * followed[..., 1]).sum(-1) - right[:, 6, 0]
    return information, pull


def chain_from_reference(prev_from_cur: Tensor, reference: int) -> Tensor:
    """Return cam_from_reference [..., S, 3, 4] from the motion to the frame before, [..., S, 3, 4].

    The first frame's own motion is not used.
    """
    num_frames = prev_from_cur.shape[-3]
    identity = torch.eye(3, 4, dtype=prev_from_cur.dtype, device=prev_from_cur.device)
    first_from_cam = [identity.expand_as(prev_from_cur[..., 0, :, :])]
    for frame in range(1, num_frames):
        first_from_cam.append(compose_extrinsics(first_from_cam[-1], prev_from_cur[..., frame, :, :]))
    stacked = torch.stack(first_from_cam, dim=-3)
    return compose_extrinsics(invert_extrinsics(stacked), stacked[..., reference : reference + 1, :, :])


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean over the last axis, kept."""
    return (weight * values).sum(-1, keepdim=True) / (weight.sum(-1, keepdim=True) + TINY)


@torch.no_grad()
def _robust(seen: Comparison) -> Tensor:
    """Return [A, N], how much less a cell counts with a large difference (Cauchy, relative to the mean square)."""
    squared = seen.difference.square().sum(1)
    return 1 / (1 + squared / (2 * _mean(squared, seen.weight) + TINY))


def _damped(normal: Tensor) -> Tensor:
    """Return the normal matrices [A, 6, 6], damped as RELATIVE_DAMPING and DAMPING say."""
    alone = torch.diag_embed(normal.diagonal(dim1=-2, dim2=-1))
    identity = torch.eye(6, dtype=normal.dtype, device=normal.device)
    return normal + RELATIVE_DAMPING * alone + DAMPING * identity


def _ray_jacobian(rays: Tensor, inverse_depth: Tensor) -> Tensor:
    """Return d (u, v) / d (turn, translation), [A, N, 2, 6], by a small motion of the points of rays [A, N, 2]."""
    u, v = rays.unbind(-1)
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    rho = inverse_depth
    row_u = torch.stack([-u * v, one + u * u, -v, rho, zero, -u * rho], dim=-1)
    row_v = torch.stack([-one - v * v, u * v, u, zero, rho, -v * rho], dim=-1)
    return torch.stack([row_u, row_v], dim=-2)


def _limited(small: Tensor) -> Tensor:
    """Return a small motion [A, 6] whose turn and step are shortened to their limits."""
    limits = ((small[:, :3], MAX_TURN), (small[:, 3:], MAX_STEP))
    shortened = [
        part * limit / part.square().sum(-1, keepdim=True).clamp(min=limit**2).sqrt()
        for part, limit in limits
    ]
    return torch.cat(shortened, dim=-1)


def _motion(small: Tensor) -> Tensor:
    """Return [R | t] of (turn, translation) [A, 6]."""
    import roma  # noqa: PLC0415

    # By a quaternion of the turn's direction: the same as the exponential to second order, and smooth at no turn.
    quaternion = F.normalize(F.pad(small[:, :3] / 2, (0, 1), value=1.0), dim=-1)
    return torch.cat([roma.unitquat_to_rotmat(quaternion), small[:, 3:, None]], dim=-1)
