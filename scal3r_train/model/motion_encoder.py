"""A patch encoder that measures motion: a coarse-to-fine cost volume, and the camera motion that explains it.

For small models trained from scratch. One cost volume at one resolution reaches either far or finely; here a pyramid of
features is correlated with the temporally previous frame from coarse to fine, each level with the previous frame warped
by the flow found so far (Sun et al., PWC-Net, CVPR 2018). Beside the flow each cell states an inverse depth and how
far it is to be trusted, each chunk a field of view; the rigid motion between neighbours is the weighted least-squares
solution of these (geometry/egomotion.py), and its chain from the reference frame is where the camera head starts.

Shapes: S frames in temporal order, A frames of all chunks, L levels (coarse to fine), F channels, h w cells of the
finest level, N patches, C hidden channels. Flow is in pixels, from a frame to the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scal3r_train.geometry.camera import pixel_centres
from scal3r_train.geometry.egomotion import chain_from_reference, solve_egomotion
from scal3r_train.model.chunk_batch import reference_index
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.patch_encoder import (
    INITIAL_SHARPNESS,
    expected_displacement,
    local_correlation,
    sum_from_reference,
)

INITIAL_LOG_FOCAL = -0.4  # of the focal length in image widths: 74 degrees across
LOG_INVERSE_DEPTH_LIMIT = 6.0
POSE_FEATURES = 13
FINE_RADIUS = 3
NORM_GROUPS = 4


class ResidualConv(nn.Module):
    """A convolution of normalised channels, added to its input."""

    def __init__(self, channels: int) -> None:
        """Keep `channels` channels."""
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x, [A, channels, h, w]."""
        return x + self.conv2(F.gelu(self.norm(self.conv1(x))))


