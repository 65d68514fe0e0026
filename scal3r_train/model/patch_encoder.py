"""From images to patch tokens: a DINOv2 encoder or a single strided convolution (docs/numerics.md#patch-encoder).

Shapes: A frames, N patches (row-major), R register tokens, C channels, H W pixels. The encoder keeps the published
parameter names, so checkpoints do not depend on another library's.

A small patch encoder that sees motion: convolutions plus a local cost volume against the previous frame.

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
from einops import rearrange
from torch import Tensor, nn

from scal3r_train.config import UserError
from scal3r_train.model.block import CheckpointedBlock
from scal3r_train.model.chunk_batch import reference_index
from scal3r_train.model.configuration_scal3r import OWN_PATCH_ENCODERS, Scal3RConfig
from scal3r_train.model.motion_encoder import DirectPatchEncoder
from scal3r_train.plugins import PATCH_ENCODERS, load_plugin

INITIAL_SHARPNESS = 15.0


def local_correlation(features: Tensor, previous: Tensor, radius: int) -> Tensor:
    """Return `<features(x), previous(x + d)> / F` for every |d| <= radius, [A, R, h, w] from two [A, F, h, w].

    Displacements run row-major over (dy, dx); outside of the image the product is zero.
    """
    num_maps, channels, height, width = features.shape
    reach, padded_width = 2 * radius + 1, width + 2 * radius
    # One matrix product per image row against the `reach` rows around it, then the band |dx| <= radius of each.
    rows = F.pad(previous, (radius, radius, radius, radius)).unfold(2, reach, 1)
    rows = rearrange(rows, "a f h w dy -> (a h) f (dy w)")
    products = rearrange(features, "a f h w -> (a h) w f") @ rows
    row_stride, pixel_stride = products.stride()[:2]
    band = products.as_strided(
        (num_maps * height, width, reach, reach), (row_stride, pixel_stride + 1, padded_width, 1)
    )
    planes = rearrange(band, "(a h) w dy dx -> a h w (dy dx)", h=height)
    return rearrange(planes, "a h w d -> a d h w") / channels


def expected_displacement(planes: Tensor, sharpness: Tensor, radius: int) -> Tensor:
    """Return the soft-argmax of correlation planes [A, R, h, w]: dx, dy in units of the radius, [A, 2, h, w]."""
    steps = torch.linspace(-1, 1, 2 * radius + 1, device=planes.device, dtype=planes.dtype)
    displacements = torch.cartesian_prod(steps, steps).flip(-1)
    weights = torch.softmax(sharpness * planes, dim=1)
    return torch.einsum("arhw,rd->adhw", weights, displacements)


def sum_from_reference(motion: Tensor) -> Tensor:
    """Return the sum of each patch's motion from the reference frame to its own, [..., S, N, C], signed."""
    first, later = motion.tensor_split([1], dim=-3)
    since_first = torch.cat([torch.zeros_like(first), later], dim=-3).cumsum(dim=-3)
    reference = reference_index(motion.shape[-3])
    return since_first - since_first[..., reference : reference + 1, :, :]


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
        sequence = rearrange(contrast, "(chunk s) f h w -> chunk s f h w", s=leading[-1])
        previous = torch.cat([sequence[:, :1], sequence[:, :-1]], dim=1)
        previous = rearrange(previous, "chunk s f h w -> (chunk s) f h w")
        planes = local_correlation(contrast, previous, self.radius) * local.shape[1]
        is_first = torch.zeros_like(sequence[:, :, :1])
        is_first[:, 0] = 1
        is_first = rearrange(is_first, "chunk s 1 h w -> (chunk s) 1 h w")
        x = F.gelu(self.mix(torch.cat([local, planes, is_first], dim=1)))
        x = F.gelu(self.pool(x))
        x = x + self.refine(x)
        flow = F.adaptive_avg_pool2d(expected_displacement(planes, self.sharpness, self.radius), x.shape[-2:])
        tokens, flow = (_patch_tokens(maps).unflatten(0, leading) for maps in (x, flow))
        return tokens + sum_from_reference(self.motion(torch.cat([tokens, flow], dim=-1)))


ENCODER_NORM_EPS = 1e-6


