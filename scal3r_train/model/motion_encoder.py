"""A patch encoder that measures motion: inverse depth of each frame, and the camera motion that explains it.

For small models trained from scratch. A small U-Net states for each cell of a frame how far it moves across the
picture when the camera goes one unit aside, and how far to trust that; and for each chunk a field of view, which is
used where the true one is not given. The rigid motion between neighbours then follows by direct alignment of the
pictures, blurred ever less (geometry/direct_alignment.py), and its chain from the reference frame is where the camera
head starts. No flow is estimated: on a road with little texture no cell knows its own, all together know the camera's.

That sideways movement, focal length / depth, is what a picture shows of a road without its field of view: a line lies
so many image heights below the horizon. Depth itself cannot be told from one picture of unknown field of view, and the
motion of a camera whose field of view is wrong by a fifth is wrong by a fifth in every turn.

Shapes: S frames in temporal order, A frames of all chunks, L blurs (coarse to fine), F channels, h w cells of the
finest level, N patches, C hidden channels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scal3r_train.geometry.camera import focal_from_fov, fov_from_focal, pixel_centres
from scal3r_train.geometry.direct_alignment import (
    AlignmentProblem,
    Comparison,
    align,
    chain_from_reference,
    compare,
    focal_evidence,
)
from scal3r_train.model.chunk_batch import reference_index
from scal3r_train.model.configuration_scal3r import Scal3RConfig

INITIAL_LOG_FOCAL = -0.4  # of the focal length in image widths: 74 degrees across
INITIAL_STEP = 0.035  # forward, in units of length, where the coarsest level starts
INITIAL_LOG_PARALLAX = 0.3  # half a unit away, in image widths a unit
LOG_PARALLAX_LIMIT = 8.0
BLURS = (4.0, 2.0, 1.0)  # of what is compared, in pixels, coarse to fine
ROUNDS = (4, 3, 3)  # of alignment at each blur
POSE_FEATURES = 13
CELL_FEATURES = 9
NORM_GROUPS = 4
PARALLAX_DAMPING = 0.1


class ResidualConv(nn.Module):
    """Two convolutions with normalisation, added to their input."""

    def __init__(self, channels: int) -> None:
        """Keep `channels` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x, [A, channels, h, w]."""
        return x + self.conv2(F.gelu(self.norm(self.conv1(x))))


class Sight(NamedTuple):
    """What pictures show, whatever their field of view is.

    Attributes:
        images: [A, 3, H, W] in float32 or finer.
        hidden: features by level, fine to coarse, [A, F, h, w] and coarser.
        log_parallax: [A, h, w] log of focal length in image widths / depth.
        trust: [A, L, h, w] in (0, 1) for each blur.
        fov: [chunks, S] horizontal field of view that the pictures seem to have, in radians, equal for all of a chunk.
    """

    images: Tensor
    hidden: list[Tensor]
    log_parallax: Tensor
    trust: Tensor
    fov: Tensor


class Measured(NamedTuple):
    """The motion that explains what pictures show, for one field of view.

    Attributes:
        steps: prev_from_cur [A, 3, 4] after each blur, coarse to fine.
        inverse_depth: [A, h, w].
        focal: [A] in pixels.
        problem, comparison: of the last alignment.
        focal_evidence: [chunks, 2] information and pull on the log focal length.
    """

    steps: list[Tensor]
    inverse_depth: Tensor
    focal: Tensor
    problem: AlignmentProblem
    comparison: Comparison
    focal_evidence: Tensor


class DirectPatchEncoder(nn.Module):
    """Inverse depth and trust of every cell, camera motion by direct alignment, pooled to patches.

    The coarsest of `direct_levels` has the patches' grid or a finer one. A chunk's first frame does not move.
    """

    frames_are_independent = False

    def __init__(self, config: Scal3RConfig) -> None:
        """Build with the direct_* sizes of `config`: F channels at the finest level, more at coarser ones."""
        super().__init__()
        dim, self.num_levels, self.stride = (
            config.hidden_size,
            config.direct_levels,
            config.direct_stride,
        )
        widths = [config.direct_channels * (level + 1) for level in range(self.num_levels)]  # fine to coarse
        self.stem = nn.Conv2d(3, widths[0], 2 * self.stride + 1, stride=self.stride, padding=self.stride)
        self.stem_norm = nn.GroupNorm(NORM_GROUPS, widths[0])
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
            for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.encode = nn.ModuleList(ResidualConv(width) for width in widths)
        self.context = nn.Linear(widths[-1], widths[-1])
        self.place = nn.ModuleList(nn.Conv2d(2, width, 1) for width in widths)
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.decode = nn.ModuleList(ResidualConv(width) for width in widths)
        self.trust = nn.Conv2d(widths[0], len(BLURS), 1)
        self.log_parallax = nn.Conv2d(widths[0], 1, 1)
        self.focal = nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.GELU(), nn.Linear(widths[-1], 1))
        pool = config.patch_size // self.stride
        self.pool = nn.Conv2d(widths[0] + CELL_FEATURES, dim, kernel_size=pool, stride=pool)
        pool //= 2 ** (self.num_levels - 1)
        self.pool_coarse = nn.Conv2d(widths[-1], dim, kernel_size=pool, stride=pool)
        self.refine = nn.Conv2d(dim, dim, 3, padding=1)
        self.pose = nn.Sequential(nn.Linear(POSE_FEATURES, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(
        self, images: Tensor, fov: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode normalised images, [..., S, 3, H, W] in temporal order, to tokens [..., S, N, C].

        The other five are the fields of a `MotionEstimate`. `fov` [...] is each chunk's horizontal field of view in
        radians, where it is known.
        """
        leading, num_frames = images.shape[:-3], images.shape[-4]
        sight = self.look(images)
        # The field of view learns from its own loss: alignment would bend it to make up for other errors.
        measured = self.measure(sight, sight.fov[:, 0].detach() if fov is None else fov)
        steps, hidden = measured.steps, sight.hidden
        with torch.autocast(images.device.type, enabled=False):
            poses = self._poses(steps[-1], measured.focal, (images.shape[-2], images.shape[-1]), num_frames)
            cells = _cell_features(measured.problem, measured.comparison)
            per_frame = _pose_features(steps[-1], poses.flatten(0, 1))
        x = torch.cat([hidden[0], cells.to(hidden[0].dtype)], dim=1)
        x = F.gelu(self.pool(x) + self.pool_coarse(hidden[-1]))
        x = x + self.refine(x)
        tokens = x.flatten(2).mT.unflatten(0, leading)
        tokens = tokens + self.pose(per_frame.to(tokens.dtype)).unflatten(0, leading)[..., None, :]
        every_level = torch.stack(steps, dim=1).unflatten(0, leading)
        return (
            tokens,
            poses.reshape(*leading, -1),
            every_level,
            measured.inverse_depth.unflatten(0, leading),
            sight.fov.reshape(leading),
            measured.focal_evidence.reshape(*leading[:-1], 2),
        )

    def look(self, images: Tensor) -> Sight:
        """Return what normalised images, [..., S, 3, H, W] in temporal order, show."""
        num_frames, flat = images.shape[-4], images.flatten(0, -4)
        hidden = self._hidden(self._features(flat))
        log_parallax, trust = self.log_parallax(hidden[0])[:, 0], self.trust(hidden[0])
        log_focal = self.focal(hidden[-1].mean(dim=(-2, -1)))
        with torch.autocast(images.device.type, enabled=False):
            dtype = torch.promote_types(images.dtype, torch.float32)
            log_parallax = LOG_PARALLAX_LIMIT * (log_parallax.to(dtype) / LOG_PARALLAX_LIMIT).tanh()
            of_chunk = log_focal.to(dtype).unflatten(0, (-1, num_frames)).mean(1).exp()
            fov = fov_from_focal(of_chunk).expand(-1, num_frames)
            return Sight(flat.to(dtype), hidden, log_parallax, trust.to(dtype).sigmoid(), fov)

    def measure(self, sight: Sight, fov: Tensor) -> Measured:
        """Return the motion for the horizontal field of view [...] of each chunk, in radians."""
        num_frames = sight.fov.shape[1]
        with torch.autocast(sight.images.device.type, enabled=False):
            used_fov = fov.to(sight.images.dtype).reshape(-1, 1)
            relative_focal = focal_from_fov(used_fov).expand(-1, num_frames).flatten()
            inverse_depth = sight.log_parallax.exp() / relative_focal[:, None, None]
            focal = sight.images.shape[-1] * relative_focal
            steps, problem, seen = self._align(sight.images, inverse_depth, sight.trust, focal, num_frames)
            evidence = torch.stack(focal_evidence(problem, seen, steps[-1]), dim=-1)
            of_chunks = evidence.unflatten(0, (-1, num_frames))[:, 1:].sum(1)
            return Measured(steps, inverse_depth, focal, problem, seen, of_chunks)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the features of images [A, 3, H, W], fine to coarse."""
        x = self.encode[0](F.gelu(self.stem_norm(self.stem(images))))
        levels = [x]
        for down, encode in zip(self.down, list(self.encode)[1:], strict=True):
            x = encode(F.gelu(down(x)))
            levels.append(x)
        return levels

    def _hidden(self, features: list[Tensor]) -> list[Tensor]:
        """Return what each level makes of its features, its place and the coarser level, fine to coarse."""
        hidden: list[Tensor] = []
        for level in reversed(range(self.num_levels)):
            x = features[level]
            x = x + self.place[level](coordinates(x))
            if hidden:
                x = x + resized(self.up[level](hidden[0]), x.shape[-2:])
            else:
                x = x + self.context(x.mean(dim=(-2, -1)))[..., None, None]
            hidden.insert(0, F.gelu(self.decode[level](x)))
        return hidden

    def _align(
        self, images: Tensor, inverse_depth: Tensor, trust: Tensor, focal: Tensor, num_frames: int
    ) -> tuple[list[Tensor], AlignmentProblem, Comparison]:
        """Return prev_from_cur [A, 3, 4] after each blur, coarse to fine, and the comparison after the last."""
        still = torch.eye(3, 4, dtype=focal.dtype, device=focal.device)
        forward = still.new_tensor([0.0, 0.0, INITIAL_STEP])[:, None]
        motion = torch.cat([still[:, :3], forward], dim=-1).expand(len(focal), 3, 4)
        is_first = (torch.arange(len(focal), device=still.device) % num_frames == 0)[:, None, None]
        middles = (
            ...,
            slice(self.stride // 2, None, self.stride),
            slice(self.stride // 2, None, self.stride),
        )
        blurred: list[Tensor] = []
        for sharper, sigma in pairwise((0.0, *reversed(BLURS))):
            images = gaussian_blur(images, math.sqrt(sigma**2 - sharper**2))
            blurred.insert(0, images)
        steps = []
        for level, (maps, num_rounds) in enumerate(zip(blurred, ROUNDS, strict=True)):
            problem = AlignmentProblem(
                maps[middles], previous_frame(maps, num_frames), inverse_depth, trust[:, level], focal
            )
            motion = align(problem, motion, num_rounds)
            steps.append(torch.where(is_first, still, motion))
        maps_with_gradient = problem.previous_with_gradient()
        return steps, problem, compare(problem, problem.rays(), maps_with_gradient, steps[-1])

    def _poses(self, previous: Tensor, focal: Tensor, image_hw: tuple[int, int], num_frames: int) -> Tensor:
        """Return the pose encodings of cam_from_reference, [chunks, S, 9], from prev_from_cur [A, 3, 4]."""
        import roma  # noqa: PLC0415

        chain = chain_from_reference(previous.unflatten(0, (-1, num_frames)), reference_index(num_frames))
        quaternion = roma.rotmat_to_unitquat(chain[..., :3])
        quaternion = torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
        fov = torch.stack([fov_from_focal(focal, side) for side in image_hw], dim=-1)
        return torch.cat([chain[..., 3], quaternion, fov.unflatten(0, (-1, num_frames))], dim=-1)


def _cell_features(problem: AlignmentProblem, seen: Comparison) -> Tensor:
    """Return what patches are told of each cell, [A, 9, h, w], of the order of one.

    Place and how it moved, log inverse depth, the change of it by which this cell alone would agree better and how well
    that is determined, trust, and how much the frame before differs there; the last three but trust are zero where that
    frame did not see it.
    """
    rays = problem.rays()
    along = sum(
        gradient * by_depth[:, None]
        for gradient, by_depth in zip(seen.gradient, seen.parallax.unbind(-1), strict=True)
    )
    assert isinstance(along, Tensor)
    information = along.square().sum(1)
    is_seen = (seen.weight > 0).to(information.dtype)
    change = -(along * seen.difference).sum(1) / (information + PARALLAX_DAMPING) * is_seen
    told = [
        *rays.unbind(-1),
        *(10 * (seen.moved - rays)).clamp(-10, 10).unbind(-1),
        problem.inverse_depth.flatten(1).log() / 2,
        change.clamp(-3, 3),
        torch.log1p(information) / 2 * is_seen,
        problem.trust.flatten(1),
        seen.difference.abs().mean(1) * is_seen,
    ]
    return torch.stack(told, dim=1).unflatten(-1, problem.trust.shape[-2:])


def _pose_features(previous: Tensor, poses: Tensor) -> Tensor:
    """Return what all patches of a frame are told of its camera, [A, 13], of the order of one."""
    skew = previous[..., :3] - previous[..., :3].mT
    turn = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=-1)
    return torch.cat(
        [5 * poses[:, :3], 10 * poses[:, 3:6], 20 * previous[..., 3], 25 * turn, poses[:, 8:9]], dim=-1
    )


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Return maps [A, c, h, w] blurred by a Gaussian of `sigma` cells, borders continued."""
    rows, columns = (_blur_matrix(side, sigma, maps) for side in maps.shape[-2:])
    return rows @ (maps @ columns.mT)