class LevelUpdate(nn.Module):
    """What a level makes of its features, their correlation and the coarser level: hidden channels and a flow."""

    def __init__(self, in_channels: int, channels: int) -> None:
        """Map in_channels to `channels` hidden ones and a correction of the flow in cells."""
        super().__init__()
        self.mix = nn.Conv2d(in_channels, channels, 1)
        self.norm1, self.norm2 = (nn.GroupNorm(NORM_GROUPS, channels) for _ in range(2))
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.flow = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return hidden channels and correction of x [A, c, h, w]; context [A, channels] is the same everywhere."""
        x = self.mix(x)
        if context is not None:
            x = x + context[..., None, None]
        x = F.gelu(self.norm1(x))
        x = x + self.conv2(F.gelu(self.norm2(self.conv1(x))))
        return x, self.flow(F.gelu(x))


class MotionPatchEncoder(nn.Module):
    """Pyramid features, flow to the previous frame, inverse depth and camera motion, pooled to patches.

    The coarsest level reaches `correlation_radius` cells, the finer ones FINE_RADIUS. A chunk's first frame is correlated
    with itself, marked by a flag channel, and has no flow.
    """

    frames_are_independent = False

    def __init__(self, config: Scal3RConfig) -> None:
        """Build with the correlation_* sizes of `config`."""
        super().__init__()
        channels, dim = config.correlation_channels, config.hidden_size
        self.num_levels, self.stride = config.correlation_levels, config.correlation_stride
        self.radii = [config.correlation_radius, *[FINE_RADIUS] * (self.num_levels - 1)]
        self.stem = nn.Conv2d(
            3, channels, 2 * self.stride + 1, stride=self.stride, padding=self.stride
        )
        self.stem_norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.refine_stem = ResidualConv(channels)
        self.down = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(self.num_levels - 1)
        )
        self.refine_down = nn.ModuleList(ResidualConv(channels) for _ in range(self.num_levels - 1))
        seen = channels + 2 + 2 + 2 + 1  # features, displacement, flow so far, coordinates, first frame
        self.update = nn.ModuleList(
            LevelUpdate(seen + (2 * radius + 1) ** 2 + (channels if level > 0 else 0), channels)
            for level, radius in enumerate(self.radii)
        )
        self.sharpness = nn.Parameter(torch.full((self.num_levels,), INITIAL_SHARPNESS))
        self.context = nn.Linear(channels, channels)
        self.focal = nn.Linear(channels, channels)
        self.focal_out = nn.Linear(channels, 1)
        self.geometry = nn.Conv2d(channels, 2, 1)  # log inverse depth, trust
        pool = config.patch_size // self.stride
        self.pool = nn.Conv2d(channels + 8, dim, kernel_size=pool, stride=pool)
        pool //= 2 ** (self.num_levels - 1)
        self.coarse = nn.Conv2d(channels, dim, kernel_size=pool, stride=pool)
        self.refine = nn.Conv2d(dim, dim, 3, padding=1)
        self.motion = nn.Linear(dim, dim)
        self.pose = nn.Sequential(nn.Linear(POSE_FEATURES, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode normalised images, [..., S, 3, H, W] in temporal order, to tokens [..., S, N, C].

        The other three are the fields of a `MotionEstimate`.
        """
        leading, num_frames = images.shape[:-3], images.shape[-4]
        image_hw = (images.shape[-2], images.shape[-1])
        levels = self._pyramid(images.flatten(0, -4))
        is_first = torch.zeros(num_frames, dtype=torch.bool, device=images.device)
        is_first[0] = True
        is_first = is_first.repeat(len(levels[0]) // num_frames)
        flows, hidden, summary = self._flows(levels, is_first, num_frames, image_hw)
        coarse, fine = hidden[0], hidden[-1]
        log_inverse_depth, trust = self.geometry(fine).unbind(1)
        log_focal = self.focal_out(F.gelu(self.focal(summary)))
        with torch.autocast(images.device.type, enabled=False):
            dtype = torch.promote_types(images.dtype, torch.float32)
            log_inverse_depth, trust, log_focal = (x.to(dtype) for x in (log_inverse_depth, trust, log_focal))
            log_inverse_depth = LOG_INVERSE_DEPTH_LIMIT * (log_inverse_depth / LOG_INVERSE_DEPTH_LIMIT).tanh()
            of_chunk = log_focal.unflatten(0, (-1, num_frames)).mean(1, keepdim=True).expand(-1, num_frames, -1)
            focal = image_hw[1] * of_chunk.flatten(0, 1).exp()  # [A, 1]
            flow = flows[-1].to(dtype)
            previous, seen = self._rigid_motion(flow, log_inverse_depth.exp(), trust.sigmoid(), focal, is_first)
            poses = self._poses(previous, focal, image_hw, num_frames)
            per_frame = self._pose_features(previous, poses.flatten(0, 1))
        x = torch.cat([fine, seen.to(fine.dtype)], dim=1)
        x = F.gelu(self.pool(x) + self.coarse(coarse))
        x = x + self.refine(x)
        tokens = x.flatten(2).mT.unflatten(0, leading)
        tokens = tokens + sum_from_reference(self.motion(tokens))
        tokens = tokens + self.pose(per_frame.to(tokens.dtype)).unflatten(0, leading)[..., None, :]
        size = flow.shape[-2:]
        every_level = torch.stack([resized(level.to(dtype), size) for level in flows], dim=1)
        inverse_depth = log_inverse_depth.exp().unflatten(0, leading)
        return tokens, poses.reshape(*leading, -1), every_level.unflatten(0, leading), inverse_depth

    def updates(self) -> list[LevelUpdate]:
        """Return the updates of all levels, coarse to fine."""
        return [update for update in self.update if isinstance(update, LevelUpdate)]

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the features of images [A, 3, H, W], coarse to fine, [A, F, h, w] each."""
        x = self.refine_stem(F.gelu(self.stem_norm(self.stem(images))))
        levels = [x]
        for down, refine in zip(self.down, self.refine_down, strict=True):
            x = refine(F.gelu(down(x)))
            levels.insert(0, x)
        return levels

    def _flows(
        self, levels: Sequence[Tensor], is_first: Tensor, num_frames: int, image_hw: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return the flow after each level and its hidden channels, and a summary of each frame [A, F]."""
        flows: list[Tensor] = []
        hidden: list[Tensor] = []
        summary = levels[0].new_zeros(0)
        for level, (features, radius) in enumerate(zip(levels, self.radii, strict=True)):
            size = (features.shape[-2], features.shape[-1])
            stride = self.stride * 2 ** (self.num_levels - 1 - level)
            flow = resized(flows[-1], size) if flows else features.new_zeros(len(features), 2, *size)
            # Centred, so that what all places share does not drown what tells them apart.
            contrast = F.normalize(features - features.mean(dim=(-2, -1), keepdim=True), dim=1)
            warped = warp(previous_frame(contrast, num_frames), flow / stride)
            planes = local_correlation(contrast, warped, radius) * features.shape[1]
            step = expected_displacement(planes, self.sharpness[level], radius)
            place = coordinates(size, stride, image_hw, features)
            flag = is_first.to(features.dtype)[:, None, None, None].expand(-1, 1, *size)
            parts = [features, planes, step, flow / image_hw[1], place.expand(len(features), -1, -1, -1), flag]
            if hidden:
                parts.append(resized(hidden[-1], size))
            context = None if hidden else self.context(features.mean(dim=(-2, -1)))
            seen, correction = self.update[level](torch.cat(parts, dim=1), context)
            flow = flow + stride * (radius * step + correction)
            flows.append(flow.masked_fill(is_first[:, None, None, None], 0))
            hidden.append(seen)
            if level == 0:
                summary = seen.mean(dim=(-2, -1))
        return flows, hidden, summary

    def _rigid_motion(
        self, flow: Tensor, inverse_depth: Tensor, trust: Tensor, focal: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return prev_from_cur [A, 3, 4] and what patches are told of each cell, [A, 8, h, w].

        Told are the flow, what of it remains without the camera's turn (parallax), log inverse depth, trust and place.
        """
        size = (flow.shape[-2], flow.shape[-1])
        image_hw = (size[0] * self.stride, size[1] * self.stride)
        place = coordinates(size, self.stride, image_hw, flow)[None] * (image_hw[1] / 2)
        rays, moved = (xy.expand(len(flow), -1, -1, -1).flatten(2).mT / focal[..., None] for xy in (place, place + flow))
        motion = solve_egomotion(rays, moved, inverse_depth.flatten(1), trust.flatten(1))
        still = torch.eye(3, 4, dtype=flow.dtype, device=flow.device)
        motion = torch.where(is_first[:, None, None], still, motion)
        turned = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1) @ motion[..., :3].mT
        parallax = (moved - turned[..., :2] / turned[..., 2:].clamp(min=0.1)) * focal[..., None]
        parallax = parallax.mT.unflatten(-1, size)
        unit = image_hw[1] / 16
        told = [
            flow / unit,
            parallax / unit,
            inverse_depth.log()[:, None] / 2,
            trust[:, None],
            2 * place.expand(len(flow), -1, -1, -1) / image_hw[1],
        ]
        return motion, torch.cat(told, dim=1)

    def _poses(
        self, previous: Tensor, focal: Tensor, image_hw: tuple[int, int], num_frames: int
    ) -> Tensor:
        """Return the pose encodings of cam_from_reference, [chunks, S, 9], from prev_from_cur [A, 3, 4]."""
        import roma  # noqa: PLC0415

        chain = chain_from_reference(previous.unflatten(0, (-1, num_frames)), reference_index(num_frames))
        quaternion = roma.rotmat_to_unitquat(chain[..., :3])
        quaternion = torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
        fov = 2 * torch.atan(torch.cat([image_hw[0] / 2 / focal, image_hw[1] / 2 / focal], dim=-1))
        return torch.cat([chain[..., 3], quaternion, fov.unflatten(0, (-1, num_frames))], dim=-1)

    def _pose_features(self, previous: Tensor, poses: Tensor) -> Tensor:
        """Return what all patches of a frame are told of its camera, [A, 13], of the order of one."""
        skew = previous[..., :3] - previous[..., :3].mT
        turn = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=-1)
        return torch.cat(
            [poses[:, :3], 10 * poses[:, 3:6], 10 * previous[..., 3], 25 * turn, poses[:, 8:9]], dim=-1
        )


def previous_frame(maps: Tensor, num_frames: int) -> Tensor:
    """Return the maps [A, ...] of the frame before, the chunk's first frame before itself."""
    sequence = maps.unflatten(0, (-1, num_frames))
    return torch.cat([sequence[:, :1], sequence[:, :-1]], dim=1).flatten(0, 1)


def resized(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return maps [A, c, h, w] bilinearly at `size`; values keep their unit."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def warp(maps: Tensor, displacement: Tensor) -> Tensor:
    """Return maps(x + d(x)), bilinear, zero outside, of maps [A, c, h, w] and d [A, 2, h, w] (dx, dy) in cells."""
    height, width = maps.shape[-2:]
    centres = pixel_centres(height, width, displacement.dtype, displacement.device)
    where = centres + displacement.movedim(1, -1)
    unit = where.new_tensor([2 / width, 2 / height])
    return F.grid_sample(maps, (where * unit - 1).to(maps.dtype), align_corners=False)


def coordinates(size: tuple[int, int], stride: int, image_hw: tuple[int, int], like: Tensor) -> Tensor:
    """Return the cells' centres (x, y) relative to the image's, in halves of its width, [2, h, w]."""
    centres = pixel_centres(*size, like.dtype, like.device) * stride
    middle = centres.new_tensor([image_hw[1] / 2, image_hw[0] / 2])
    return ((centres - middle) / (image_hw[1] / 2)).movedim(-1, 0)