class ConvPatchEncoder(nn.Module):
    """One strided convolution per patch; no normalisation, no positions."""

    frames_are_independent = True

    def __init__(self, patch_size: int, dim: int) -> None:
        """Map patch_size x patch_size pixels to `dim` channels."""
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images, [..., S, 3, H, W], to [..., S, N, C]."""
        return _patch_tokens(self.proj(images.flatten(0, -4))).unflatten(0, images.shape[:-3])


class EncoderBlock(CheckpointedBlock):
    """A transformer block with the encoder's settings."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        """Build with LayerScale 1, no qk-norm and the encoder's epsilon."""
        super().__init__(
            dim, num_heads, mlp_ratio, layer_scale_init=1.0, qk_norm=False, norm_eps=ENCODER_NORM_EPS
        )


class DinoPatchEncoder(nn.Module):
    """DINOv2 vision transformer with register tokens; returns the normalised patch tokens."""

    frames_are_independent = True

    def __init__(self, config: Scal3RConfig) -> None:
        """Build the encoder with the sizes of `config`."""
        super().__init__()
        dim = config.hidden_size
        self.grid_size = config.image_size // config.patch_size
        self.antialias = config.encoder_antialias
        self.position_offset = config.encoder_position_offset
        self.num_register_tokens = config.num_register_tokens
        self.patch_embed = ConvPatchEncoder(config.patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_size**2, dim))
        if config.num_register_tokens > 0:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        # Part of the published state dict, never used: frozen, so that no engine waits for its gradient.
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.blocks = nn.ModuleList(
            EncoderBlock(dim, config.encoder_heads, config.mlp_ratio) for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=ENCODER_NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images, [..., S, 3, H, W], to patch tokens [..., S, N, C]."""
        tokens = self.encode(images.flatten(0, -4))
        return tokens[:, 1 + self.num_register_tokens :].unflatten(0, images.shape[:-3])

    def encode(self, images: Tensor) -> Tensor:
        """Return all final tokens of images [A, 3, H, W]: cls, registers, patches, [A, 1 + R + N, C]."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens before the first block, [A, 1 + R + N, C]."""
        patch_size = self.patch_embed.proj.kernel_size[0]
        grid = (images.shape[-2] // patch_size, images.shape[-1] // patch_size)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1)
        x = x + self.positions(*grid).to(x.dtype)
        if self.num_register_tokens == 0:
            return x
        registers = self.register_tokens.expand(len(images), -1, -1)
        return torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)

    def positions(self, grid_height: int, grid_width: int) -> Tensor:
        """Return the positional embedding of cls and a grid of patches, [1, 1 + N, C], resampled when it differs."""
        if grid_height == grid_width == self.grid_size:
            return self.pos_embed
        stored = self.pos_embed.to(torch.promote_types(self.pos_embed.dtype, torch.float32))
        cls, patches = stored[:, :1], stored[:, 1:]
        grid = rearrange(patches, "1 (h w) c -> 1 c h w", h=self.grid_size)
        if self.position_offset > 0:
            scale = [(side + self.position_offset) / self.grid_size for side in (grid_height, grid_width)]
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=self.antialias)
        else:
            grid = F.interpolate(
                grid, size=(grid_height, grid_width), mode="bicubic", antialias=self.antialias
            )
        return torch.cat([cls, _patch_tokens(grid)], dim=1)


def _patch_tokens(maps: Tensor) -> Tensor:
    """Return feature maps [A, C, h, w] as tokens [A, N, C], patches row-major."""
    return rearrange(maps, "a c h w -> a (h w) c")


def build_patch_encoder(config: Scal3RConfig) -> nn.Module:
    """Return the patch encoder that `config.patch_encoder` names.

    One of another package is a class of modules that is built as ours are, with the configuration alone
    (docs/extending/patch_encoder.md).

    Raises:
        UserError: it is of another package, and that cannot be used.
    """
    if config.patch_encoder == "dinov2":
        return DinoPatchEncoder(config)
    if config.patch_encoder == "correlation":
        return CorrelationPatchEncoder(config)
    if config.patch_encoder == "direct":
        return DirectPatchEncoder(config)
    if config.patch_encoder == "conv":
        return ConvPatchEncoder(config.patch_size, config.hidden_size)
    kind = load_plugin(PATCH_ENCODERS, config.patch_encoder, type, OWN_PATCH_ENCODERS)
    if not issubclass(kind, nn.Module) or "frames_are_independent" not in dir(kind):
        raise UserError(
            f"patch encoder '{config.patch_encoder}': {kind.__name__} must be a torch.nn.Module that says "
            f"frames_are_independent = True or False; see {PATCH_ENCODERS.page}"
        )
    return kind(config)