def _blur_matrix(side: int, sigma: float, like: Tensor) -> Tensor:
    """Return [side, side] that blurs a column of cells.

    Mostly zeros, but a product of matrices is many times faster on a CPU than a convolution of single channels.
    """
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    kernel = torch.exp(-(offsets.to(like.dtype) ** 2) / (2 * sigma**2))
    seen = torch.arange(side, device=like.device)[:, None] + offsets
    matrix = like.new_zeros(side, side)
    return matrix.scatter_add_(1, seen.clamp(0, side - 1), (kernel / kernel.sum()).expand(side, -1))


def previous_frame(maps: Tensor, num_frames: int) -> Tensor:
    """Return the maps [A, ...] of the frame before, the chunk's first frame before itself."""
    sequence = maps.unflatten(0, (-1, num_frames))
    return torch.cat([sequence[:, :1], sequence[:, :-1]], dim=1).flatten(0, 1)


def resized(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return maps [A, c, h, w] bilinearly at `size`."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def coordinates(like: Tensor) -> Tensor:
    """Return the cells' centres (x, y) relative to the middle, in halves of the width, [1, 2, h, w]."""
    height, width = like.shape[-2:]
    centres = pixel_centres(height, width, like.dtype, like.device)
    middle = centres.new_tensor([width / 2, height / 2])
    return ((centres - middle) / (width / 2)).movedim(-1, 0)[None]
