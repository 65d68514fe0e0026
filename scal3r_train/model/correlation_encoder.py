"""A small patch encoder that sees motion: convolutions plus a local cost volume against the previous frame.

Per-frame patch tokens of a small network learn no rotation within a few hundred steps. Two things make it easy. The
correlation of local features with the temporally previous frame, and its soft-argmax, make image motion explicit
(the cost volume of optical flow networks, e.g. Dosovitskiy et al., FlowNet, ICCV 2015). And the sum of that motion
over time, counted from the chunk's reference frame, makes the motion since the reference explicit: small motions
add, and attention knows no frame index. For models trained from scratch on small budgets.

Shapes: S frames in temporal order, F feature channels, h w feature pixels, R = (2 radius + 1)^2 displacements.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scal3r_train.model.chunk_batch import reference_index
from scal3r_train.model.configuration_scal3r import Scal3RConfig

INITIAL_SHARPNESS = 15.0


def local_correlation(features: Tensor, previous: Tensor, radius: int) -> Tensor:
    """Return <features(x), previous(x + d)> / F for every |d| <= radius, [A, R, h, w] from two [A, F, h, w].

    Displacements run row-major over (dy, dx); outside of the image the product is zero.
    """
    num_maps, channels, height, width = features.shape
    reach, padded_width = 2 * radius + 1, width + 2 * radius
    # One matrix product per image row against the `reach` rows around it, then the band |dx| <= radius of each.
    rows = F.pad(previous, (radius, radius, radius, radius)).unfold(2, reach, 1)
    rows = rows.permute(0, 2, 1, 4, 3).reshape(num_maps * height, channels, reach * padded_width)
    products = features.permute(0, 2, 3, 1).reshape(num_maps * height, width, channels) @ rows
    row_stride, pixel_stride = products.stride()[:2]
    band = products.as_strided(
        (num_maps * height, width, reach, reach), (row_stride, pixel_stride + 1, padded_width, 1)
    )
    planes = band.reshape(num_maps, height, width, reach * reach).permute(0, 3, 1, 2)
    return planes / channels


class CorrelationPatchEncoder(nn.Module):
    """Local features and their correlation with the temporally previous frame, pooled to patches, summed over time.

    A chunk's first frame is correlated with itself and marked by a flag channel.
    """

    frames_are_independent = False

    def __init__(self, config: Scal3RConfig) -> None:
        """Build with the correlation_* sizes of `config`."""
        super().__init__()
        channels, dim = config.correlation_channels, config.hidden_size
        self.radius = config.correlation_radius
        num_planes = (2 * self.radius + 1) ** 2
        pool = config.patch_size // config.correlation_stride
        self.stem = nn.Conv2d(3, channels, 5, stride=config.correlation_stride // 2, padding=2)
        self.features = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.mix = nn.Conv2d(channels + num_planes + 1, 2 * channels, 1)
        self.pool = nn.Conv2d(2 * channels, dim, kernel_size=pool, stride=pool)
        self.refine = nn.Conv2d(dim, dim, 3, padding=1)
        self.sharpness = nn.Parameter(torch.full((1,), INITIAL_SHARPNESS))
        self.motion = nn.Linear(dim + 2, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images, [..., S, 3, H, W] in temporal order, to [..., S, N, C]."""
        leading = images.shape[:-3]
        local = self.features(F.gelu(self.stem(images.flatten(0, -4))))
        # Centred, so that what all places share does not drown what tells them apart.
        contrast = F.normalize(local - local.mean(dim=(-2, -1), keepdim=True), dim=1)
        sequence = contrast.unflatten(0, (-1, leading[-1]))
        previous = torch.cat([sequence[:, :1], sequence[:, :-1]], dim=1).flatten(0, 1)
        planes = local_correlation(contrast, previous, self.radius) * local.shape[1]
        is_first = torch.zeros_like(sequence[:, :, :1])
        is_first[:, 0] = 1
        x = F.gelu(self.mix(torch.cat([local, planes, is_first.flatten(0, 1)], dim=1)))
        x = F.gelu(self.pool(x))
        x = x + self.refine(x)
        flow = F.adaptive_avg_pool2d(self._expected_displacement(planes), x.shape[-2:])
        tokens, flow = (maps.flatten(2).mT.unflatten(0, leading) for maps in (x, flow))
        return tokens + self._sum_from_reference(self.motion(torch.cat([tokens, flow], dim=-1)))

    def _expected_displacement(self, planes: Tensor) -> Tensor:
        """Return the soft-argmax of correlation planes [A, R, h, w]: dx, dy in units of the radius, [A, 2, h, w]."""
        steps = torch.linspace(-1, 1, 2 * self.radius + 1, device=planes.device, dtype=planes.dtype)
        displacements = torch.cartesian_prod(steps, steps).flip(-1)
        weights = torch.softmax(self.sharpness * planes, dim=1)
        return torch.einsum("arhw,rd->adhw", weights, displacements)

    def _sum_from_reference(self, motion: Tensor) -> Tensor:
        """Return the sum of each patch's motion from the reference frame to its own, [..., S, N, C], signed."""
        first, later = motion.tensor_split([1], dim=-3)
        since_first = torch.cat([torch.zeros_like(first), later], dim=-3).cumsum(dim=-3)
        reference = reference_index(motion.shape[-3])
        return since_first - since_first[..., reference : reference + 1, :, :]
